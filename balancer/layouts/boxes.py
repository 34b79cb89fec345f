"""Boxes as people and other nodes write them, made into regions.

What cannot be meant is refused with the line or the number of the box that is at fault.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import RealCompoError
from .box_lines import BoxEntry, phrases_alone
from .box_values import read_value
from .from_masks import named_region
from .layout import Layout, Region

Size = tuple[int, int]
"""Width and height in pixels; 0 = unknown."""

_LINE = "Write: phrase: x0 y0 x1 y1"
_OVERHANG = 0.05
"""Share of the image by which a detector's box may leave it."""


def _in_pixels(entries: list[BoxEntry], typed: bool) -> bool:
    """Whether the numbers count pixels; typed lines must agree with each other about it.

    A detector's box may overhang a little (1.003 of the width) or start at a fraction of a pixel,
    so its boxes are decided about together: pixels as soon as one number is above 2.
    """
    highest = max((max(entry.values or (0.0,)) for entry in entries), default=0.0)
    if not typed:
        return highest > 2
    if highest > 1:
        for entry in entries:
            values = entry.values or ()
            if max(values) <= 1 or any(0 < abs(value) < 1 for value in values):
                raise RealCompoError(
                    "phrases",
                    f"{entry.where} mixes shares of the image (0 to 1) with pixels",
                    "Write all numbers as shares or all as pixels",
                )
    return highest > 1


def _in_shares(
    entries: list[BoxEntry], size: Size, typed: bool, size_remedy: str = ""
) -> list[BoxEntry]:
    """All boxes in shares of the image; those of other nodes are cut at its edge.

    ``size_remedy`` says how the node comes to know the picture's size, where not by two fields.
    """
    where = "phrases" if typed else "boxes"
    open_units = [entry for entry in entries if not entry.relative]
    scale = (1, 1, 1, 1)
    if _in_pixels(open_units, typed):
        if min(size) <= 0:
            raise RealCompoError(
                where,
                f"{open_units[0].where} is in pixels of an image of unknown size",
                size_remedy or "Set 'width' and 'height', or give shares between 0 and 1",
            )
        scale = (*size, *size)
    out = []
    for entry in entries:
        values = entry.values or (0.0, 0.0, 0.0, 0.0)
        if not entry.relative:
            values = tuple(value / side for value, side in zip(values, scale, strict=True))
        if entry.sized and max(values[2:]) > 1 + _OVERHANG:
            remedy = size_remedy or "Set 'width' and 'height' to the picture's size"
            raise RealCompoError(
                where,
                f"{entry.where} is read as x, y, width and height because it has '{entry.sized}',"
                " and then leaves the image",
                f"{remedy}, or give corners as 'xyxy'",
            )
        if not typed:
            values = tuple(min(1.0, max(0.0, value)) for value in values)
        out.append(replace(entry, values=values))
    return out


def foreign_boxes(
    value: Any, size: Size, prompt: str = "", size_remedy: str = ""
) -> list[BoxEntry] | Layout:
    """Boxes of another node in 0..1, cut at the image's edge, or the layout that it wires.

    Every box has values; what lies outside the image has no area then. ``size`` (width, height)
    in pixels, 0 = unknown, is needed for boxes in pixels; ``size_remedy`` says where the node has
    it from. Raises RealCompoError for input 'boxes'.
    """
    try:
        found = read_value(value, prompt)
    except RealCompoError as error:
        raise error.at(error.node, "boxes") from None
    if isinstance(found, Layout):
        return found
    lacking = next((entry for entry in found if entry.values is None), None)
    if lacking is not None:
        raise RealCompoError("boxes", f"{lacking.where} has {_no_box(lacking)}", _LINE)
    return _in_shares(found, size, typed=False, size_remedy=size_remedy)


def _give_names(entries: list[BoxEntry], names: list[BoxEntry]) -> list[BoxEntry]:
    """Boxes with the phrases of ``names``: for all boxes, or for those that bring none."""
    nameless = [index for index, entry in enumerate(entries) if not entry.phrase.strip()]
    targets = list(range(len(entries))) if len(names) == len(entries) else nameless
    if len(names) != len(targets):
        raise RealCompoError(
            "phrases",
            f"there are {len(names)} phrases for {len(targets)} boxes without a name "
            f"({len(entries)} boxes in all)",
            "Write one phrase a line, in the order of the boxes",
        )
    out = list(entries)
    for index, name in zip(targets, names, strict=True):
        out[index] = replace(
            out[index], phrase=name.phrase, occurrence=name.occurrence, weight=name.weight
        )
    return out


