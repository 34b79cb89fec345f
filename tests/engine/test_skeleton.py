"""Stick figures: the field's colours, in their places, for both numbers of points."""

from __future__ import annotations

import json
import math

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.from_pose import read_bodies
from realcompo.balancer.layouts.skeleton import LIMBS, draw_skeletons, point_colours
from realcompo.nodes.pose import RealCompoPose, example


def test_the_wheel_of_hues() -> None:
    colours = point_colours()
    assert len(colours) == len(set(colours)) == 18
    assert colours[:4] == [(255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0)]
    assert colours[-1] == (255, 0, 85)


def test_dots_and_limbs_stand_where_the_points_are() -> None:
    bodies = read_bodies(example(512))
    picture = draw_skeletons(bodies, 512, 512)
    assert picture.shape == (1, 512, 512, 3)
    colours = torch.tensor(point_colours()) / 255.0
    for pose in bodies.poses:
        for number, (x, y) in enumerate(pose.points * 512):
            assert torch.allclose(picture[0, round(y), round(x)], colours[number])
        for number, (one, other) in enumerate(LIMBS):
            ends = pose.points[[one, other]] * 512
            if math.dist(*ends) < 30:
                continue  # its dots hide it
            x, y = ends.mean(axis=0)
            assert torch.allclose(picture[0, round(y), round(x)], 0.6 * colours[number], atol=2e-3)
    assert float((picture.sum(-1) > 0).float().mean()) < 0.1


def test_points_not_seen_are_left_out() -> None:
    frames = json.loads(example(512))
    frames[0]["people"] = frames[0]["people"][:1]
    whole = draw_skeletons(read_bodies(frames), 256, 256)
    frames[0]["people"][0]["pose_keypoints_2d"][3 * 10 + 2] = 0  # the right ankle
    less = draw_skeletons(read_bodies(frames), 256, 256)
    x, y = (round(v / 2) for v in frames[0]["people"][0]["pose_keypoints_2d"][30:32])
    assert whole[0, y, x].sum() > 0 and less[0, y, x].sum() == 0
    assert torch.equal(whole[0, :150], less[0, :150])


def test_twenty_five_points_draw_the_same_eighteen() -> None:
    frames = json.loads(example(512))
    flat = frames[0]["people"][1]["pose_keypoints_2d"]
    points = [flat[n : n + 3] for n in range(0, 54, 3)]
    wide = [[0.0, 0.0, 0.0] for _ in range(25)]
    places = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    for place, point in zip(places, points, strict=True):
        wide[place] = point
    frames[0]["people"] = [frames[0]["people"][1]]
    eighteen = draw_skeletons(read_bodies(frames), 256, 256)
    frames[0]["people"][0]["pose_keypoints_2d"] = [v for point in wide for v in point]
    assert torch.equal(draw_skeletons(read_bodies(frames), 256, 256), eighteen)


def test_the_node_gives_what_from_pose_takes() -> None:
    frames, picture = RealCompoPose().build(example(), 832, 1216)
    assert picture.shape == (1, 1216, 832, 3)
    assert len(read_bodies(frames).poses) == 2
    with pytest.raises(RealCompoError, match=r"RealCompo Pose.*pose_json.*ends too early"):
        RealCompoPose().build("[", 64, 64)
