"""Scenes, captions and renderers: repeatable, well formed, and what they claim to show."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realcompo.shapes.render import render, signed_distance
from realcompo.shapes.world import (
    COLOURS,
    MARGIN,
    SHAPES,
    STYLES,
    WORDS,
    Scene,
    ShapeObject,
    make_caption,
    make_scenes,
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
        assert len({(o.colour, o.shape) for o in scene.objects}) == len(scene.objects)
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


def test_hard_scenes_share_a_colour_or_a_shape() -> None:
    scenes = make_scenes(400, seeded(4), objects=(2,))
    shared = [
        s
        for s in scenes
        if s.objects[0].colour == s.objects[1].colour or s.objects[0].shape == s.objects[1].shape
    ]
    # A quarter on purpose, and about 0.75 * (5 + 4) / 29 = .23 of the rest by chance.
    assert 0.33 < len(shared) / len(scenes) < 0.55


def test_captions_name_every_object_and_point_at_its_words() -> None:
    rng = random.Random(5)
    forms = set()
    for scene in make_scenes(200, seeded(5)):
        caption = make_caption(scene, rng)
        assert set(caption.words) <= set(WORDS)
        for index, thing in enumerate(scene.objects):
            spoken = [w for w, g in zip(caption.words, caption.grounded, strict=True) if g == index]
            assert spoken == [thing.colour, thing.shape]
            assert thing.phrase in caption.text
        forms.add((", " in caption.text, " and " in caption.text, "of" in caption.words))
    assert len(forms) >= 6


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
