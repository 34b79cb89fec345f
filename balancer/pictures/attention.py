"""A look at a model's attention as pictures: a row per phrase, a column per look and site."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..attention.report import Reading
from ..layouts.layout import Layout
from .layout import backdrop, paint_region
from .overlay import Cell, draw_sheet, heat_over
from .palette import region_colour

WIDEST, LARGEST_CELL, SMALLEST_CELL = 4096, 384, 96
"""Pixels of a sheet and of its cells."""


def cell_size(columns: int, width: int, height: int) -> tuple[int, int]:
    """Width and height of a cell in the aspect of a picture, so that a row stays readable."""
    longest = max(SMALLEST_CELL, min(LARGEST_CELL, WIDEST // max(1, columns)))
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw_reading(
    reading: Reading, layout: Layout, size: tuple[int, int], image: Tensor | None = None
) -> Tensor:
    """Every map over ``image`` (B, H, W, C) or a plain ground, as sheets (B, height, width, 3).

    ``size`` (width, height) gives the aspect. Each cell shows the phrase's region and says which
    share of the attention lies in it.
    """
    samples = reading.columns[0][0].maps.shape[0]
    count = sum(len(columns) for columns in reading.columns)
    width, height = cell_size(count, *size)
    return torch.cat(
        [
            draw_sheet(_cells(reading, layout, _ground(image, n, width, height), n), count)
            for n in range(samples)
        ]
    )


def _ground(image: Tensor | None, sample: int, width: int, height: int) -> Tensor:
    if image is None or image.ndim != 4 or not image.shape[0]:
        return backdrop(image, width, height)
    # one picture may stand for a whole batch
    return backdrop(image[min(sample, image.shape[0] - 1)][None], width, height)


def _cells(reading: Reading, layout: Layout, ground: Tensor, sample: int) -> list[Cell]:
    cells = []
    for number, region in enumerate(layout.regions):
        for level, columns in zip(reading.levels, reading.columns, strict=True):
            for column in columns:
                picture = heat_over(ground, column.maps[sample, number])
                paint_region(picture, region, number)
                share = float(column.shares[sample, number])
                name = region.phrase or f"region {number + 1}"
                # the share comes first: it must stay readable where the cell is narrow
                column_name = f"{level:g}" if len(columns) == 1 else f"{level:g}, {column.name}"
                caption = f"{share:.0%}  {name} ({column_name})"
                cells.append(Cell(picture, caption, region_colour(number)))
    return cells


def phrase_masks(reading: Reading, width: int, height: int) -> Tensor:
    """Mean map of each phrase over levels and sites, its peak at 1: (B * R, height, width)."""
    finest = max(
        (column.maps.shape[-2:] for columns in reading.columns for column in columns),
        key=lambda cells: cells[0] * cells[1],
    )
    every = [
        interpolate(column.maps, finest, mode="bilinear")
        for columns in reading.columns
        for column in columns
    ]
    mean = torch.stack(every).mean(dim=0)
    mean = interpolate(mean, (height, width), mode="bilinear").flatten(0, 1)
    peak = mean.amax(dim=(-2, -1), keepdim=True)
    return mean / peak.clamp_min(torch.finfo(torch.float32).tiny)
