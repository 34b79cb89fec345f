"""The oracle against pictures whose truth is known: right ones, and every way to be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realcompo.balancer.errors import RealCompoError
from realcompo.shapes import score
from realcompo.shapes.oracle import (
    _components,
    box_iou,
    detect,
    expected_of,
    judge,
    judge_scenes,
    rates,
)
from realcompo.shapes.render import render
from realcompo.shapes.world import COLOURS, SHAPES, Scene, ShapeObject, make_scenes

LEFT, RIGHT = (0.08, 0.3, 0.42, 0.64), (0.56, 0.3, 0.9, 0.64)
SCENE = Scene((ShapeObject("red", "star", LEFT), ShapeObject("blue", "circle", RIGHT)))


def draw(scene: Scene, style: str = "realistic") -> torch.Tensor:
    return render([scene], style, torch.Generator().manual_seed(4))


def verdict(drawn: Scene, asked: Scene):  # type: ignore[no-untyped-def]
    return judge_scenes(draw(drawn), [asked])[0]


@pytest.mark.parametrize(("style", "least"), [("realistic", 0.98), ("plain", 0.98)])
def test_clean_pictures_are_judged_right(style: str, least: float) -> None:
    generator = torch.Generator().manual_seed(71)
    scenes = make_scenes(100, generator)
    got = rates(judge_scenes(render(scenes, style, generator), scenes))
    assert got["right"] >= least and got["count"] >= least and got["iou"] > 0.9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_and_shape_is_told(colour: str, shape: str) -> None:
    scene = Scene((ShapeObject(colour, shape, (0.3, 0.3, 0.62, 0.62)),))
    (found,) = detect(draw(scene))[0]
    assert (found.colour, found.shape) == (colour, shape)


def test_swapped_colours() -> None:
    a, b = SCENE.objects
    got = verdict(Scene((replace(a, colour="blue"), replace(b, colour="red"))), SCENE)
    assert [o.right for o in got.objects] == [False, False]
    assert [o.colour for o in got.objects] == [False, False]
    assert [o.shape for o in got.objects] == [True, True]
    assert got.count and not got.all_right


def test_swapped_places() -> None:
    a, b = SCENE.objects
    got = verdict(Scene((replace(a, box=RIGHT), replace(b, box=LEFT))), SCENE)
    assert not any(o.right or o.colour or o.shape for o in got.objects)
    assert all(o.present for o in got.objects)


def test_moved_object() -> None:
    a, b = SCENE.objects
    got = verdict(Scene((replace(a, box=(0.08, 0.62, 0.42, 0.96)), b)), SCENE)
    assert [o.right for o in got.objects] == [False, True]
    assert got.objects[0].present and got.objects[0].iou < 0.1


def test_missing_and_additional_object() -> None:
    a, b = SCENE.objects
    missing = verdict(Scene((b,)), SCENE)
    assert [o.right for o in missing.objects] == [False, True]
    assert not missing.objects[0].present and not missing.count
    more = Scene((a, b, ShapeObject("green", "cross", (0.35, 0.68, 0.6, 0.93))))
    extra = verdict(more, SCENE)
    assert extra.all_right and not extra.count and len(extra.found) == 3


def test_wrong_shape() -> None:
    a, b = SCENE.objects
    got = verdict(Scene((replace(a, shape="triangle"), b)), SCENE)
    assert got.objects[0].colour and not got.objects[0].shape and not got.objects[0].right


def test_nothing_to_see() -> None:
    for picture in (torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)):
        got = judge_scenes(picture, [SCENE])[0]
        assert got.found == () and not got.all_right and rates([got])["right"] == 0
    assert judge([], []).all_right is False


def test_works_under_inference_mode_and_at_other_sizes() -> None:
    large = torch.nn.functional.interpolate(draw(SCENE), scale_factor=2, mode="bilinear")
    with torch.inference_mode():
        assert judge_scenes(large.clone(), [SCENE])[0].all_right
    assert judge_scenes(large, [SCENE])[0].all_right


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 0.8))
def test_components_equal_a_flood_fill(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < density
    wanted = np.zeros(mask.shape, dtype=int)
    for start in zip(*np.nonzero(mask), strict=True):
        if wanted[start]:
            continue
        name, queue = wanted.max() + 1, [start]
        while queue:
            row, column = queue.pop()
            inside = 0 <= row < 9 and 0 <= column < 11
            if inside and mask[row, column] and not wanted[row, column]:
                wanted[row, column] = name
                queue += [(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    got = _components(mask)
    assert ((got > 0) == mask).all()
    pairs = {(int(a), int(b)) for a, b in zip(got[mask], wanted[mask], strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


def test_box_iou() -> None:
    assert box_iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert box_iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0
    assert box_iou((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)


REGIONS = [
    {"phrase": "a red star", "box": list(LEFT)},
    {"phrase": "the blue circle", "box": list(RIGHT)},
]


def test_score_picture_takes_every_kind_of_picture() -> None:
    picture = draw(SCENE)[0]
    image = Image.fromarray((picture.movedim(0, -1) * 255).byte().numpy())
    for value in (picture, picture.movedim(0, -1)[None], picture.movedim(0, -1).numpy(), image):
        assert score.score_picture(value, REGIONS).all_right
    with pytest.raises(RealCompoError, match="one RGB picture"):
        score.score_picture(torch.zeros(2, 3, 8, 8), REGIONS)


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ({"phrase": "a cat", "box": [0, 0, 1, 1]}, "colour"),
        ({"phrase": "a red star", "box": [0.5, 0, 0.5, 1]}, "no area"),
        ({"phrase": "a red star", "box": None}, "no area"),
    ],
)
def test_bad_regions_are_named(region: dict, told: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(RealCompoError, match=told):
        score.expected_from_regions([region])


def test_score_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout, right, wrong = (tmp_path / n for n in ("layout.json", "right.png", "wrong.png"))
    layout.write_text(json.dumps({"regions": REGIONS}), encoding="utf-8")
    Image.fromarray((draw(SCENE)[0].movedim(0, -1) * 255).byte().numpy()).save(right)
    Image.new("RGB", (128, 128), "white").save(wrong)
    assert score.main([str(right), "--layout", str(layout)]) == 0
    assert "2/2 right" in capsys.readouterr().out
    assert score.main([str(right), str(wrong), "--layout", str(layout), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told[str(right)]["all_right"] is True and told[str(wrong)]["found"] == []
    assert score.main([str(tmp_path / "none.png"), "--layout", str(layout)]) == 2


def test_expected_of_keeps_boxes() -> None:
    assert [e.box for e in expected_of(SCENE)] == [LEFT, RIGHT]
