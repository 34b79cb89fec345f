"""Scenes, captions and renderers: repeatable, well formed, and what they claim to show."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.shapes.render import render, signed_distance
from realcompo.shapes.world import (
    COLOURS,
    KINDS,
    MARGIN,
    NUMBERS,
    OPPOSITE,
    PLACES,
    PLAIN_OFFSET,
    PLURALS,
    SHAPES,
    STYLES,
    WORDS,
    Relation,
    Scene,
    ShapeObject,
    make_caption,
    make_scenes,
    place_of,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_scenes_are_valid_and_repeat_with_their_seed(seed: int) -> None:
    scenes = make_scenes(6, seeded(seed))
    assert scenes == make_scenes(6, seeded(seed))
    for scene in scenes:
        assert 1 <= len(scene.objects) <= 4
        equal = len(scene.objects) - len(set(scene.groups))
        assert (equal > 0) == (scene.kind == "count")
        for number, thing in enumerate(scene.objects):
            x0, y0, x1, y1 = thing.box
            assert MARGIN <= x0 < x1 <= 1 - MARGIN and MARGIN <= y0 < y1 <= 1 - MARGIN
            for other in scene.objects[:number]:
                a, b = thing.box, other.box
                apart = a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]
                assert apart


def test_other_seeds_give_other_scenes() -> None:
    assert make_scenes(8, seeded(1)) != make_scenes(8, seeded(2))


def test_number_of_objects_can_be_chosen_and_is_checked() -> None:
    assert {len(s.objects) for s in make_scenes(20, seeded(3), objects=(3,))} == {3}
    with pytest.raises(ValueError, match="1 to 4"):
        make_scenes(1, seeded(3), objects=(5,))


def test_kinds_come_as_often_as_they_should() -> None:
    scenes = make_scenes(2000, seeded(4), objects=(2, 3, 4))
    seen = Counter(scene.kind for scene in scenes)
    assert set(seen) == set(KINDS)
    for kind, share in KINDS.items():
        # Five standard errors of a share.
        assert seen[kind] / 2000 == pytest.approx(
            share, abs=5 * (share * (1 - share) / 2000) ** 0.5
        )
    assert {s.kind for s in make_scenes(50, seeded(4), objects=(1,))} == {"free"}


def test_kinds_are_what_they_say() -> None:
    for scene in make_scenes(600, seeded(5), objects=(2, 3, 4)):
        a, b = scene.objects[:2]
        if scene.kind == "same shape":
            assert a.shape == b.shape and a.colour != b.colour
        if scene.kind == "same colour":
            assert a.colour == b.colour and a.shape != b.shape
        assert (scene.relation is not None) == (scene.kind == "relation")
        if scene.relation is not None:
            first, second = (
                scene.objects[i] for i in (scene.relation.first, scene.relation.second)
            )
            assert (first.colour, first.shape) != (second.colour, second.shape)
            assert scene.relation.place == place_of(first.box, second.box)
        sizes = Counter(scene.groups)
        assert max(sizes.values()) == 1 or scene.kind == "count"
        if scene.kind == "count":
            assert sorted(sizes.values())[-1] >= 2 and Counter(sizes.values())[1] == len(sizes) - 1


def square(x: float, y: float, half: float = 0.12) -> tuple[float, float, float, float]:
    """A box by its centre."""
    return (x - half, y - half, x + half, y + half)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (0.2, 0.5, "left"),
        (0.8, 0.5, "right"),
        (0.5, 0.2, "above"),
        (0.5, 0.8, "below"),
        (0.2, 0.5 + 0.299 / PLAIN_OFFSET, "left"),
        (0.2, 0.5 + 0.301 / PLAIN_OFFSET, None),
        (0.8, 0.8, None),
    ],
)
def test_place_of(x: float, y: float, place: str | None) -> None:
    there, here = square(x, y), square(0.5, 0.5)
    assert place_of(there, here) == place
    assert place_of(here, there) == (OPPOSITE[place] if place else None)


def test_groups_and_their_phrases() -> None:
    pairs = [("red", "star"), ("blue", "circle"), ("red", "star"), ("orange", "cross")]
    scene = Scene(tuple(ShapeObject(c, s, square(0.5, 0.5)) for c, s in pairs), "count")
    assert scene.groups == (0, 1, 0, 3)
    assert scene.phrases == ("two red stars", "a blue circle", "two red stars", "an orange cross")
    caption = make_caption(scene)
    assert caption.text == "two red stars and a blue circle and an orange cross"
    assert caption.grounded == (-1, 0, 0, -1, -1, 1, 1, -1, -1, 3, 3)
    assert set(PLURALS) <= set(SHAPES) and set(NUMBERS) == {2, 3, 4}


def test_captions_name_every_group_and_point_at_its_words() -> None:
    rng = random.Random(5)
    forms = set()
    for scene in make_scenes(300, seeded(5)):
        caption = make_caption(scene, rng)
        assert set(caption.words) <= set(WORDS)
        for group, phrase in zip(scene.groups, scene.phrases, strict=True):
            spoken = [w for w, g in zip(caption.words, caption.grounded, strict=True) if g == group]
            assert spoken == phrase.split()[1:]
            assert f" {phrase} " in f" {caption.text.replace(',', ' ')} "
        assert set(caption.grounded) - {-1} == set(scene.groups)
        forms.add((", " in caption.text, " and " in caption.text, "picture" in caption.words))
    assert len(forms) >= 6


def test_captions_of_relations_are_true_and_vary() -> None:
    rng = random.Random(6)
    said = Counter()
    for scene in make_scenes(400, seeded(6), objects=(2, 3)):
        if scene.relation is None:
            assert not set(PLACES) & set(make_caption(scene, rng).words)
            continue
        caption = make_caption(scene, rng)
        (at,) = [i for i, word in enumerate(caption.words) if word in PLACES]
        spoken = [g for g in caption.grounded[:at] if g >= 0]
        first, second = spoken[-1], next(g for g in caption.grounded[at:] if g >= 0)
        assert {first, second} == {scene.relation.first, scene.relation.second}
        boxes = scene.objects[first].box, scene.objects[second].box
        assert place_of(*boxes) == caption.words[at]
        joint = caption.words[at - 2 : at] == ("to", "the")
        said[caption.words[at], joint, first == scene.relation.first] += 1
    # Each place, from either side; 'left of' and 'to the left of'.
    assert len(said) == 2 * (2 + 2 + 1 + 1)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("left", "a red star to the left of a blue circle"),
        ("above", "a red star above a blue circle"),
    ],
)
def test_plain_caption_of_a_relation(place: str, told: str) -> None:
    things = (
        ShapeObject("green", "cross", square(0.2, 0.8)),
        ShapeObject("blue", "circle", square(0.7, 0.7)),
        ShapeObject("red", "star", square(0.3, 0.3)),
    )
    scene = Scene(things, "relation", Relation(2, place, 1))
    assert make_caption(scene).text == f"{told} and a green cross"


def test_plain_caption() -> None:
    box = (0.1, 0.1, 0.4, 0.4)
    scene = Scene((ShapeObject("orange", "star", box), ShapeObject("red", "cross", box)))
    assert make_caption(scene).text == "an orange star and a red cross"


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_is_a_distance(shape: str) -> None:
    axis = torch.linspace(-1.6, 1.6, 161)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = signed_distance(shape, x, y)
    inside = distance < 0
    # The shape spans its box: its extreme points touch -1 and 1 within a grid step.
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    for low, high in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert axis[low] == pytest.approx(-1, abs=0.09)
        assert axis[high] == pytest.approx(1, abs=0.09)
    gy, gx = torch.gradient(distance, spacing=float(axis[1] - axis[0]))
    slope = (gx**2 + gy**2).sqrt()
    assert slope.median() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("style", STYLES)
def test_pictures_repeat_with_their_seed_and_differ_without(style: str) -> None:
    scenes = make_scenes(3, seeded(6))
    one, again = (render(scenes, style, seeded(7)) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == (3, 3, 128, 128) and one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, render(scenes, style, seeded(8)))


def test_edges_are_anti_aliased() -> None:
    scene = Scene((ShapeObject("blue", "circle", (0.3, 0.3, 0.7, 0.7)),))
    red = render([scene], "plain", seeded(9))[0, 0]
    between = ((red > 0.2) & (red < 0.85)).sum()
    assert 60 < between < 400


def test_other_sizes_and_unknown_style() -> None:
    scene = make_scenes(1, seeded(10))
    small = render(scene, "plain", seeded(1), size=64)
    large = render(scene, "plain", seeded(1), size=128)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - small).abs().mean() < 0.01
    with pytest.raises(ValueError, match="Unknown style"):
        render(scene, "oil", seeded(1))


def test_colours_are_told_apart() -> None:
    assert len(set(COLOURS)) == 6 and len(set(SHAPES)) == 5


def test_neon_glows_and_its_objects_stay_brighter_than_their_glow() -> None:
    scene = Scene((ShapeObject("green", "circle", square(0.5, 0.5, 0.2)),))
    picture = render([scene], "neon", seeded(11))[0]
    inside, beside, far = picture[:, 64, 64], picture[:, 64, 94], picture[:, 6, 6]
    assert inside[1] > 2 * beside[1] > 2 * far[1]
    assert far.max() < 0.3


def test_sketch_has_dark_outlines_around_hatched_objects() -> None:
    scene = Scene((ShapeObject("red", "square", square(0.5, 0.5, 0.2)),))
    dark = render([scene], "sketch", seeded(12))[0].amax(0) < 0.35
    rows, columns = dark.any(1).nonzero()[:, 0], dark.any(0).nonzero()[:, 0]
    for low, high in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert (int(low), int(high)) == pytest.approx((38, 89), abs=3)
    assert not dark[50:78, 50:78].any()
