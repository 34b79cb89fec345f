"""Regions on attention grids: truth tables, and properties over random boxes and masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realcompo.balancer.layouts.grid import region_grid
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask

SLOW = [HealthCheck.too_slow]  # a busy machine is no reason to fail
Box = tuple[float, float, float, float]


def grid(box: Box, height: int, width: int, **options: object) -> torch.Tensor:
    return region_grid(Layout((Region("x", box),)), height, width, **options)[0]  # type: ignore


@st.composite
def box_strategy(draw: st.DrawFn, steps: int = 0) -> Box:
    """Any box, or one whose edges are multiples of 1 / steps."""
    axis = (
        st.integers(0, steps).map(lambda n: n / steps)
        if steps
        else st.floats(0, 1, allow_subnormal=False)
    )
    pair = st.tuples(axis, axis).filter(lambda p: abs(p[0] - p[1]) > 1e-6).map(sorted)
    (x0, x1), (y0, y1) = draw(pair), draw(pair)
    return x0, y0, x1, y1


@st.composite
def region_strategy(draw: st.DrawFn) -> Region:
    if draw(st.booleans()):
        return Region("x", draw(box_strategy()))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    data = draw(st.binary(min_size=height * width, max_size=height * width).filter(any))
    return Region.from_mask("x", Mask(height, width, data))


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 16), (0, 16)),
        ((0.25, 0.5, 0.75, 1.0), (8, 16), (4, 12)),
        ((0.08, 0.1, 0.42, 0.9), (1, 14), (1, 6)),  # floor(1.28), floor(6.72); floor(14.4)
        ((0.55, 0.0, 0.95, 1.0), (0, 16), (8, 15)),  # empty in the released 64-on-32 code
        ((0.51, 0.51, 0.55, 0.55), (8, 9), (8, 9)),  # thinner than a cell: the middle's cell
        ((0.0, 0.0, 0.001, 1.0), (0, 16), (0, 1)),
        ((0.999, 0.999, 1.0, 1.0), (15, 16), (15, 16)),
    ],
)
def test_cells_of_a_box(box: Box, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    expected = torch.zeros(16, 16)
    expected[rows[0] : rows[1], columns[0] : columns[1]] = 1
    assert torch.equal(grid(box, 16, 16), expected)


def test_grid_is_rows_by_columns() -> None:
    cells = grid((0.5, 0.0, 1.0, 0.25), 8, 4)
    assert cells.shape == (8, 4)
    assert cells.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_edges_on_cells_survive_rounding_of_pixels() -> None:
    # 49 * (1 / 49) is below 1 in floating point: without care the box would start at cell 0.
    for cells in (3, 13, 24, 49, 96, 98, 103):
        for edge in range(1, cells):
            box = (edge / cells, 0.0, 1.0, 1.0)
            assert int(grid(box, 1, cells)[0].nonzero()[0]) == edge


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(st.lists(region_strategy(), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 40),
       st.booleans())  # fmt: skip
def test_never_empty_and_in_range(
    regions: list[Region], height: int, width: int, soft: bool
) -> None:
    cells = region_grid(Layout(tuple(regions)), height, width, soft=soft)
    assert cells.shape == (len(regions), height, width) and cells.dtype == torch.float32
    assert cells.min() >= 0 and cells.max() <= 1
    assert bool((cells.amax(dim=(1, 2)) > 0).all())
    if not soft:
        assert set(cells.unique().tolist()) <= {0.0, 1.0}


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(st.lists(region_strategy(), min_size=2, max_size=4), st.randoms())
def test_permuted_regions_permute_rows(regions: list[Region], random: object) -> None:
    order = list(range(len(regions)))
    random.shuffle(order)  # type: ignore[attr-defined]
    cells = region_grid(Layout(tuple(regions)), 9, 12)
    moved = region_grid(Layout(tuple(regions[i] for i in order)), 9, 12)
    assert torch.equal(moved, cells[order])


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(box_strategy(), st.integers(1, 33), st.integers(1, 33))
def test_soft_coverage_sums_to_the_area(box: Box, height: int, width: int) -> None:
    area = (box[2] - box[0]) * (box[3] - box[1])
    assert float(grid(box, height, width, soft=True).double().mean()) == pytest.approx(
        area, rel=1e-5, abs=1e-9
    )


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(st.integers(1, 16), st.integers(1, 16), st.data())
def test_soft_mask_coverage_sums_to_the_mask(height: int, width: int, data: st.DataObject) -> None:
    side = data.draw(st.integers(1, 12))
    pixels = data.draw(st.binary(min_size=side * side, max_size=side * side).filter(any))
    mask = Mask(side, side, pixels)
    cells = region_grid(Layout((Region.from_mask("x", mask),)), height, width, soft=True)
    assert float(cells.double().mean()) == pytest.approx(float(mask.tensor().mean()), abs=1e-6)


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(box_strategy(steps=16))
def test_aligned_boxes_agree_between_16_and_32(box: Box) -> None:
    """A map upsampled from 16 to 32 must see the same region (guards a 64-on-32 grid mix-up)."""
    coarse = grid(box, 16, 16).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(coarse, grid(box, 32, 32))
    assert torch.equal(grid(box, 16, 16), grid(box, 16, 16, soft=True))


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(box_strategy(steps=16))
def test_mask_drawn_as_a_box_is_that_box(box: Box) -> None:
    mask = Mask.from_tensor(grid(box, 64, 64))
    region = Region.from_mask("x", mask)
    assert region.box == box
    for size in (8, 16, 32):
        as_box = region_grid(Layout((Region("x", box),)), size, size, soft=True)
        as_mask = region_grid(Layout((region,)), size, size, soft=True)
        assert torch.allclose(as_box, as_mask, atol=1e-6)


def test_mask_rounds_at_half_and_keeps_its_largest_cell() -> None:
    plane = torch.zeros(8, 8)
    plane[:4, :4], plane[:4, 4:6] = 1, 1  # left top cell full, right top cell half
    region = Region.from_mask("x", Mask.from_tensor(plane))
    assert torch.equal(
        region_grid(Layout((region,)), 2, 2)[0], torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    )
    dot = torch.zeros(8, 8)
    dot[6, 1], dot[0:2, 6] = 1, 1
    region = Region.from_mask("x", Mask.from_tensor(dot))
    assert torch.equal(
        region_grid(Layout((region,)), 2, 2)[0], torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    )


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(region_strategy(), st.data())
def test_area_at_the_grids_own_size_is_a_crop(region: Region, data: st.DataObject) -> None:
    full = (data.draw(st.sampled_from([8, 16])), data.draw(st.sampled_from([8, 16, 32])))
    y, x = data.draw(st.integers(0, full[0] - 1)), data.draw(st.integers(0, full[1] - 1))
    h, w = data.draw(st.integers(1, full[0] - y)), data.draw(st.integers(1, full[1] - x))
    layout = Layout((region,))
    whole = region_grid(layout, *full, soft=True)[:, y : y + h, x : x + w]
    part = region_grid(layout, h, w, area=(h, w, y, x), full=full, soft=True)
    assert torch.allclose(part, whole, atol=1e-5)


def test_area_with_a_coarser_map() -> None:
    # latent 64 x 64, the right half of it, seen by a map of 8 x 4 cells
    cells = grid((0.75, 0.0, 1.0, 0.5), 8, 4, area=(64, 32, 0, 32), full=(64, 64))
    expected = torch.zeros(8, 4)
    expected[:4, 2:] = 1
    assert torch.equal(cells, expected)
    assert not grid((0.0, 0.0, 0.4, 1.0), 8, 4, area=(64, 32, 0, 32), full=(64, 64)).any()


def test_sizes_below_a_cell_are_a_programming_error() -> None:
    layout = Layout((Region("x", (0.0, 0.0, 1.0, 1.0)),))
    with pytest.raises(ValueError, match="0 x 4"):
        region_grid(layout, 0, 4)
    with pytest.raises(ValueError, match="counted in"):
        region_grid(layout, 4, 4, area=(2, 2, 0, 0))
    assert region_grid(Layout(()), 4, 4).shape == (0, 4, 4)
    assert region_grid(layout, 2, 2, device="meta").device.type == "meta"
