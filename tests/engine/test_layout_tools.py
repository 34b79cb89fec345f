"""Layouts as masks, merged, and moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.balancer.layouts.transform import (
    Move,
    merge_layouts,
    region_masks,
    transform_layout,
)
from realcompo.nodes.layout_converters import RealCompoLayoutFromMasks
from realcompo.nodes.layout_tools import (
    RealCompoLayoutMerge,
    RealCompoLayoutToMasks,
    RealCompoLayoutTransform,
)

STAR = Region("a red star", (0.1, 0.2, 0.4, 0.6), weight=2.0)
PAINT = torch.zeros(8, 8)
PAINT[1:3, 4:8] = 1.0
CLOUD = Region.from_mask("a cloud", Mask.from_tensor(PAINT), occurrence=1)
LAYOUT = Layout((STAR, CLOUD), "a red star, a cloud and a cloud", 80, 40)


def test_masks_are_the_regions_at_any_size() -> None:
    masks = region_masks(LAYOUT, 10, 10, soft=False)
    assert masks.shape == (2, 10, 10)
    assert masks[0].sum() == 12 and masks[0, 2:6, 1:4].all()
    soft = region_masks(LAYOUT, 7, 5)
    assert soft[0].mean() == pytest.approx(0.3 * 0.4)
    assert soft[1].mean() == pytest.approx(8 / 64)
    assert torch.equal(region_masks(LAYOUT, 8, 8)[1], PAINT)


def test_the_mask_node_and_the_way_back() -> None:
    masks, background, phrases = RealCompoLayoutToMasks().convert(LAYOUT)
    assert masks.shape == (2, 40, 80) and background.shape == (1, 40, 80)
    assert torch.equal(background[0], 1 - masks.amax(0))
    assert phrases == "a red star*2\na cloud#2"
    back, _ = RealCompoLayoutFromMasks().build([masks], [phrases], [LAYOUT.prompt], ["box"])
    for one, other in zip(back.regions, LAYOUT.regions, strict=True):
        assert (one.phrase, one.occurrence, one.weight) == (
            other.phrase, other.occurrence, other.weight,
        )  # fmt: skip
        assert one.box == pytest.approx(other.box, abs=0.02)
    assert RealCompoLayoutToMasks().convert(Layout((STAR,)), 16, 0)[0].shape == (1, 512, 16)
    with pytest.raises(RealCompoError, match="RealCompo Layout To Masks, input 'layout'"):
        RealCompoLayoutToMasks().convert(Layout(()))


def dog(x: float = 0.1, **more: Any) -> Region:
    return Region("a dog", (x, 0.1, x + 0.2, 0.5), **more)


def spoken(layout: Layout) -> list[tuple[str, int]]:
    return [(region.phrase, region.occurrence) for region in layout.regions]


def test_layouts_of_one_prompt_are_put_together() -> None:
    one, other = Layout((STAR,), "p"), Layout((dog(),), "", 64, 32)
    merged = merge_layouts([one, other])
    assert merged.regions == (STAR, dog()) and merged.prompt == "p"
    assert (merged.width, merged.height) == (64, 32)
    assert merge_layouts([one, Layout((dog(),), "q")], " typed ").prompt == "typed"
    assert merge_layouts([Layout((STAR,)), Layout((dog(),))]).prompt == ""


def test_joined_prompts_keep_what_every_region_meant() -> None:
    park = Layout((dog(), dog(0.5)), "a dog and a dog in a park")
    beach = Layout((dog(0.2),), "a dog at the beach")
    pair = Layout((Region("two cats", (0, 0, 0.4, 1)), Region("two cats", (0.5, 0, 1, 1))),
                  "two cats")  # fmt: skip
    merged = merge_layouts([park, beach, pair, pair])
    assert merged.prompt == "a dog and a dog in a park, a dog at the beach, two cats"
    assert spoken(merged) == [
        ("a dog", 0), ("a dog", 1), ("a dog", 2),
        ("two cats", 0), ("two cats", 0), ("two cats", 0), ("two cats", 0),
    ]  # fmt: skip


def test_token_positions_do_not_survive_another_prompt_in_front() -> None:
    fixed = Layout((dog(tokens=(1, 2)),), "a dog")
    assert merge_layouts([fixed, Layout((STAR,), "a red star")]).regions[0].tokens == (1, 2)
    with pytest.raises(RealCompoError, match="token positions") as caught:
        merge_layouts([Layout((STAR,), "a red star"), fixed])
    assert caught.value.where == "layout_2"


def test_the_merge_node() -> None:
    layout, prompt = RealCompoLayoutMerge().merge(LAYOUT, Layout(()), None, Layout((dog(),)))
    assert len(layout.regions) == 3 and prompt == LAYOUT.prompt
    with pytest.raises(RealCompoError, match="RealCompo Layout Merge, input 'layout_3'"):
        RealCompoLayoutMerge().merge(LAYOUT, LAYOUT, "x")
    with pytest.raises(RealCompoError, match="RealCompo Layout Merge, input 'layout_2'"):
        RealCompoLayoutMerge().merge(LAYOUT, None)


def test_flips_turn_boxes_and_masks() -> None:
    flipped = transform_layout(LAYOUT, Move("horizontal"))
    assert flipped.regions[0].box == pytest.approx((0.6, 0.2, 0.9, 0.6))
    assert torch.equal(flipped.regions[1].mask.tensor(), PAINT.flip(1))
    assert transform_layout(LAYOUT, Move("vertical")).regions[0].box == pytest.approx(
        (0.1, 0.4, 0.4, 0.8)
    )
    both = transform_layout(LAYOUT, Move("both"))
    assert torch.equal(both.regions[1].mask.tensor(), PAINT.flip(0, 1))
    assert (both.width, both.height, both.prompt) == (80, 40, LAYOUT.prompt)
    twice = transform_layout(both, Move("both"))
    assert twice.regions[1] == CLOUD and twice.regions[0].box == pytest.approx(STAR.box)


def test_nothing_asked_for_changes_nothing() -> None:
    same = transform_layout(LAYOUT, Move())
    assert same.regions[0].box == pytest.approx(STAR.box)
    assert same.regions[1] == CLOUD and same.regions[0].weight == 2.0


def test_the_crop_becomes_the_picture() -> None:
    cut = transform_layout(LAYOUT, Move(crop=(0.0, 0.0, 0.5, 1.0)), min_visible=0.0)
    assert cut.regions[0].box == pytest.approx((0.2, 0.2, 0.8, 0.6))
    assert (cut.width, cut.height) == (40, 40)
    assert len(cut.regions) == 1  # the cloud is in the right half
    right = transform_layout(LAYOUT, Move(crop=(0.5, 0.0, 1.0, 0.5)))
    (cloud,) = right.regions
    assert cloud.occurrence == 1
    expected = torch.zeros(8, 8)
    expected[2:6, :] = 1.0
    assert torch.equal(cloud.mask.tensor(), expected)


def test_scale_and_shift_move_masks_with_their_boxes() -> None:
    half = transform_layout(LAYOUT, Move(scale=0.5, shift_x=0.25))
    assert half.regions[0].box == pytest.approx((0.55, 0.35, 0.7, 0.55))
    assert half.regions[1].mask.tensor().mean() == pytest.approx(float(PAINT.mean()) / 4, abs=0.01)
    assert half.regions[1].box == pytest.approx((0.75, 0.25, 1.0, 0.5), abs=0.13)
    double = transform_layout(LAYOUT, Move(scale=2.0), min_visible=0.0)
    assert double.regions[0].box == pytest.approx((0.0, 0.0, 0.3, 0.7))


def test_what_hardly_stays_in_the_picture_is_left_out() -> None:
    three = Layout((dog(0.0), dog(0.3), dog(0.7)), "a dog, a dog and a dog")
    moved = transform_layout(three, Move(shift_x=-0.19), min_visible=0.1)
    # The second and third dogs are still the second and third mention.
    assert spoken(moved) == [("a dog", 1), ("a dog", 2)]
    assert len(transform_layout(three, Move(shift_x=-0.19), min_visible=0.01).regions) == 3
    with pytest.raises(RealCompoError, match="no region is left"):
        transform_layout(three, Move(shift_x=-2.0))
    assert transform_layout(Layout((), "x"), Move(shift_x=-2.0)).prompt == "x"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"flip": "sideways"}, "flip"),
        ({"crop_left": 0.5, "crop_right": 0.5}, "crop_left"),
        ({"crop_top": 0.9, "crop_bottom": 0.1}, "crop_left"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"layout": None}, "layout"),
        ({"shift_x": -2.0, "shift_y": 2.0}, "layout"),
    ],
)
def test_moves_that_cannot_be_meant(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(RealCompoError) as caught:
        RealCompoLayoutTransform().transform(**{"layout": LAYOUT, "flip": "none", **changes})
    assert (caught.value.node, caught.value.where) == ("RealCompo Layout Transform", where)


share = st.floats(0.0, 1.0)


@example((0.0, 0.0), (1.0, 1.0), "none", 1.0, 0.0)  # the last row of pixels
@given(
    st.tuples(share, share), st.tuples(share, share), st.sampled_from(["none", "both"]),
    st.floats(0.3, 3.0), st.floats(-0.5, 0.5),
)  # fmt: skip
def test_a_box_and_its_mask_move_alike(
    across: tuple[float, float], down: tuple[float, float], flip: str, scale: float, shift: float
) -> None:
    grid = 64
    x0, x1 = sorted(min(int(v * grid), grid - 1) for v in across)
    y0, y1 = sorted(min(int(v * grid), grid - 1) for v in down)
    paint = torch.zeros(grid, grid)
    paint[y0 : y1 + 1, x0 : x1 + 1] = 1.0
    mask = Mask.from_tensor(paint)
    layout = Layout((Region.from_mask("a", mask), Region("b", mask.bounds())))
    try:
        moved = transform_layout(layout, Move(flip, scale=scale, shift_x=shift), 0.2)
    except RealCompoError:
        return
    if len(moved.regions) == 2:
        # A pixel that is covered by less than half does not count for the mask's bounds.
        assert moved.regions[0].box == pytest.approx(moved.regions[1].box, abs=1.01 / grid)


@example(0.5, 0.02, 0.05, 7)
@given(share, st.floats(1e-9, 1.0), st.floats(0.05, 1.0), st.integers(1, 40))
def test_a_thin_region_is_never_empty(at: float, thin: float, scale: float, cells: int) -> None:
    low = min(at, 1 - 1e-6)
    box = (low, 0.0, min(1.0, low + max(thin, 1e-6)), 1.0)
    masks = region_masks(Layout((Region("a", box),)), cells, cells, soft=False)
    assert masks.amax((1, 2)).tolist() == [1.0]
    # a mask one pixel thin, made small: all of it stays in the picture, so it stays a region
    paint = torch.zeros(40, 40)
    paint[:, int(low * 40)] = 0.01
    small = transform_layout(Layout((Region.from_mask("b", Mask.from_tensor(paint)),)),
                             Move(scale=scale))  # fmt: skip
    assert len(small.regions) == 1 and small.regions[0].mask is not None
