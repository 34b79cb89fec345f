"""What detectors saw: names, masks and boxes as other nodes hand them over, in one form.

A node that takes lists gets one entry per run of the detector, so that the i-th name belongs to
the i-th entry of masks or boxes, however many it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .box_lines import BoxEntry
from .box_values import is_segments, read_value
from .boxes_io import in_pixels
from .coverage import Mask
from .errors import RealCompoError, shown
from .layout import Box, Layout

Size = tuple[int, int]
"""Width and height in pixels; 0 = unknown."""


@dataclass(frozen=True)
class Detection:
    """One thing that was seen: its name ('' if nobody said), its box in 0..1, its mask if any."""

    tag: str
    box: Box
    mask: Mask | None = None

    @property
    def area(self) -> float:
        """The share of the picture that it covers, 0..1."""
        if self.mask is not None:
            return float(self.mask.tensor().mean())
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def tag_rows(tags: Sequence[Any]) -> list[list[str]]:
    """The lines of every entry of a list of texts; no rows if nothing is said at all."""
    rows = []
    for entry in tags:
        if not isinstance(entry, str):
            kind = type(entry).__name__
            raise RealCompoError("tags", f"a name is a {kind}", "Connect STRING")
        rows.append([line.strip() for line in entry.splitlines() if line.strip()] or [""])
    return rows if any(name for row in rows for name in row) else []


def _spread(rows: list[list[str]], sizes: list[int]) -> list[list[str]] | None:
    """Names for groups of ``sizes`` things, or None if they do not fit."""
    if len(rows) == len(sizes):
        pairs = list(zip(rows, sizes, strict=True))
        if all(len(row) in (1, size) or not size for row, size in pairs):
            return [row if len(row) == size else row[:1] * size for row, size in pairs]
    flat = [name for row in rows for name in row]
    if len(flat) == len(sizes):
        return [[name] * size for name, size in zip(flat, sizes, strict=True)]
    if len(flat) == sum(sizes):
        waiting = iter(flat)
        return [[next(waiting) for _ in range(size)] for size in sizes]
    if len(flat) == 1:
        return [flat * size for size in sizes]
    return None


def names_for(rows: list[list[str]], sizes: list[int], things: str) -> list[list[str]]:
    """A name for every thing of every group; ``rows`` are the names as they came.

    One row for each group (for all its things, or one line each), one line for each group, one
    line for each thing, or one for all. A single line may list them, parted by commas or
    semicolons. Raises RealCompoError for input 'tags' if the counts do not fit.
    """
    if not rows:
        return [[""] * size for size in sizes]
    if len(rows) == 1 and len(rows[0]) == 1:
        listed = [name.strip() for name in re.split(r"[,;]", rows[0][0]) if name.strip()]
        if len(listed) > 1 and len(listed) in (sum(sizes), len(sizes)):
            rows = [listed]
    found = _spread(rows, sizes)
    if found is None:
        count = sum(len(row) for row in rows)
        raise RealCompoError(
            "tags", f"there are {count} names for {sum(sizes)} {things} of {len(sizes)} runs",
            "Give one name a line in the order of the masks or boxes, or the list of names that"
            " the detector ran over",
        )  # fmt: skip
    return found


def _planes(value: Any, number: int) -> list[Tensor]:
    """Masks (H, W), float32 in 0..1, of one MASK; detectors that miss give bytes, or no mask."""
    if not isinstance(value, Tensor) or not 2 <= value.ndim <= 4:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise RealCompoError(
            "masks", f"entry {number} is {shape}", "Connect MASK: (height, width) or a batch of it"
        )
    if value.ndim == 4 and value.shape[1] != 1:
        shape = tuple(value.shape)
        problem, remedy = f"entry {number} has the shape {shape}", "Convert images to masks"
        raise RealCompoError("masks", problem, remedy)
    if not value.numel():
        return []
    planes = value.detach().to("cpu", torch.float32).reshape(-1, *value.shape[-2:])
    if not value.is_floating_point() and planes.max() > 1:
        planes = planes / 255.0
    if not bool(torch.isfinite(planes).all()) or planes.min() < 0 or planes.max() > 1:
        raise RealCompoError(
            "masks", f"entry {number} has values outside 0..1", "Connect masks, not scores"
        )
    return list(planes)


def _from_segments(value: Sequence[Any]) -> list[Detection]:
    """The Impact Pack's SEGS, by their attributes alone: label, crop_region, cropped_mask."""
    height, width = (int(size) for size in value[0])
    found = []
    for number, segment in enumerate(value[1], 1):
        label = getattr(segment, "label", None)
        tag = label if isinstance(label, str) else ""
        part, region = getattr(segment, "cropped_mask", None), getattr(segment, "crop_region", None)
        if part is None or region is None:
            x0, y0, x1, y1 = (float(edge) for edge in segment.bbox)
            box = (x0 / width, y0 / height, x1 / width, y1 / height)
            found.append(Detection(tag, box))
            continue
        plane = torch.as_tensor(np.asarray(part)).float()
        plane = plane.reshape(plane.shape[-2:])
        x0, y0, x1, y1 = (int(edge) for edge in region)
        if plane.shape != (y1 - y0, x1 - x0) or min(x0, y0) < 0 or x1 > width or y1 > height:
            raise RealCompoError(
                "boxes", f"segment {number} has a mask of {tuple(plane.shape)} for its crop region "
                f"{(x0, y0, x1, y1)}", "Wire SEGS of the whole picture",
            )  # fmt: skip
        whole = torch.zeros(height, width)
        whole[y0:y1, x0:x1] = plane.clamp(0, 1)
        if whole.max() * 255 >= 1:
            mask = Mask.from_tensor(whole)
            found.append(Detection(tag, mask.bounds(), mask))
        else:
            found.append(Detection(tag, (0.0, 0.0, 0.0, 0.0)))
    return found