def _region(entry: BoxEntry, where: str) -> Region:
    """The region of a box in 0..1; RealCompoError for input ``where`` if it is no box there."""
    x0, y0, x1, y1 = entry.values or (0.0, 0.0, 0.0, 0.0)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise RealCompoError(
            where,
            f"{entry.where} is no box inside the image",
            "Give the top left corner, then the bottom right one: x0 y0 x1 y1",
        )
    return named_region(entry, (x0, y0, x1, y1))


def _no_box(entry: BoxEntry) -> str:
    """What a line has in place of a box; a single number is more likely the phrase's own."""
    return f"{entry.numbers} numbers where a box has 4" if entry.numbers > 1 else "no box"


def _typed(text: str, size: Size, prompt: str) -> list[Region]:
    """Regions of lines or JSON that bring both phrases and boxes."""
    found = read_value(text, prompt)
    if isinstance(found, Layout):
        return list(found.regions)
    for entry in found:
        if entry.values is None:
            raise RealCompoError(
                "phrases",
                f"{entry.where} has {_no_box(entry)}",
                "Write: phrase: x0 y0 x1 y1, or connect 'boxes'",
            )
        if not entry.phrase.strip():
            raise RealCompoError("phrases", f"{entry.where} has no phrase", "Name what it holds")
    lines = not text.lstrip().startswith(("{", "["))
    return [_region(entry, "phrases") for entry in _in_shares(found, size, typed=lines)]


def parse_boxes(
    value: Any, phrases: str = "", width: int = 0, height: int = 0, prompt: str = ""
) -> list[Region]:
    """Regions from typed lines, or from the boxes of another node and typed phrases.

    Without ``value`` (None or an empty text), ``phrases`` holds everything: lines such as
    ``a red star: 0.1 0.2 0.5 0.6`` (commas and one pair of brackets are fine, ``#2`` after the
    phrase means its second occurrence in the prompt, ``*1.5`` a weight, lines that start with
    ``#`` and a blank are comments; wordings of ``prompt`` are phrases whatever they look like, and
    a backslash takes a sign's meaning away), or any JSON listed below.

    ``value`` may be text lines, a JSON text, a ``Layout``, a list, array or tensor of
    ``[x0, y0, x1, y1]``, of dicts with ``box``/``bbox``/``bounding_box``, or of ComfyUI's
    BOUNDING_BOX dicts ``{x, y, width, height}`` (also nested once for each picture), elements
    ``{type, bbox, text, desc}`` whose bbox is [y0, x0, y1, x1] in 0..1000, ``{bboxes, labels}``,
    COCO annotations or a whole COCO file, whose bbox is x, y, width, height, or the Impact Pack's
    SEGS. Its boxes keep their own labels; phrase lines name those that have
    none, or all if there are as many lines as boxes. Plain lists are corners, never x, y, w, h.

    Pixels need ``width`` and ``height``. Typed numbers above 1 are pixels, and lines that mix
    them with shares are refused; typed boxes must lie inside the image. Boxes of other nodes are
    pixels if one number is above 2, and are cut at the image's edge. Raises RealCompoError, whose
    input is 'phrases' or 'boxes'.
    """
    empty = value is None or (isinstance(value, str) and not value.strip())
    if empty:
        try:
            return _typed(phrases, (width, height), prompt)
        except RealCompoError as error:
            # The reader of values cannot know which field a text came from.
            raise error.at(error.node, "phrases") from None

    found = foreign_boxes(value, (width, height), prompt)
    names = phrases_alone(
        phrases, "'boxes' is connected as well",
        "Leave the numbers away there, or disconnect 'boxes'", prompt,
    )  # fmt: skip
    if isinstance(found, Layout):
        if names:
            raise RealCompoError(
                "phrases", "the wired layout has its own phrases", "Empty the field 'phrases'"
            )
        return list(found.regions)
    if names or any(not entry.phrase.strip() for entry in found):
        found = _give_names(found, names)
    return [_region(entry, "boxes") for entry in found]
