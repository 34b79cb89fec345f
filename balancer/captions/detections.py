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

from ..errors import RealCompoError, shown
from ..layouts.box_values import is_segments
from ..layouts.boxes import Size, foreign_boxes
from ..layouts.from_masks import mask_planes, to_mask
from ..layouts.layout import Box, Layout
from ..layouts.mask import Mask


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


@dataclass(frozen=True)
class _Seen:
    """A detector's word for one thing: ``box`` is None where it saw nothing after all."""

    tag: str
    box: Box | None
    mask: Mask | None = None


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


def _by_mask(plane: Tensor, name: str, tag: str = "") -> _Seen:
    """What a mask (H, W) in 0..1 shows; nothing where no pixel reaches a 255th."""
    if bool(((plane >= 0) & (plane * 255 < 1)).all()):
        return _Seen(tag, None)
    mask = to_mask(plane, "masks", name)
    return _Seen(tag, mask.bounds(), mask)


def _by_segment(segment: Any, name: str, height: int, width: int, seen: _Seen) -> _Seen:
    """What one of the Impact Pack's SEG shows: its mask in its crop, else its box ``seen``."""
    part, region = getattr(segment, "cropped_mask", None), getattr(segment, "crop_region", None)
    if part is None or region is None:
        return seen
    planes = mask_planes(torch.as_tensor(np.asarray(part)), name)
    x0, y0, x1, y1 = (int(edge) for edge in region)
    fits = len(planes) == 1 and planes[0].shape == (y1 - y0, x1 - x0)
    if not fits or min(x0, y0) < 0 or x1 > width or y1 > height:
        raise RealCompoError(
            "boxes", f"{name} has a mask of {tuple(np.shape(part))} for its crop region "
            f"{(x0, y0, x1, y1)}", "Wire SEGS of the whole picture",
        )  # fmt: skip
    whole = torch.zeros(height, width)
    whole[y0:y1, x0:x1] = planes[0].clamp(0, 1)
    return _by_mask(whole, name, seen.tag)


def _by_boxes(value: Any, size: Size) -> list[_Seen]:
    """What the boxes of one run show, SEGS with their masks; nothing for boxes without area."""
    if value is None:
        return []
    remedy = "Connect the picture that the detector looked at to 'image'"
    entries = foreign_boxes(value, size, size_remedy=remedy)
    if isinstance(entries, Layout):
        return [_Seen(region.phrase, region.box, region.mask) for region in entries.regions]
    found = []
    for entry in entries:
        x0, y0, x1, y1 = entry.values or (0.0, 0.0, 0.0, 0.0)
        box = (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
        found.append(_Seen(entry.phrase.strip(), box))
    if is_segments(value):
        height, width = (int(side) for side in value[0])
        return [
            _by_segment(segment, entry.where, height, width, seen)
            for segment, entry, seen in zip(value[1], entries, found, strict=True)
        ]
    return found


def _labels(boxed: list[list[_Seen]], count: int) -> tuple[list[list[str]], list[str]]:
    """Names that boxes lend to ``count`` masks beside them, and a remark if they do not fit."""
    labels = [seen.tag for group in boxed for seen in group]
    if len(labels) == count and all(labels):
        return [labels], []
    return [], [f"boxes: not read, {len(labels)} for {count} masks"] if boxed else []


def _large_enough(found: list[_Seen], smallest: float) -> tuple[list[Detection], list[str]]:
    """The things above ``smallest`` (0..1 of the picture), and a remark for each of the others."""
    kept, notes = [], []
    for seen in found:
        if seen.box is None:
            notes += [f"dropped: {shown(seen.tag)} (nothing there)"] if seen.tag else []
            continue
        thing = Detection(seen.tag, seen.box, seen.mask)
        if thing.area <= smallest:
            name = shown(seen.tag) if seen.tag else "a thing without a name"
            notes.append(f"dropped: {name} (smaller than 'min_area')")
        elif not seen.tag:
            raise RealCompoError(
                "tags", "there is a mask or box without a name",
                "Connect the detector's labels, or the list of names that it ran over",
            )  # fmt: skip
        else:
            kept.append(thing)
    return kept, notes


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
        groups = [_by_boxes(value, size) for value in boxes]
    except RealCompoError as error:
        raise error.at(error.node, "boxes") from None
    notes: list[str] = []
    if masks:
        boxed, groups = groups, [
            [_by_mask(plane, f"entry {number}") for plane in mask_planes(value, f"entry {number}")]
            for number, value in enumerate(masks, 1)
        ]  # fmt: skip
        if not rows:
            rows, notes = _labels(boxed, sum(map(len, groups)))
    if rows:
        names = names_for(rows, [len(group) for group in groups], "masks" if masks else "boxes")
        groups = [
            [replace(seen, tag=name or seen.tag) for seen, name in zip(*pair, strict=True)]
            for pair in zip(groups, names, strict=True)
        ]
    kept, dropped = _large_enough([seen for group in groups for seen in group], smallest)
    return kept, notes + dropped
