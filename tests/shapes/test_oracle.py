"""The oracle against pictures whose truth is known: right ones, and every way to be wrong."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import permutations
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
    OBJECT_KEYS,
    OFFSET,
    PICTURE_KEYS,
    Expected,
    Found,
    _assign,
    box_iou,
    detect,
    detect_masks,
    expected_of,
    judge,
    judge_scenes,
    rates,
)
from realcompo.shapes.render import render
from realcompo.shapes.world import (
    COLOURS,
    PLACES,
    SHAPES,
    STYLES,
    Box,
    Relation,
    Scene,
    ShapeObject,
    make_scenes,
)

LEFT, RIGHT = (0.08, 0.3, 0.42, 0.64), (0.56, 0.3, 0.9, 0.64)
SCENE = Scene((ShapeObject("red", "star", LEFT), ShapeObject("blue", "circle", RIGHT)))


def draw(scene: Scene, style: str = "realistic") -> torch.Tensor:
    return render([scene], style, torch.Generator().manual_seed(4))


def verdict(drawn: Scene, asked: Scene):  # type: ignore[no-untyped-def]
    return judge_scenes(draw(drawn), [asked])[0]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_drawings_of_every_style_are_judged_right(style: str, coded: bool) -> None:
    from realcompo.shapes.host_models import load_codec

    generator = torch.Generator().manual_seed(71)
    scenes = make_scenes(100, generator)
    pictures = render(scenes, style, generator)
    if coded:
        codec = load_codec()
        with torch.no_grad():
            pictures = ((codec.decode(codec.encode(pictures * 2 - 1)) + 1) / 2).clamp(0, 1)
    assert sum(scene.relation is not None for scene in scenes) >= 8
    got = rates(judge_scenes(pictures, scenes))
    for key in ("right", "count", "binding", "relation"):
        assert got[key] >= 0.98, (key, got)
    assert got["place"] > 0.85


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


def test_binding_is_the_set_of_pairs_wherever_they_stand() -> None:
    a, b = SCENE.objects
    swapped = (replace(a, colour="blue"), replace(b, colour="red"))
    again = replace(a, box=(0.35, 0.68, 0.6, 0.93))
    table = {
        (a, b): True,
        (replace(a, box=RIGHT), replace(b, box=LEFT)): True,
        (a, b, again): True,
        swapped: False,
        (a,): False,
        (a, b, ShapeObject("green", "cross", again.box)): False,
        (a, replace(b, shape="square")): False,
    }
    for things, wanted in table.items():
        assert verdict(Scene(things), SCENE).binding is wanted, things


def seen(colour: str, shape: str, x: float, y: float, half: float = 0.1) -> Found:
    return Found(colour, shape, (x - half, y - half, x + half, y + half), 1.0)


def wants(*things: Found) -> list[Expected]:
    return [Expected(f.colour, f.shape, f.box) for f in things]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("offset", [-0.3, -OFFSET - 0.01, 0.0, OFFSET - 0.01, OFFSET + 0.01, 0.3])
def test_relation_by_the_sign_of_the_offset(place: str, offset: float) -> None:
    """``offset`` is how far the first lies on the asked side; the other axis must not matter."""
    star = {
        "left": (0.5 - offset, 0.8),
        "right": (0.5 + offset, 0.8),
        "above": (0.8, 0.5 - offset),
        "below": (0.8, 0.5 + offset),
    }[place]
    found = [seen("blue", "circle", 0.5, 0.5), seen("red", "star", *star)]
    asked = wants(seen("red", "star", 0, 0), seen("blue", "circle", 0, 0))
    got = judge(found, asked, Relation(0, place, 1))
    assert got.relation is (offset > OFFSET)
    assert judge(found, asked[::-1], Relation(1, place, 0)).relation is got.relation


def test_relation_needs_both_things_and_takes_the_largest() -> None:
    star, circle = seen("red", "star", 0.2, 0.5), seen("blue", "circle", 0.7, 0.5)
    asked, left = wants(star, circle), Relation(0, "left", 1)
    assert judge([star, circle], asked, left).relation is True
    assert judge([star, circle], asked).relation is None
    assert judge([star], asked, left).relation is False
    assert judge([star, replace(circle, colour="green")], asked, left).relation is False
    assert judge([star, replace(circle, shape="square")], asked, left).relation is False
    # ``found`` is largest first: a small star on the other side changes nothing, a larger one does.
    other = seen("red", "star", 0.9, 0.5, 0.05)
    assert judge([star, circle, other], asked, left).relation is True
    assert judge([other, star, circle], asked, left).relation is False


def test_relation_of_a_picture() -> None:
    a, b = SCENE.objects
    asked = replace(SCENE, kind="relation", relation=Relation(0, "left", 1))
    assert verdict(SCENE, asked).relation is True
    assert verdict(Scene((replace(a, box=RIGHT), replace(b, box=LEFT))), asked).relation is False
    assert verdict(Scene((a,)), asked).relation is False
    assert verdict(SCENE, SCENE).relation is None


THREE = ((0.08, 0.08, 0.36, 0.36), (0.6, 0.1, 0.88, 0.38), (0.3, 0.6, 0.58, 0.88))


def stars(*boxes: Box) -> Scene:
    return Scene(tuple(ShapeObject("blue", "star", box) for box in boxes), "count")


def test_equal_objects_are_matched_one_to_one() -> None:
    asked = stars(*THREE)
    assert verdict(asked, asked).all_right
    two = verdict(stars(THREE[0], THREE[2]), asked)
    assert [o.right for o in two.objects] == [True, False, True]
    assert [o.present for o in two.objects] == [True, False, True]
    assert two.objects[1].iou == 0 and not two.count and two.binding
    one = judge([seen("blue", "star", 0.5, 0.5, 0.5)], expected_of(asked))
    assert sum(o.present for o in one.objects) == 1
    assert sum(o.iou > 0 for o in one.objects) == 1
    assert not any(o.present for o in verdict(Scene(SCENE.objects[:1]), asked).objects)


def test_matching_is_the_best_for_the_group_not_for_the_first() -> None:
    wide = Found("blue", "star", (0.1, 0.1, 0.5, 0.3), 1.0)
    high = Found("blue", "star", (0.0, 0.1, 0.2, 0.3), 1.0)
    # The first box fits ``wide`` better, but the second fits nothing else.
    first, second = (0.1, 0.1, 0.35, 0.3), (0.3, 0.1, 0.5, 0.3)
    assert box_iou(first, wide.box) > box_iou(first, high.box) > 0 == box_iou(second, high.box)
    got = _assign([first, second], [wide, high])
    assert got == [box_iou(first, high.box), box_iou(second, wide.box)]


unit = st.floats(0, 0.9)
some_boxes = st.tuples(unit, unit, st.floats(0.05, 0.5), st.floats(0.05, 0.5)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(some_boxes, min_size=1, max_size=4), st.lists(some_boxes, max_size=6))
def test_assignment_equals_trying_everything(wanted: list[Box], boxes: list[Box]) -> None:
    things = [Found("red", "star", box, 1.0) for box in boxes]
    got = _assign(wanted, things)
    assert sum(v is not None for v in got) == min(len(wanted), len(things))
    slots = [*boxes, *[None] * max(0, len(wanted) - len(boxes))]
    best = max(
        sum(box_iou(w, b) for w, b in zip(wanted, order, strict=True) if b is not None)
        for order in permutations(slots, len(wanted))
    )
    assert sum(v for v in got if v is not None) == pytest.approx(best)


def test_rates_and_means() -> None:
    a, b = SCENE.objects
    related = replace(SCENE, relation=Relation(0, "right", 1))
    scores = [verdict(Scene((a,)), SCENE), verdict(SCENE, related)]
    got, means = rates(scores), [score.means() for score in scores]
    assert set(got) == set(means[0]) == {*OBJECT_KEYS, *PICTURE_KEYS, "relation"}
    assert got["right"] == 0.75 and got["binding"] == got["count"] == got["all_right"] == 0.5
    assert got["place"] == got["iou"] and scores[0].objects[0].place == scores[0].objects[0].iou
    # Only the second picture asks for a relation, and it does not hold there.
    assert got["relation"] == 0 and means[1]["relation"] == 0 and math.isnan(means[0]["relation"])
    assert math.isnan(rates(scores[:1])["relation"])
    assert [m["right"] for m in means] == [0.5, 1.0] and means[0]["binding"] == 0.0
    # Both scenes ask for two objects: pictures' means then average to the rate.
    for key in OBJECT_KEYS:
        assert got[key] == pytest.approx(sum(m[key] for m in means) / 2)
    assert json.loads(json.dumps(asdict(scores[0])))["relation"] is None


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
def test_things_are_what_a_flood_fill_finds_in_its_order(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < density
    cells: list[set[tuple[int, int]]] = []
    for start in zip(*np.nonzero(mask), strict=True):
        if any(start in component for component in cells):
            continue
        component: set[tuple[int, int]] = set()
        queue = [start]
        while queue:
            row, column = queue.pop()
            inside = 0 <= row < 9 and 0 <= column < 11
            if inside and mask[row, column] and (row, column) not in component:
                component.add((row, column))
                queue += [(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        cells.append(component)
    # The largest first; of equally large ones the one that ends first, row by row.
    cells.sort(key=lambda component: (-len(component), max(component)))
    # Cells of 8 pixels outlive the opening.
    red = np.kron(mask, np.ones((8, 8)))
    seen = detect_masks(torch.from_numpy(np.stack((red, 0 * red, 0 * red))[None]))[0]
    assert [{*zip(*np.nonzero(m[::8, ::8].numpy()), strict=True)} for _, m in seen] == cells
    assert all(torch.equal(m[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1), m)
               for _, m in seen)  # fmt: skip


def test_what_fits_nothing_is_given_to_the_first_that_is_left() -> None:
    away = Found("red", "star", (0.9, 0.9, 1.0, 1.0), 1.0)
    near = Found("red", "star", (0.4, 0.4, 0.6, 0.6), 1.0)
    boxes = [(0.0, 0.0, 0.2, 0.2), (0.2, 0.0, 0.4, 0.2), (0.4, 0.4, 0.6, 0.6), (0.0, 0.6, 0.2, 0.8)]
    assert _assign(boxes, [near, away]) == [0.0, None, 1.0, None]
    assert _assign(boxes, [away, near]) == [0.0, None, 1.0, None]


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
