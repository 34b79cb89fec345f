"""Boxes, masks, poses and segmentation pictures of any kind: regions or one sentence, nothing else.

A seeded fuzzer: known good values with some part replaced, and values made of nothing in
particular. ``REALCOMPO_FUZZ=20000`` tries that many of each kind in place of ``CASES``.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.boxes import parse_boxes
from realcompo.balancer.layouts.from_masks import regions_from_masks
from realcompo.balancer.layouts.from_pose import openpose_frame, read_bodies, regions_from_pose
from realcompo.balancer.layouts.from_segmentation import LEGEND, PALETTES, regions_from_segmentation

CASES = 1000
COUNT = int(os.environ.get("REALCOMPO_FUZZ", CASES))

ODD: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 3.5, lambda: 10**400,
    lambda: -(2**63), lambda: 1e308, lambda: 1e-308, lambda: float("nan"), lambda: float("inf"),
    lambda: "", lambda: "a star", lambda: "\ud800", lambda: "#2*3:\\", lambda: "[[0,0,1,1]]",
    lambda: "{", lambda: b"\xff", lambda: "\0", lambda: 1j, lambda: object(), lambda: [],
    lambda: {}, lambda: (), lambda: [[]], lambda: {1: 2}, lambda: {"bbox": None}, lambda: {None},
    lambda: torch.zeros(0), lambda: torch.zeros(4), lambda: torch.ones(2, 4).bool(),
    lambda: torch.full((1, 4), float("nan")), lambda: torch.zeros(3, device="meta"),
    lambda: torch.ones(4, dtype=torch.complex64), lambda: torch.tensor(3.0, requires_grad=True),
    lambda: np.array([0, 0, 1, 1], dtype=object), lambda: np.array("a"), lambda: np.float32(7),
    lambda: np.zeros((2, 2, 2)), lambda: SimpleNamespace(bbox=[0, 0, 1, 1]),
    lambda: SimpleNamespace(xyxy=3), lambda: SimpleNamespace(xyxy=[[0, 0, 1, 1]], data=3),
    lambda: float, lambda: range(4), lambda: iter([1]), lambda: [None] * 4, lambda: ["a"] * 4,
]  # fmt: skip

BOXES: list[Any] = [
    [[10, 20, 50, 60]],
    [{"label": "a star", "bbox": [10, 20, 50, 60], "category_id": 3, "area": 5.0}],
    {"boxes": [[10, 20, 50, 60]], "labels": ["a star"], "format": "xywh"},
    {"x": 1, "y": 2, "width": 3, "height": 4},
    {"polygons": [[[10, 20, 50, 30, 20, 60]]], "labels": ["a star"]},
    {"images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cat"}],
     "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
    {"elements": [{"type": "obj", "bbox": [200, 100, 600, 500], "desc": "a star"}]},
    {"regions": [{"phrase": "a star", "box": [0, 0, 1, 1], "weight": 2, "tokens": [1]}]},
    [[64, 64], [SimpleNamespace(bbox=[1, 2, 3, 4], label="a star")]],
    "a star#2*1.5: 0.1 0.2 0.5 0.6\n# a comment\na cat: [0, 0, 1, 1]",
    '[{"bbox_2d": [10, 20, 50, 60], "label": "a star"}]',
]  # fmt: skip
FLAT = [v for n in range(18) for v in (10.0 * n, 5.0 * n, 1.0)]
POSES: list[Any] = [
    [{"people": [{"pose_keypoints_2d": FLAT}], "canvas_width": 200, "canvas_height": 100}],
    {"people": [{"pose_keypoints_2d": [v / 200 for v in FLAT], "face_keypoints_2d": [1, 2, 3]}]},
    [{"image_id": 1, "keypoints": FLAT[:51], "score": 1}],
    {"annotations": [{"image_id": 1, "keypoints": [FLAT[n : n + 3] for n in range(0, 51, 3)]}],
     "images": [{"id": 1, "width": 200, "height": 100}]},
    json.dumps([{"people": [{"pose_keypoints_2d": FLAT}], "canvas_width": 200,
                 "canvas_height": 100}]),
]  # fmt: skip


def odd(source: random.Random, depth: int = 0) -> Any:
    """A value that hardly anybody means."""
    kind = source.random()
    if depth > 4 or kind < 0.7:
        return source.choice(ODD)()
    if kind < 0.85:
        return [odd(source, depth + 1) for _ in range(source.randrange(5))]
    keys = ("bbox", "boxes", "labels", "people", "keypoints", "x", "regions", "polygons", "xyxy")
    return {source.choice(keys): odd(source, depth + 1) for _ in range(source.randrange(4))}


def mutated(source: random.Random, value: Any) -> Any:
    """``value`` with one to three of its parts replaced, left out, doubled or cut."""
    if isinstance(value, str):
        letters = list(value)
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(letters))
            letters[at : at + source.randrange(3)] = source.choice(
                ["", "#", "*", ":", "\\", "[", "1e999", "\ud800", "null", "\n", "9" * 400]
            )
        return "".join(letters)
    value = copy.deepcopy(value)
    for _ in range(source.randrange(1, 4)):
        holder, key = None, None
        item = value
        while isinstance(item, (list, dict)) and item and (holder is None or source.random() < 0.8):
            holder, key = item, source.choice(list(item) if isinstance(item, dict)
                                              else range(len(item)))  # fmt: skip
            item = item[key]
        if holder is None:
            return odd(source)
        if source.random() < 0.7:
            holder[key] = odd(source)
        elif isinstance(holder, list) and source.random() < 0.5:
            holder.append(copy.deepcopy(item))
        else:
            del holder[key]
    return value


def lines(source: random.Random) -> str:
    return source.choice(["", "a star", "a star\na cat", "a #2", "#2", "a: 1 2 3 4", "a\\", "\0",
                          "#ff0000: a star", "person: a#2", "#fff:", "*0", "\ud800"])  # fmt: skip


def boxes(source: random.Random) -> None:
    value = mutated(source, source.choice(BOXES)) if source.random() < 0.7 else odd(source)
    side = source.choice([0, 64, 512])
    parse_boxes(value, lines(source), side, side, lines(source))


def poses(source: random.Random) -> None:
    value = mutated(source, source.choice(POSES)) if source.random() < 0.7 else odd(source)
    size = source.choice([None, (64, 64), (300, 200)])
    bodies = read_bodies(value, source.choice([0, 0, 0, 1, -1]), size=size)
    assert len(openpose_frame(value, 0, size)["people"]) >= len(bodies.poses)
    regions_from_pose(bodies, lines(source), shape=source.choice(["box", "limbs"]))


def masks(source: random.Random) -> None:
    shape = source.choice([(8, 8), (1, 8, 8), (2, 1, 8, 8), (3, 8, 8), (8,), (0, 8), (2, 2, 8, 8)])
    plane = torch.rand(shape, generator=torch.Generator().manual_seed(source.randrange(9)))
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int64,
              torch.complex64, torch.float64)  # fmt: skip
    value = source.choice([
        plane, plane.to(source.choice(dtypes)), plane * source.choice([0.0, 2.0, float("nan")]),
        plane.to("meta"), plane.to_sparse(), [plane, odd(source)], odd(source), plane.numpy(),
    ])  # fmt: skip
    regions_from_masks(value, lines(source), source.choice(["mask", "box"]))


def segmentations(source: random.Random) -> None:
    shape = source.choice([(1, 6, 6, 3), (6, 6, 3), (2, 6, 6, 4), (1, 6, 6, 1), (0, 6, 6, 3)])
    image = torch.zeros(shape)
    image[..., 0] = source.choice([0.0, 1.0, float("nan"), 1e30, -5.0])
    dtypes = (torch.float32, torch.float16, torch.uint8, torch.complex64, torch.bool)
    value = source.choice([image, image.to(source.choice(dtypes)), image.to("meta"), odd(source)])
    regions_from_segmentation(value, lines(source), source=source.choice([LEGEND, *PALETTES]))


@pytest.mark.parametrize("kind", [boxes, poses, masks, segmentations])
@pytest.mark.filterwarnings("ignore")
def test_any_value_gives_regions_or_one_sentence(kind: Callable[[random.Random], None]) -> None:
    good = 0
    for number in range(COUNT):
        source = random.Random(f"{kind.__name__} {number}")
        try:
            kind(source)
            good += 1
        except RealCompoError as error:
            assert error.where and error.problem and error.remedy
        except Exception as error:
            raise AssertionError(f"case {number} of {kind.__name__}: {error!r}") from error
    assert good >= COUNT // 200  # the fuzzer finds its way in, too
