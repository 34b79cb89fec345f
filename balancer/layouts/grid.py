"""Regions on an attention grid: which cells of a map belong to which region."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layout import Box, Layout, Region
from .mask import Mask

Area = tuple[int, int, int, int]
"""height, width, y, x of a part of a grid, in cells."""

# Pixel coordinates divided by the image's size and multiplied by the grid's size may miss a whole
# number by rounding alone; without this, a box drawn on a cell's edge would move by one cell.
ROUNDING = 1e-9


def _span(low: float, high: float, cells: int) -> tuple[int, int]:
    """First and last (exclusive) cell of low..high, in 0..1 of an axis of ``cells`` cells.

    Edges are floor(cells * x) on both ends as in RealCompo's layout code (arXiv 2402.12908);
    where that leaves nothing, the cell that holds the middle. A range outside 0..1 gives none.
    """
    low, high = max(low, 0.0), min(high, 1.0)
    if high <= low:
        return 0, 0
    first, last = (math.floor(cells * edge + ROUNDING) for edge in (low, high))
    if last <= first:
        first = min(math.floor(cells * (low + high) / 2 + ROUNDING), cells - 1)
        last = first + 1
    return first, last


def _overlap(edges: Tensor, low: float, high: float) -> Tensor:
    """Length of low..high inside each interval between neighbouring ``edges`` (n + 1,) -> (n,)."""
    return (edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0.0)


def _averaging(cells: Tensor, pixels: int) -> Tensor:
    """Weights (n, pixels) that average a mask's axis over the n cells between edges ``cells``."""
    edges = torch.linspace(0.0, 1.0, pixels + 1, dtype=torch.float64)
    low = torch.maximum(edges[None, :-1], cells[:-1, None])
    high = torch.minimum(edges[None, 1:], cells[1:, None])
    return (high - low).clamp(min=0.0) / (cells[1:] - cells[:-1])[:, None]


def _window(area: Area | None, full: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """y, x, height, width in 0..1 of the image that the grid shows."""
    if area is None:
        return 0.0, 0.0, 1.0, 1.0
    if full is None:
        raise ValueError("an area needs the size of the grid that it is counted in")
    rows, columns, y, x = area
    if min(rows, columns, *full) <= 0:
        raise ValueError(f"an area of {rows} x {columns} cells in {full} shows nothing")
    return y / full[0], x / full[1], rows / full[0], columns / full[1]


def _mask_share(mask: Mask, rows: Tensor, columns: Tensor) -> Tensor:
    """Share of each cell that the mask covers; edges (h + 1,), (w + 1,) -> float64 (h, w)."""
    plane = mask.tensor().double()
    down, across = (_averaging(e, n) for e, n in zip((rows, columns), plane.shape, strict=True))
    return down @ plane @ across.T


def window_share(mask: Mask, window: Box, height: int, width: int) -> Tensor:
    """What ``mask`` covers of every cell of ``window`` (x0, y0, x1, y1 in shares of the image; it
    may leave the image, where nothing is covered), seen on a grid: float64 (height, width)."""
    rows = torch.linspace(window[1], window[3], height + 1, dtype=torch.float64)
    columns = torch.linspace(window[0], window[2], width + 1, dtype=torch.float64)
    return _mask_share(mask, rows, columns)


def _coverage(region: Region, rows: Tensor, columns: Tensor) -> Tensor:
    """Share of each cell that the region covers; edges (h + 1,), (w + 1,) in 0..1 -> (h, w)."""
    if region.mask is not None:
        return _mask_share(region.mask, rows, columns)
    x0, y0, x1, y1 = region.box
    down = _overlap(rows, y0, y1) / (rows[1:] - rows[:-1])
    across = _overlap(columns, x0, x1) / (columns[1:] - columns[:-1])
    return down[:, None] * across[None, :]


def region_grid(
    layout: Layout,
    height: int,
    width: int,
    area: Area | None = None,
    device: torch.device | str | None = None,
    *,
    full: tuple[int, int] | None = None,
    soft: bool = False,
) -> Tensor:
    """Every region of ``layout`` on a grid: float32 (R, height, width) in 0..1, one row a region.

    Binary by default. A box holds the cells floor(n * x0) <= i < floor(n * x1) on each axis
    (RealCompo, Eq. 6's mask M_b as the released code builds it), but at least the cell of its
    middle; a mask holds the cells that it covers by half or more, but at least the one that it
    covers most. A region therefore never comes out empty. ``soft`` gives the exact share of each
    cell that is covered instead; its mean is the region's area.

    With ``area`` the grid shows only that part of the image: ``area`` = (height, width, y, x) in
    cells of a grid of size ``full`` (for instance the latent). A region outside it is all zero.

    Raises ValueError for sizes below one cell.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} x {width} cells shows nothing")
    top, left, part_height, part_width = _window(area, full)
    rows = top + part_height * torch.linspace(0.0, 1.0, height + 1, dtype=torch.float64)
    columns = left + part_width * torch.linspace(0.0, 1.0, width + 1, dtype=torch.float64)
    grid = torch.zeros(len(layout.regions), height, width, dtype=torch.float32)
    for plane, region in zip(grid, layout.regions, strict=True):
        if soft or region.mask is not None:
            share = _coverage(region, rows, columns).clamp(0.0, 1.0)
            if not soft:
                peak = share.max()
                # The largest cell counts even below one half, unless the mask is not in view.
                share = (share >= peak.clamp(max=0.5) - ROUNDING) & (share > 0)
            plane.copy_(share)
            continue
        x0, y0, x1, y1 = region.box
        y_first, y_last = _span((y0 - top) / part_height, (y1 - top) / part_height, height)
        x_first, x_last = _span((x0 - left) / part_width, (x1 - left) / part_width, width)
        plane[y_first:y_last, x_first:x_last] = 1.0
    return grid.to(device) if device is not None else grid
