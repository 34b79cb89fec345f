"""Regions from what other nodes hand over besides boxes: typed phrases for masks and bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import RealCompoError
from ..values.checked import dense_tensor
from .box_lines import BoxEntry, phrases_alone, require_count
from .layout import Box, Layout, Region
from .mask import Mask

Keep = Literal["mask", "box"]
"""Whether a region keeps its exact shape or the box around it."""


def assign_phrases(text: str, count: int, things: str, prompt: str = "") -> list[BoxEntry]:
    """One phrase for each of ``count`` things (their plural, for messages), from typed lines.

    ``prompt``, if it is known, decides what is a phrase (see ``read_lines``). A single line goes to
    all of them ('two dancers' for two bodies). Raises RealCompoError for input 'phrases' if the
    numbers differ, or if a line holds a box.
    """
    elsewhere = f"its place comes from the {things}"
    lines = phrases_alone(text, elsewhere, "Leave the numbers away", prompt)
    if len(lines) == 1:
        return lines * count
    if len(lines) != count:
        raise RealCompoError(
            "phrases",
            f"there are {len(lines)} phrases for {count} {things}",
            f"Write one phrase a line, in the order of the {things}, or one for all",
        )
    return lines


def named_region(line: BoxEntry, box: Box, mask: Mask | None = None) -> Region:
    """The region of a typed line (phrase, occurrence, weight) at a place from elsewhere."""
    try:
        return Region(line.phrase, box, mask, occurrence=line.occurrence, weight=line.weight)
    except RealCompoError as error:
        # Places are checked before; what is left to refuse stands in the line.
        raise error.at(error.node, "phrases") from None


def mask_planes(value: object, name: str = "a mask") -> list[Tensor]:
    """Single masks (H, W), float32 on the CPU, of one MASK: (H, W), (B, H, W) or (B, 1, H, W).

    Bytes count in 255ths where one is above 1. A batch of none gives none: a detector that found
    nothing. Values are not looked at (see ``to_mask``). Raises RealCompoError for input 'masks'
    for anything that is no mask; ``name`` is what the message calls it.
    """
    if not isinstance(value, Tensor) or not 2 <= value.ndim <= 4:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise RealCompoError(
            "masks", f"{name} is {shape}", "Connect MASK: (height, width) or a batch of them"
        )
    value = dense_tensor(value, "masks", "a MASK", "Connect MASK: (height, width)")
    if value.ndim == 4 and value.shape[1] != 1:
        raise RealCompoError(
            "masks", f"{name} has the shape {tuple(value.shape)}", "Convert images to masks"
        )
    if not value.numel():
        return []
    require_count(value.numel() // (value.shape[-2] * value.shape[-1]), "masks", "masks")
    planes = value.detach().to("cpu", torch.float32).reshape(-1, *value.shape[-2:])
    if not value.is_floating_point() and planes.max() > 1:
        planes = planes / 255.0
    return list(planes)


def to_mask(plane: Tensor, where: str, name: str) -> Mask:
    """``plane`` (H, W) in 0..1 as a Mask.

    Raises RealCompoError for input ``where``; ``name`` is what the message calls the mask.
    """
    try:
        return Mask.from_tensor(plane)
    except RealCompoError as error:
        raise RealCompoError(where, f"{name}: {error.problem}", error.remedy) from None


def planes_of(masks: object) -> list[Tensor]:
    """Single masks (H, W) out of a MASK, a batch of them, or a list of either.

    Raises RealCompoError for input 'masks' if there is none or something is no mask.
    """
    values = masks if isinstance(masks, (list, tuple)) else [masks]
    planes = [plane for value in values for plane in mask_planes(value)]
    require_count(len(planes), "masks", "masks")
    if not planes:
        raise RealCompoError("masks", "there is no mask", "Connect at least one")
    return planes


def regions_from_masks(
    masks: object, phrases: str, keep: Keep = "mask", prompt: str = ""
) -> list[Region]:
    """A region for every mask, with its phrase; ``keep`` = 'box' keeps the bounding box only.

    Raises RealCompoError for inputs 'masks' (empty, not 0..1, no mask) and 'phrases'.
    """
    planes = planes_of(masks)
    lines = assign_phrases(phrases, len(planes), "masks", prompt)
    regions = []
    for number, (plane, line) in enumerate(zip(planes, lines, strict=True), 1):
        mask = to_mask(plane, "masks", f"mask {number} ('{line.phrase}')")
        regions.append(named_region(line, mask.bounds(), mask if keep == "mask" else None))
    return regions


def prompt_of(layout: Layout | None, prompt: str) -> str:
    """The prompt of a layout that is added to: a typed one wins over the layout's own."""
    return prompt if prompt.strip() or layout is None else layout.prompt


def joined_layout(
    layout: Layout | None,
    regions: Sequence[Region],
    prompt: str,
    width: int | None = None,
    height: int | None = None,
) -> Layout:
    """``regions`` added to ``layout``. A typed prompt wins over the layout's own.

    ``width`` and ``height``, in pixels, are the picture's where the layout names none.
    """
    before = Layout(()) if layout is None else layout
    return Layout(
        before.regions + tuple(regions),
        prompt_of(before, prompt),
        before.width or width,
        before.height or height,
    )
