"""Layouts from masks and segmentation pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.from_masks import assign_phrases, regions_from_masks
from realcompo.balancer.layouts.from_segmentation import (
    LEGEND,
    PALETTES,
    palette,
    read_legend,
    regions_from_segmentation,
)
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.nodes.layout_converters import (
    RealCompoLayoutFromMasks,
    RealCompoLayoutFromSegmentation,
)

ADE, COCO = PALETTES


def block(y0: int, y1: int, x0: int, x1: int, height: int = 8, width: int = 10) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[y0:y1, x0:x1] = 1.0
    return mask


LEFT, RIGHT = block(2, 6, 0, 4), block(0, 8, 5, 10)


@pytest.mark.parametrize(
    "masks",
    [
        torch.stack([LEFT, RIGHT]),
        [LEFT, RIGHT],
        [LEFT[None], RIGHT[None]],
        [torch.stack([LEFT, RIGHT])],
        (LEFT[None, None], RIGHT.bool()),
        [LEFT, block(0, 16, 10, 20, 16, 20)],
    ],
    ids=range(6),
)
def test_ways_to_hand_over_two_masks(masks: Any) -> None:
    star, circle = regions_from_masks(masks, "a red star\na blue circle*2")
    assert (star.phrase, circle.phrase, circle.weight) == ("a red star", "a blue circle", 2.0)
    assert star.box == (0.0, 0.25, 0.4, 0.75) and circle.box == (0.5, 0.0, 1.0, 1.0)
    assert star.mask is not None and torch.equal(star.mask.tensor(), LEFT)


def test_masks_of_detectors_are_read_as_others_are() -> None:
    """Bytes count in 255ths, and a batch of none is nothing, here as for Dense Captions."""
    bytes_ = (LEFT * 255).to(torch.uint8)
    (star,) = regions_from_masks([torch.zeros(0, 8, 10), bytes_], "a red star")
    assert star.mask is not None and torch.equal(star.mask.tensor(), LEFT)
    halves = (LEFT * 128).to(torch.uint8)
    (half,) = regions_from_masks(halves, "a red star")
    assert half.mask is not None and half.mask.data == halves.numpy().tobytes()
    with pytest.raises(RealCompoError, match="there is no mask"):
        regions_from_masks(torch.zeros(0, 8, 10), "a red star")


def test_only_the_box_if_asked_for() -> None:
    (region,) = regions_from_masks(LEFT, "x", keep="box")
    assert region == Region("x", (0.0, 0.25, 0.4, 0.75))


def test_one_line_goes_to_all_and_other_numbers_are_refused() -> None:
    assert [line.phrase for line in assign_phrases("two dogs", 2, "masks")] == ["two dogs"] * 2
    for text, found in (("a\nb\nc", "3 phrases for 2 masks"), ("", "0 phrases"),
                        ("# only\n# comments", "0 phrases")):  # fmt: skip
        with pytest.raises(RealCompoError, match=found) as caught:
            assign_phrases(text, 2, "masks")
        assert caught.value.where == "phrases"
    with pytest.raises(RealCompoError, match="holds a box"):
        assign_phrases("a: 0 0 1 1", 1, "masks")


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([], "no mask"),
        ("mask", "a mask is str"),
        ([None], "NoneType"),
        (torch.zeros(3), "a mask is"),
        (torch.zeros(1, 8, 8, 3), "shape"),
        (torch.zeros(8, 8), "mask 1 \\('x'\\): a mask is empty"),
        (torch.full((8, 8), float("nan")), "mask 1 .* outside 0..1"),
        (torch.full((8, 8), 2.0), "outside 0..1"),
    ],
)
def test_what_is_no_mask(masks: Any, said: str) -> None:
    with pytest.raises(RealCompoError, match=said) as caught:
        regions_from_masks(masks, "x")
    assert caught.value.where == "masks"


def test_the_mask_node_takes_lists_and_adds_to_a_layout() -> None:
    before = Layout((Region("a cat", (0, 0, 1, 1)),), "a cat and a dog", 64, 64)
    layout, prompt = RealCompoLayoutFromMasks().build([LEFT], ["a dog"], layout=[before])
    assert [region.phrase for region in layout.regions] == ["a cat", "a dog"]
    assert prompt == "a cat and a dog" and (layout.width, layout.height) == (64, 64)
    layout, prompt = RealCompoLayoutFromMasks().build([LEFT], ["a dog"], ["my dog"], ["box"])
    assert prompt == "my dog" and (layout.width, layout.height) == (10, 8)
    assert layout.regions[0].mask is None
    with pytest.raises(RealCompoError, match="RealCompo Layout From Masks, input 'phrases'"):
        RealCompoLayoutFromMasks().build([LEFT, RIGHT], ["a\nb\nc"])
    with pytest.raises(RealCompoError, match="RealCompo Layout From Masks, input 'layout'"):
        RealCompoLayoutFromMasks().build([LEFT], ["a"], layout=["x"])


def picture(*parts: tuple[torch.Tensor, tuple[int, int, int]]) -> torch.Tensor:
    """(1, H, W, 3) with one colour for each mask, black elsewhere."""
    out = torch.zeros(1, *parts[0][0].shape, 3)
    for mask, colour in parts:
        out[0, mask > 0] = torch.tensor(colour) / 255.0
    return out


TWO = picture((LEFT, (255, 0, 0)), (RIGHT, (0, 0, 255)))


def test_colours_of_a_legend_become_masks() -> None:
    star, circle = regions_from_segmentation(
        TWO, "# a comment\n#ff0000: a red star\n\n#00f: a blue circle#2 *1.5\n"
    )
    assert star.phrase == "a red star" and star.mask is not None
    assert torch.equal(star.mask.tensor(), LEFT)
    assert (circle.phrase, circle.occurrence, circle.weight) == ("a blue circle", 1, 1.5)
    assert circle.box == (0.5, 0.0, 1.0, 1.0)


def test_small_changes_of_colour_are_tolerated_and_the_nearest_wins() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = TWO + (torch.rand(TWO.shape, generator=generator) - 0.5) * 20 / 255
    lines = "#ff0000: a\n#0000ff: b\n#000000: c"
    found = regions_from_segmentation(noisy, lines, tolerance=16)
    assert [torch.equal(r.mask.tensor(), m) for r, m in zip(found, (LEFT, RIGHT), strict=False)]
    assert torch.equal(found[0].mask.tensor(), LEFT)
    assert torch.equal(found[1].mask.tensor(), RIGHT)
    close = picture((LEFT, (100, 100, 100)), (RIGHT, (110, 110, 110)))
    (one, other) = regions_from_segmentation(close, "#646464: a\n#6e6e6e: b", tolerance=50)
    assert torch.equal(one.mask.tensor(), LEFT) and torch.equal(other.mask.tensor(), RIGHT)
    with pytest.raises(RealCompoError, match="not in the picture"):
        regions_from_segmentation(TWO, "#f00000: a", tolerance=5)


@pytest.mark.parametrize("name", PALETTES)
def test_palettes_are_whole(name: str) -> None:
    classes = palette(name)
    assert len(classes) == {ADE: 150, COCO: 133}[name]
    # ADE20K gives road and skyscraper one colour, as its own pictures do.
    assert len(set(classes.values())) == {ADE: 149, COCO: 133}[name]
    assert all(0 <= c <= 255 for rgb in classes.values() for c in rgb)
    assert classes["person"] == {ADE: (150, 5, 61), COCO: (220, 20, 60)}[name]


@pytest.mark.parametrize("name", PALETTES)
def test_classes_by_name(name: str) -> None:
    classes = palette(name)
    person, sky = classes["person"], classes[{ADE: "sky", COCO: "sky-other-merged"}[name]]
    image = picture((LEFT, person), (RIGHT, sky))
    one, other = regions_from_segmentation(image, "person: a woman\nSky", source=name)
    assert (one.phrase, other.phrase) == ("a woman", "Sky")
    assert torch.equal(one.mask.tensor(), LEFT) and torch.equal(other.mask.tensor(), RIGHT)
    with pytest.raises(RealCompoError, match="holds sky.*, person") as caught:
        regions_from_segmentation(image, "car", source=name)
    assert caught.value.where == "image"


@pytest.mark.parametrize(
    ("text", "source", "said"),
    [
        ("", LEGEND, "no line"),
        ("# nothing", LEGEND, "no line"),
        ("a red star", LEGEND, "has no colour"),
        ("#ff00: a", LEGEND, "has no colour"),
        ("#ff0000 a", LEGEND, "has no colour"),
        ("#ff0000:", LEGEND, "has no colour"),
        ("#ff0000: a\n#f00: b", LEGEND, "has a phrase already"),
        ("#ff0000: a: 0 0 1 1", LEGEND, "has a box"),
        ("persn: a", ADE, "Did you mean 'person'"),
        ("unicorn", COCO, "none of the COCO classes"),
        ("person\nPerson: b", COCO, "has a phrase already"),
    ],
)
def test_legends_that_cannot_be_meant(text: str, source: str, said: str) -> None:
    with pytest.raises(RealCompoError, match=said) as caught:
        read_legend(text, source)
    assert caught.value.where == "phrases"


@pytest.mark.parametrize(
    "image", [None, torch.zeros(4, 4), torch.zeros(1, 4, 4, 1), torch.zeros(1, 0, 4, 3)]
)
def test_what_is_no_picture(image: Any) -> None:
    with pytest.raises(RealCompoError, match="Connect an IMAGE"):
        regions_from_segmentation(image, "#fff: a")


def test_a_photograph_with_every_colour_is_read_in_parts() -> None:
    generator = np.random.default_rng(0)
    noise = torch.from_numpy(generator.integers(0, 256, (1, 256, 256, 3))).float() / 255
    (region,) = regions_from_segmentation(noise, "wall", source=ADE, tolerance=255)
    assert region.mask is not None


def test_the_segmentation_node() -> None:
    layout, prompt = RealCompoLayoutFromSegmentation().build(
        TWO, "#ff0000: a red star", "a red star", keep="box"
    )
    assert layout.regions == (Region("a red star", (0.0, 0.25, 0.4, 0.75)),)
    assert prompt == "a red star" and (layout.width, layout.height) == (10, 8)
    with pytest.raises(RealCompoError, match="RealCompo Layout From Segmentation, input 'image'"):
        RealCompoLayoutFromSegmentation().build(TWO, "#00ff00: a")
