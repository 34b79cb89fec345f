"""Layouts from OpenPose skeletons."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.from_pose import PARTS, limb_masks, read_bodies, regions_from_pose
from realcompo.nodes.layout_converters import RealCompoLayoutFromPose

# A standing figure of 18 points around x = 0, from 0 (nose) to 10 (ankles) units down.
FIGURE = [
    (0, 0.5), (0, 2), (-1, 2), (-1.5, 3.5), (-2, 5), (1, 2), (1.5, 3.5), (2, 5), (-0.6, 5.5),
    (-0.7, 8), (-0.8, 10), (0.6, 5.5), (0.7, 8), (0.8, 10), (-0.2, 0.2), (0.2, 0.2), (-0.5, 0.4),
    (0.5, 0.4),
]  # fmt: skip
UNIT = 40.0


def person(x: float, y: float = 60.0, points: int = 18) -> dict[str, Any]:
    at = [(x + UNIT * px, y + UNIT * py) for px, py in FIGURE]
    if points == 25:
        hip = ((at[8][0] + at[11][0]) / 2, at[8][1])
        feet = [at[13], at[13], at[13], at[10], at[10], at[10]]
        at = [*at[:8], hip, *at[8:18], *feet]
    flat = [v for px, py in at for v in (px, py, 1.0)]
    return {"pose_keypoints_2d": flat, "face_keypoints_2d": None, "hand_left_keypoints_2d": None}


def pose(*people: dict[str, Any], width: int = 800, height: int = 600) -> list[dict[str, Any]]:
    return [{"people": list(people), "canvas_width": width, "canvas_height": height}]


def shares(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pose as older nodes write it: in parts of the canvas."""
    out = copy.deepcopy(value)
    for body in out[0]["people"]:
        flat = body["pose_keypoints_2d"]
        flat[0::3] = [v / out[0]["canvas_width"] for v in flat[0::3]]
        flat[1::3] = [v / out[0]["canvas_height"] for v in flat[1::3]]
    return out


TWO = pose(person(600), person(200))


@pytest.mark.parametrize(
    "value",
    [TWO, TWO[0], json.dumps(TWO), json.dumps(TWO[0]), shares(TWO),
     pose(person(600, points=25), person(200, points=25))],
    ids=["list", "frame", "text", "text of a frame", "shares", "25 points"],
)  # fmt: skip
def test_a_region_for_every_body_from_left_to_right(value: Any) -> None:
    bodies = read_bodies(value)
    regions, _ = regions_from_pose(bodies, "a man\na woman", margin=0.0)
    assert [region.phrase for region in regions] == ["a man", "a woman"]
    # Wrists are 2 units to the sides; eyes are highest, ankles lowest.
    expected = (200 - 80) / 800, (60 + 8) / 600, (200 + 80) / 800, (60 + 400) / 600
    assert regions[0].box == pytest.approx(expected)
    assert regions[1].box == pytest.approx((520 / 800, 68 / 600, 680 / 800, 460 / 600))
    regions, _ = regions_from_pose(bodies, "a man\na woman", order="as detected")
    assert regions[0].box[0] > regions[1].box[0]


def test_the_margin_is_of_the_longer_side_in_pixels_and_stays_inside() -> None:
    regions, _ = regions_from_pose(read_bodies(TWO), "a\nb", margin=0.1)
    air = 0.1 * 392
    expected = ((120 - air) / 800, (68 - air) / 600, (280 + air) / 800, (460 + air) / 600)
    assert regions[0].box == pytest.approx(expected)
    regions, _ = regions_from_pose(read_bodies(pose(person(0, -100))), "a", margin=0.5)
    assert regions[0].box[:2] == (0.0, 0.0)


def test_points_that_were_not_seen_do_not_count() -> None:
    value = copy.deepcopy(TWO)
    flat = value[0]["people"][1]["pose_keypoints_2d"]
    for joint in (4, 7):  # the wrists
        flat[3 * joint : 3 * joint + 3] = [0.0, 0.0, 0.0]
    flat[3 * 10 + 2] = flat[3 * 13 + 2] = 0.05  # the ankles, barely
    regions, _ = regions_from_pose(read_bodies(value), "a\nb", margin=0.0)
    assert regions[0].box == pytest.approx((140 / 800, 68 / 600, 260 / 800, (60 + 320) / 600))
    regions, _ = regions_from_pose(read_bodies(value, confidence=0.01), "a\nb", margin=0.0)
    assert regions[0].box[3] == pytest.approx(460 / 600)


def test_faces_without_a_body_are_nobody() -> None:
    nobody = {"pose_keypoints_2d": None}, {"pose_keypoints_2d": []}, {"pose_keypoints_2d": [0] * 54}
    bodies = read_bodies(pose(*nobody, person(200)))
    assert len(bodies.poses) == 1
    regions, _ = regions_from_pose(bodies, "a dancer")
    assert len(regions) == 1