def _from_boxes(value: Any, size: Size) -> list[Detection]:
    """Boxes of one run in 0..1, cut at the picture's edge; what has no area there stays so."""
    if isinstance(value, (list, tuple)) and is_segments(value):
        return _from_segments(value)
    entries = read_value(value) if value is not None else []
    if isinstance(entries, Layout):
        return [Detection(region.phrase, region.box, region.mask) for region in entries.regions]
    boxless: BoxEntry | None = next((entry for entry in entries if entry.values is None), None)
    if boxless is not None:
        raise RealCompoError("boxes", f"{boxless.where} has no box", "Wire a detector's boxes")
    open_units = [entry for entry in entries if not entry.relative]
    scale = (1, 1, 1, 1)
    if open_units and in_pixels(open_units, typed=False):
        if min(size) <= 0:
            raise RealCompoError(
                "boxes", "they are in pixels of a picture of unknown size",
                "Connect the picture that the detector looked at to 'image'",
            )  # fmt: skip
        scale = (*size, *size)
    found = []
    for entry in entries:
        values = entry.values or (0.0, 0.0, 0.0, 0.0)
        if not entry.relative:
            values = tuple(value / side for value, side in zip(values, scale, strict=True))
        x0, y0, x1, y1 = (min(1.0, max(0.0, value)) for value in values)
        found.append(Detection(entry.phrase.strip(), (x0, y0, x1, y1)))
    return found


def _masked(planes: list[Tensor], names: list[str]) -> list[Detection]:
    found = []
    for plane, name in zip(planes, names, strict=True):
        if plane.max() * 255 < 1:
            found.append(Detection(name, (0.0, 0.0, 0.0, 0.0)))
        else:
            mask = Mask.from_tensor(plane)
            found.append(Detection(name, mask.bounds(), mask))
    return found


def read_detections(
    masks: Sequence[Any] = (),
    boxes: Sequence[Any] = (),
    tags: Sequence[Any] = (),
    size: Size = (0, 0),
    smallest: float = 0.0,
) -> tuple[list[Detection], list[str]]:
    """Everything that was seen, and remarks: one sentence for each thing that was dropped.

    Each argument is a list with one entry for each run of the detector. ``masks`` are MASK tensors
    of any size, ``boxes`` whatever ``boxes_io.parse_boxes`` reads, or SEGS, whose masks count;
    where masks are given, boxes lend them their names only. ``tags`` are texts, see ``names_for``;
    they go before the boxes' own labels. ``size`` is the picture's, for boxes in pixels. What
    covers no more than ``smallest`` (0..1) of the picture is dropped.

    Raises RealCompoError for input 'masks', 'boxes' or 'tags'.
    """
    rows = tag_rows(tags)
    try:
        boxed = [_from_boxes(value, size) for value in boxes]
    except RealCompoError as error:
        raise error.at(error.node, "boxes") from None
    groups: list[list[Detection]] = boxed
    notes: list[str] = []
    if masks:
        planes = [_planes(value, number) for number, value in enumerate(masks, 1)]
        sizes = [len(group) for group in planes]
        labels = [seen.tag for group in boxed for seen in group]
        if not rows and len(labels) == sum(sizes) and all(labels):
            rows = [labels]
        elif boxed and not rows:
            notes.append(f"boxes: not read, {len(labels)} for {sum(sizes)} masks")
        names = names_for(rows, sizes, "masks")
        groups = [_masked(group, said) for group, said in zip(planes, names, strict=True)]
    elif rows:
        names = names_for(rows, [len(group) for group in boxed], "boxes")
        groups = [
            [replace(seen, tag=name or seen.tag) for seen, name in zip(g, n, strict=True)]
            for g, n in zip(boxed, names, strict=True)
        ]
    kept: list[Detection] = []
    for seen in (seen for group in groups for seen in group):
        called = shown(seen.tag) if seen.tag else "a thing without a name"
        if seen.area <= smallest or seen.area == 0.0:
            why = "nothing there" if seen.area == 0.0 else "smaller than 'min_area'"
            if seen.tag or seen.area:
                notes.append(f"dropped: {called} ({why})")
        elif not seen.tag:
            raise RealCompoError(
                "tags", "there is a mask or box without a name",
                "Connect the detector's labels, or the list of names that it ran over",
            )  # fmt: skip
        else:
            kept.append(seen)
    return kept, notes
