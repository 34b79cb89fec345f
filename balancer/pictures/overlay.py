"""Maps laid over pictures, and sheets of such cells with captions. Colours for all eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .layout import fitted_text, font_file
from .palette import Rgb

GAP = 6
"""Pixels between two cells of a sheet."""


@lru_cache(maxsize=4)
def _table(name: str) -> Tensor:
    """256 colours (256, 3) of one of matplotlib's maps."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps[name](np.arange(256))[:, :3].astype(np.float32))


def coloured(values: Tensor, width: int, height: int, colours: str) -> Tensor:
    """A map (h, w) in 0..1 as a picture (height, width, 3); ``colours`` as matplotlib names it."""
    plane = values.detach().to("cpu", torch.float32)[None, None]
    sized = interpolate(plane, (height, width), mode="bilinear")[0, 0].clamp(0, 1)
    return _table(colours)[(sized * 255).round().long()]


def laid_over(canvas: Tensor, values: Tensor, colours: str, opacity: float) -> Tensor:
    """``canvas`` (H, W, 3) in grey under a coloured map (h, w) in 0..1."""
    height, width = canvas.shape[:2]
    grey = (canvas @ torch.tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, 3)
    return grey.lerp(coloured(values, width, height, colours), opacity)


def heat_over(canvas: Tensor, values: Tensor) -> Tensor:
    """``canvas`` (H, W, 3), dimmed, lit up where a map (h, w) >= 0 is high against its peak."""
    height, width = canvas.shape[:2]
    peak = values.amax().clamp_min(torch.finfo(torch.float32).tiny)
    heat = coloured(values / peak, width, height, "inferno")
    strength = interpolate((values / peak)[None, None].float(), (height, width), mode="bilinear")
    return (canvas * 0.45).lerp(heat, (0.15 + 0.75 * strength[0, 0].clamp(0, 1))[..., None])


@dataclass(frozen=True)
class Cell:
    """A picture (H, W, 3) of a sheet, and the line above it."""

    picture: Tensor
    caption: str
    colour: Rgb | None = None


def draw_sheet(cells: Sequence[Cell], columns: int, title: str = "") -> Tensor:
    """Cells of one size, row by row with ``columns`` in each, as (1, H, W, 3) in 0..1.

    A cell's ``colour`` marks its caption. ``title`` stands above all.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = cells[0].picture.shape[:2]
    columns = max(1, min(columns, len(cells)))
    rows = -(-len(cells) // columns)
    size = max(11, min(16, round(width / 18)))
    font = ImageFont.truetype(font_file(), size)
    line = round(size * 1.6)
    head = round(line * 1.2) if title else 0
    page_width = columns * width + (columns + 1) * GAP
    page_height = head + rows * (height + line) + (rows + 1) * GAP
    page = Image.new("RGB", (page_width, page_height), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    if title:
        room = page_width - 2 * GAP
        text = fitted_text(title, font, room)
        draw.text((GAP, head // 2 + GAP), text, fill=(0, 0, 0), font=font, anchor="lm")
    for index, cell in enumerate(cells):
        left = GAP + (index % columns) * (width + GAP)
        top = head + GAP + (index // columns) * (height + line + GAP)
        start = left
        if cell.colour is not None:
            mark = round(size * 0.8)
            middle = top + line // 2
            box = (left, middle - mark // 2, left + mark, middle + mark // 2)
            draw.rectangle(box, fill=cell.colour, outline=(40, 40, 40))
            start = left + mark + size // 3
        text = fitted_text(cell.caption, font, left + width - start)
        draw.text((start, top + line // 2), text, fill=(0, 0, 0), font=font, anchor="lm")
        pixels = (cell.picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        page.paste(Image.fromarray(pixels), (left, top + line))
    return torch.from_numpy(np.asarray(page).astype(np.float32) / 255.0)[None]
