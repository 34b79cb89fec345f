"""A layout as a picture: boxes, masks and phrases, numbered as messages count them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from ..errors import RealCompoError
from ..layouts.layout import Layout, Region
from .palette import Rgb, region_colour

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Rect = tuple[int, int, int, int]

DEFAULT_SIZE = 512
LONGEST_LABEL = 400
"""Characters of a label; no picture is wide enough for more, and each is measured."""
BOX_TINT, MASK_TINT = 0.18, 0.5
"""Opacity of a region's colour over the backdrop."""


def preview_size(
    layout: Layout, image: Tensor | None = None, width: int = 0, height: int = 0
) -> tuple[int, int]:
    """width, height of a preview: as asked for, else as the image, the layout, or 512 x 512.

    A single given side keeps the aspect of whichever of those is there.
    """
    base = (layout.width or DEFAULT_SIZE, layout.height or DEFAULT_SIZE)
    if image is not None and image.ndim >= 3:  # `backdrop` refuses other shapes by name
        base = (int(image.shape[-2]), int(image.shape[-3]))
    if width > 0 and height > 0:
        return width, height
    if width > 0:
        return width, max(1, round(width * base[1] / base[0]))
    if height > 0:
        return max(1, round(height * base[0] / base[1])), height
    return base


def backdrop(image: Tensor | None, width: int, height: int) -> Tensor:
    """(H, W, 3) in 0..1: the first picture of ``image``, or light grey with lines at eighths."""
    if image is None:
        plain = torch.full((height, width, 3), 0.93)
        for eighth in range(1, 8):
            plain[height * eighth // 8, :] = 0.84
            plain[:, width * eighth // 8] = 0.84
        return plain
    if image.ndim not in (3, 4) or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise RealCompoError(
            "image",
            f"the backdrop has the shape {tuple(image.shape)}",
            "Connect an IMAGE (batch, height, width, colours)",
        )
    first = (image[0] if image.ndim == 4 else image).detach().to("cpu", torch.float32)
    first = first[..., :3].expand(-1, -1, 3).clamp(0, 1)
    if first.shape[:2] == (height, width):
        return first.clone()
    planes = first.permute(2, 0, 1)[None]
    sized = interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return sized[0].permute(1, 2, 0).clamp(0, 1)


def pixel_box(region: Region, width: int, height: int) -> Rect:
    """left, top, right, bottom in whole pixels, both ends inclusive."""
    x0, y0, x1, y1 = region.box
    left, top = min(width - 1, round(x0 * width)), min(height - 1, round(y0 * height))
    return left, top, max(left, round(x1 * width) - 1), max(top, round(y1 * height) - 1)


def thickness(width: int, height: int) -> int:
    """Pixels of a frame that reads well at this size."""
    return max(2, round(min(width, height) / 170))


def _cover(region: Region, width: int, height: int) -> Tensor:
    """How much of each pixel belongs to the region, (height, width) in 0..1; a box takes all."""
    if region.mask is None:
        left, top, right, bottom = pixel_box(region, width, height)
        cover = torch.zeros(height, width)
        cover[top : bottom + 1, left : right + 1] = 1.0
        return cover
    plane = region.mask.tensor()[None, None]
    sized = interpolate(plane, (height, width), mode="bilinear", antialias=True)
    return sized[0, 0].clamp(0, 1)


def paint_region(canvas: Tensor, region: Region, number: int, tint: float = 0.0) -> None:
    """Draw a region's rim on the canvas (H, W, 3), in place, in the colour of its number (0...).

    ``tint`` 0..1 is how much of that colour is laid over the inside.
    """
    height, width = canvas.shape[:2]
    colour = torch.tensor(region_colour(number)) / 255.0
    cover = _cover(region, width, height)
    canvas.lerp_(colour, (tint * cover)[..., None])
    inside, rim = (cover >= 0.5).float(), thickness(width, height)
    # eroded with nothing outside the picture, so that a region at its edge has a rim there, too
    framed = pad(inside[None], (rim, rim, rim, rim))
    eroded = 1 - max_pool2d(1 - framed, 2 * rim + 1, stride=1)[0]
    canvas[(inside > 0) & (eroded == 0)] = colour


def font_file() -> str:
    """DejaVu Sans as matplotlib carries it: Pillow's own font knows ASCII only."""
    from matplotlib import get_data_path

    return str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _label(number: int, region: Region) -> str:
    text = f"{number}  {region.phrase or 'tokens ' + ', '.join(map(str, region.tokens or ()))}"
    if region.occurrence:
        text += f"  #{region.occurrence + 1}"
    return text if region.weight == 1.0 else f"{text}  x{region.weight:g}"


def fitted_text(text: str, font: FreeTypeFont, room: float) -> str:
    """``text`` cut with dots so that it is at most ``room`` pixels wide."""
    if len(text) > LONGEST_LABEL:
        text = text[:LONGEST_LABEL] + "..."
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."


def _overlaps(one: Rect, other: Rect) -> bool:
    apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    return not apart


def _draw_label(
    draw: ImageDraw,
    box: Rect,
    text: str,
    colour: Rgb,
    font: FreeTypeFont,
    size: tuple[int, int],
    taken: list[Rect],
) -> None:
    """Text on a plate of the region's colour, at the box's corner or the next free place below."""
    margin = max(2, round(font.size * 0.25))
    plate_height = round(font.size * 1.25) + 2 * margin
    # A narrow box at the right edge may push its label to the left, but not far from itself.
    text = fitted_text(text, font, max(size[0] - 1 - box[0], 0.4 * size[0]) - 2 * margin)
    plate_width = round(font.getlength(text)) + 2 * margin
    left = max(0, min(box[0], size[0] - 1 - plate_width))
    top = max(0, min(box[1], size[1] - 1 - plate_height))
    for _ in range(len(taken)):
        plate = (left, top, left + plate_width, top + plate_height)
        hit = next((rect for rect in taken if _overlaps(plate, rect)), None)
        if hit is None or hit[3] + 1 + plate_height >= size[1]:
            break
        top = hit[3] + 1
    plate = (left, top, left + plate_width, top + plate_height)
    taken.append(plate)
    # Dark text from a relative luminance on where it has the better contrast (WCAG 2).
    linear = [(c / 255) ** 2.2 for c in colour]
    dark = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18
    draw.rectangle(plate, fill=colour, outline=(0, 0, 0) if dark else (255, 255, 255))
    ink = (0, 0, 0) if dark else (255, 255, 255)
    draw.text((left + margin, top + plate_height // 2), text, fill=ink, font=font, anchor="lm")


def draw_layout(layout: Layout, width: int, height: int, image: Tensor | None = None) -> Tensor:
    """The layout as float32 (1, height, width, 3) in 0..1.

    ``image`` (B, H, W, C) in 0..1 is the backdrop; its first picture is resized to fit. A layout
    without regions says so. Raises RealCompoError for a backdrop that is no picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    canvas = backdrop(image, width, height)
    for number, region in enumerate(layout.regions):
        paint_region(canvas, region, number, BOX_TINT if region.mask is None else MASK_TINT)
    picture = Image.fromarray((canvas * 255.0).round().to(torch.uint8).numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(font_file(), max(11, round(min(width, height) / 34)))
    for number, region in enumerate(layout.regions):
        left, top, right, bottom = pixel_box(region, width, height)
        frame = 1
        if region.mask is None:
            # The dark hairline keeps the frame visible on a backdrop of its own colour.
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(20, 20, 20))
            frame = thickness(width, height)
        box = (left, top, right, bottom)
        draw.rectangle(box, outline=region_colour(number), width=frame)
    taken: list[Rect] = []
    for number, region in enumerate(layout.regions):
        box, text = pixel_box(region, width, height), _label(number + 1, region)
        _draw_label(draw, box, text, region_colour(number), font, (width, height), taken)
    if not layout.regions:
        middle = (width // 2, height // 2)
        draw.text(middle, "no regions", fill=(90, 90, 90), font=font, anchor="mm")
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255.0)[None]
