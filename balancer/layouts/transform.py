"""Layouts made of layouts: merged, flipped, cropped, moved, and as masks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import RealCompoError
from ..text.weights import plain_text
from ..text.words import find_phrase, words_of
from .grid import region_grid, window_share
from .layout import Box, Layout, Region
from .mask import Mask

FLIPS = ("none", "horizontal", "vertical", "both")


def layout_size(
    layout: Layout, width: int = 0, height: int = 0, default: int = 512
) -> tuple[int, int]:
    """width, height as asked for, else the layout's own, else ``default`` on both sides."""
    return width or layout.width or default, height or layout.height or default


def region_masks(layout: Layout, width: int, height: int, *, soft: bool = True) -> Tensor:
    """Every region as a mask: float32 (R, height, width) in 0..1.

    ``soft`` gives the exact share of a pixel that a region covers; else a pixel belongs to it or
    not, and no region is empty. Raises RealCompoError for a layout without regions.
    """
    layout.require_regions()
    return region_grid(layout, height, width, soft=soft)


def _spoken(layout: Layout) -> list[int]:
    """Which occurrence of its phrase every region means, when nothing is left to the default.

    The same rule as for tokens: equal phrases take the prompt's occurrences in turn, and what
    remains shares the last one; one explicit occurrence makes all of that phrase explicit.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, region in enumerate(layout.regions):
        groups[tuple(word.text for word in words_of(plain_text(region.phrase)))].append(index)
    text, out = plain_text(layout.prompt), [region.occurrence for region in layout.regions]
    for indices in groups.values():
        if any(out[index] for index in indices):
            continue
        held = len(find_phrase(text, layout.regions[indices[0]].phrase))
        for order, index in enumerate(indices):
            out[index] = max(0, min(order, held - 1))
    return out


def merge_layouts(layouts: Sequence[Layout], prompt: str = "") -> Layout:
    """All regions in one layout, in order; sizes are those of the first layout that has one.

    A typed ``prompt`` is taken as it is, and so is the one prompt that all share. Several
    different prompts are joined by commas, and regions keep the mention that they meant: a phrase
    that stands in an earlier prompt, too, counts on from there. Raises RealCompoError where that
    cannot be kept (explicit token positions behind another prompt).
    """
    texts = [layout.prompt.strip() for layout in layouts]
    distinct = [text for text in dict.fromkeys(texts) if text]
    size = next(((one.width, one.height) for one in layouts if one.width or one.height), None)
    width, height = size or (None, None)
    if prompt.strip() or len(distinct) < 2:
        regions = tuple(region for layout in layouts for region in layout.regions)
        return Layout(regions, prompt.strip() or "".join(distinct), width, height)
    merged: list[Region] = []
    for number, (layout, text) in enumerate(zip(layouts, texts, strict=True), 1):
        before = plain_text(", ".join(distinct[: distinct.index(text)])) if text else ""
        for region, meant in zip(layout.regions, _spoken(layout), strict=True):
            if region.tokens is not None and before:
                raise RealCompoError(
                    f"layout_{number}",
                    f"the region '{region.phrase}' has token positions, and its prompt comes after"
                    " another one",
                    "Connect it first, or give one prompt for all",
                )
            earlier = len(find_phrase(before, region.phrase))
            merged.append(replace(region, occurrence=meant + earlier))
    return Layout(tuple(merged), ", ".join(distinct), width, height)


@dataclass(frozen=True)
class Move:
    """What happens to a layout, in this order: ``flip`` (one of FLIPS), cut out ``crop`` (it
    becomes the whole picture), make ``scale`` times as large around the middle, shift by
    ``shift_x``, ``shift_y`` (shares of the picture, right and down)."""

    flip: str = "none"
    crop: Box = (0.0, 0.0, 1.0, 1.0)
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise RealCompoError("flip", f"it is '{self.flip}'", f"Choose {', '.join(FLIPS)}")
        x0, y0, x1, y1 = self.crop
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise RealCompoError(
                "crop_left",
                f"the part to cut out, {x0:g} {y0:g} to {x1:g} {y1:g}, has no area in the picture",
                "Give left < right and top < bottom, between 0 and 1",
            )
        numbers = (self.scale, self.shift_x, self.shift_y)
        if not all(map(math.isfinite, numbers)) or self.scale <= 0:
            raise RealCompoError("scale", f"it is {self.scale!r}", "Give a number above 0")

    def window(self) -> Box:
        """The part of the flipped picture that is the whole picture afterwards."""
        x0, y0, x1, y1 = self.crop
        width, height = (x1 - x0) / self.scale, (y1 - y0) / self.scale
        left = (x0 + x1) / 2 - width / 2 - self.shift_x * width
        top = (y0 + y1) / 2 - height / 2 - self.shift_y * height
        return (left, top, left + width, top + height)


def _flipped(region: Region, across: bool, down: bool) -> Region:
    x0, y0, x1, y1 = region.box
    if across:
        x0, x1 = 1 - x1, 1 - x0
    if down:
        y0, y1 = 1 - y1, 1 - y0
    mask = region.mask
    if mask is not None:
        sides = [axis for axis, on in ((0, down), (1, across)) if on]
        turned = torch.from_numpy(mask.array().copy()).flip(sides)
        mask = Mask(mask.height, mask.width, turned.numpy().tobytes())
    return replace(region, box=(x0, y0, x1, y1), mask=mask)


def _seen(region: Region, window: Box, min_visible: float) -> Region | None:
    """The region in ``window``, or None if less than ``min_visible`` of it is in there."""
    width, height = window[2] - window[0], window[3] - window[1]
    if region.mask is not None:
        mask = region.mask
        share = window_share(mask, window, mask.height, mask.width).float().clamp(0, 1)
        left = float(share.mean()) * width * height / max(float(mask.tensor().mean()), 1e-9)
        packed = (share * 255).round().to(torch.uint8)
        if left < max(min_visible, 1e-6) or not share.any():
            return None
        if not packed.any():  # thinner than a pixel's 256 levels tell: as small as can be, not gone
            packed = (share >= share.max()).to(torch.uint8)
        cut = Mask(mask.height, mask.width, packed.contiguous().numpy().tobytes())
        return replace(region, box=cut.bounds(), mask=cut)
    x0, y0, x1, y1 = region.box
    moved = ((x0 - window[0]) / width, (y0 - window[1]) / height,
             (x1 - window[0]) / width, (y1 - window[1]) / height)  # fmt: skip
    cut_box = tuple(min(1.0, max(0.0, value)) for value in moved)
    left, top, right, bottom = cut_box
    if right - left <= 1e-6 or bottom - top <= 1e-6:
        return None
    area = (moved[2] - moved[0]) * (moved[3] - moved[1])
    if (right - left) * (bottom - top) / area < min_visible - 1e-9:
        return None
    return replace(region, box=(left, top, right, bottom))


def transform_layout(layout: Layout, move: Move, min_visible: float = 0.05) -> Layout:
    """The layout after ``move``; masks follow, at their own resolution.

    A region of which less than ``min_visible`` (share of its area) stays in the picture is left
    out; then the others of its phrase keep the mention that they meant. The size in pixels
    follows the crop. Raises RealCompoError if no region is left.
    """
    across, down = move.flip in ("horizontal", "both"), move.flip in ("vertical", "both")
    window = move.window()
    moved = [
        _seen(_flipped(region, across, down), window, min_visible) for region in layout.regions
    ]
    if layout.regions and not any(moved):
        raise RealCompoError(
            "layout", "no region is left in the picture", "Cut out, scale or shift less"
        )
    if None in moved:
        moved = [
            None if region is None else replace(region, occurrence=meant)
            for region, meant in zip(moved, _spoken(layout), strict=True)
        ]
    x0, y0, x1, y1 = move.crop
    return Layout(
        tuple(region for region in moved if region is not None),
        layout.prompt,
        None if layout.width is None else max(1, round(layout.width * (x1 - x0))),
        None if layout.height is None else max(1, round(layout.height * (y1 - y0))),
    )