def test_limbs_lie_along_the_body() -> None:
    bodies = read_bodies(TWO)
    regions, parts = regions_from_pose(bodies, "two dancers", shape="limbs")
    assert parts.shape == (12, 384, 512) and len(PARTS) == 6
    assert all(part.any() for part in parts)
    for region, body in zip(regions, (parts[:6], parts[6:]), strict=True):
        assert region.mask is not None
        assert torch.equal(region.mask.tensor(), body.amax(0))
    at = dict(zip(PARTS, parts[:6], strict=True))
    scale = 512 / 800

    def pixel(joint: int) -> tuple[int, int]:
        x, y = FIGURE[joint]
        return int((60 + UNIT * y) * scale), int((200 + UNIT * x) * scale)

    for name, joint in (("head", 0), ("torso", 1), ("right arm", 3), ("left arm", 6),
                        ("right leg", 9), ("left leg", 12)):  # fmt: skip
        assert at[name][pixel(joint)] == 1, name
    assert at["right arm"][pixel(6)] == 0 and at["left leg"][pixel(9)] == 0
    # The belly, between all four corners of the trunk, belongs to the torso.
    assert at["torso"][int((60 + UNIT * 3.7) * scale), int(200 * scale)] == 1


def test_thicker_limbs_cover_more_and_unseen_parts_nothing() -> None:
    body = read_bodies(TWO).poses[0]
    thin, thick = (limb_masks(body, 200, 150, t).sum() for t in (0.02, 0.1))
    assert thin < thick
    seen = body.seen.copy()
    seen[[5, 6, 7]] = False
    half = limb_masks(type(body)(body.points, seen), 200, 150)
    assert not half[PARTS.index("left arm")].any() and half[PARTS.index("right arm")].any()


def test_several_frames() -> None:
    video = [*pose(person(100)), *pose(person(700))]
    assert read_bodies(video, 1).poses[0].bounds()[0] > 0.5
    with pytest.raises(RealCompoError, match="2 frames"):
        read_bodies(video, 2)


BAD: list[tuple[Any, str]] = [
    ("{", "ends too early"),
    ("[" * 100_000, "levels deep"),
    (None, "no list 'people'"),
    ([], "0 frames"),
    ([{"people": 3}], "no list 'people'"),
    (pose(), "nobody"),
    (pose({"pose_keypoints_2d": [1.0] * 7}), "has 7 numbers.*17 .*18 .*25"),
    (pose({"pose_keypoints_2d": [1.0] * 63}), "has 21 points.*17 .*18 .*25"),
    (pose({"pose_keypoints_2d": ["a"] * 54}), "no number but 'a'"),
    (pose({"pose_keypoints_2d": [float("nan")] * 54}), "nobody"),
    (pose({"pose_keypoints_2d": torch.tensor(3.0)}), "has a float as points"),
    (pose({"pose_keypoints_2d": torch.zeros(54, device="meta")}), "gives no numbers"),
    ([{"people": [person(200)]}], "canvas_width"),
    ([{"people": [person(200)], "canvas_width": 0, "canvas_height": -1}], "canvas_width"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=range(len(BAD)))
def test_poses_that_cannot_be_meant(value: Any, said: str) -> None:
    with pytest.raises(RealCompoError, match=said) as caught:
        RealCompoLayoutFromPose().build(value, "a")
    assert caught.value.where == "pose" and caught.value.node == "RealCompo Layout From Pose"


def test_bodies_outside_the_picture() -> None:
    with pytest.raises(RealCompoError, match="outside the picture"):
        regions_from_pose(read_bodies(pose(person(5000))), "a")


def test_the_node() -> None:
    layout, prompt, limbs = RealCompoLayoutFromPose().build(
        TWO, "a man\na woman", "a man and a woman"
    )
    assert len(layout.regions) == 2 and prompt == "a man and a woman"
    assert (layout.width, layout.height) == (800, 600) and limbs.shape[0] == 12
    with pytest.raises(RealCompoError, match="3 phrases for 2 bodies"):
        RealCompoLayoutFromPose().build(TWO, "a\nb\nc")
    numbers = np.asarray(TWO[0]["people"][0]["pose_keypoints_2d"])
    assert len(read_bodies(pose({"pose_keypoints_2d": numbers})).poses) == 1


# --- files as users have them --------------------------------------------------------------------

# COCO's 17 points out of FIGURE's 18: nose; eyes, ears, shoulders, ..., left before right.
COCO = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


def coco(flat: list[float]) -> list[float]:
    return [v for place in COCO for v in flat[3 * place : 3 * place + 3]]


def test_one_person_in_pixels_and_one_in_shares() -> None:
    mixed = copy.deepcopy(TWO)
    mixed[0]["people"][1] = shares(TWO)[0]["people"][1]
    regions, _ = regions_from_pose(read_bodies(mixed), "a man\na woman", margin=0.0)
    expected, _ = regions_from_pose(read_bodies(TWO), "a man\na woman", margin=0.0)
    for one, other in zip(regions, expected, strict=True):
        assert one.box == pytest.approx(other.box)


@pytest.mark.parametrize("gap", [[None] * 3, [float("nan")] * 3, [0, 0, 0]], ids=str)
def test_a_missing_point_is_no_more_than_that(gap: list[Any]) -> None:
    value = copy.deepcopy(TWO)
    value[0]["people"][1]["pose_keypoints_2d"][12:15] = gap  # the right wrist
    bodies = read_bodies(value)
    assert [int(body.seen.sum()) for body in bodies.poses] == [18, 17]
    assert bodies.poses[1].bounds() == pytest.approx((140 / 800, 68 / 600, 280 / 800, 460 / 600))
    assert len(read_bodies(json.loads(json.dumps(value).replace("NaN", "null"))).poses) == 2


def test_seventeen_points_are_the_same_body() -> None:
    (eighteen,) = read_bodies(pose(person(200))).poses
    flat = coco(person(200)["pose_keypoints_2d"])
    for points in (flat, [flat[n : n + 3] for n in range(0, 51, 3)],
                   [v for n, v in enumerate(flat) if n % 3 != 2]):  # fmt: skip
        (seventeen,) = read_bodies(pose({"pose_keypoints_2d": points})).poses
        assert np.allclose(seventeen.points, eighteen.points)
    flat[3 * 6 + 2] = 0  # without a right shoulder there is no neck
    (body,) = read_bodies(pose({"pose_keypoints_2d": flat})).poses
    assert not body.seen[1] and not body.seen[2] and body.seen[5]


def test_lists_of_people_as_coco_and_alphapose_write_them() -> None:
    flat = coco(person(200)["pose_keypoints_2d"])
    other = coco(person(600)["pose_keypoints_2d"])
    alpha = [{"image_id": "1.jpg", "category_id": 1, "keypoints": flat, "score": 2.9},
             {"image_id": "1.jpg", "category_id": 1, "keypoints": other, "score": 2.0},
             {"image_id": "2.jpg", "category_id": 1, "keypoints": flat, "score": 1.0}]  # fmt: skip
    assert len(read_bodies(json.dumps(alpha), size=(800, 600)).poses) == 2
    assert len(read_bodies(alpha, 1, size=(800, 600)).poses) == 1
    file = {"images": [{"id": 7, "width": 800, "height": 600}], "annotations": [
        {"image_id": 7, "keypoints": flat, "num_keypoints": 17}]}  # fmt: skip
    bodies = read_bodies(file)
    assert (bodies.width, bodies.height) == (800, 600)
    assert np.allclose(bodies.poses[0].points, read_bodies(pose(person(200))).poses[0].points)


@pytest.mark.parametrize("count", [20, 21, 24, 70, 133])
def test_other_point_sets_are_named(count: int) -> None:
    with pytest.raises(RealCompoError, match=f"person 1 has {count} points.*BODY-25"):
        read_bodies(pose({"pose_keypoints_2d": [1.0] * (3 * count)}))


def test_the_pose_node_stands_in_for_a_canvas_and_hands_on_one_unit() -> None:
    from realcompo.nodes.pose import RealCompoPose

    bare = {"version": 1.3, "people": [person(200)]}
    (frame,), _ = RealCompoPose().build(json.dumps(bare), 800, 600)
    assert (frame["canvas_width"], frame["canvas_height"]) == (800, 600)
    with pytest.raises(RealCompoError, match="RealCompo Pose, input 'pose_json': its points reach"):
        RealCompoPose().build(json.dumps(bare), 256, 256)
    mixed = copy.deepcopy(TWO)
    mixed[0]["people"][1] = {**shares(TWO)[0]["people"][1], "face_keypoints_2d": [0.25, 0.5, 1]}
    mixed[0]["people"][0]["pose_keypoints_2d"][0:3] = [None] * 3
    (frame,), _ = RealCompoPose().build(json.dumps(mixed), 800, 600)
    assert frame["people"][0]["pose_keypoints_2d"][:3] == [0, 0, 0]
    assert frame["people"][1]["face_keypoints_2d"] == [200, 300, 1]
    assert np.allclose(
        frame["people"][1]["pose_keypoints_2d"], TWO[0]["people"][1]["pose_keypoints_2d"]
    )
    assert len(read_bodies([frame]).poses) == 2


def test_points_far_away_are_refused_before_they_are_drawn() -> None:
    flat = person(200)["pose_keypoints_2d"]
    with pytest.raises(RealCompoError, match="person 1 has a point 1.25e\\+297 pictures away"):
        read_bodies(pose({"pose_keypoints_2d": [1e300, *flat[1:]]}))
