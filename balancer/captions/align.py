"""Phrases of a prompt for the things that a detector saw in its picture, and regions for both.

After RealignDiff's local dense captions, by our own rules: the nouns say which thing a phrase is
about, the attributes come from the prompt and not from what was drawn, so that drawing again puts
right what is wrong about a thing that is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from ..errors import RealCompoError
from ..layouts.from_masks import Keep
from ..layouts.grid import region_grid
from ..layouts.layout import Box, Layout, Region, checked_phrases, checked_prompt
from ..layouts.mask import Mask
from ..planner.free_room import free_box, planned_boxes, taken_room
from ..text.nouns import wording
from ..text.parse import Parsed, occurrences, parse_prompt
from ..text.weights import plain_text
from .detections import Detection
from .match import Caption, Match, once

Missing = Literal["place", "leave out"]
"""What becomes of a phrase that was not found: a box in free room, or nothing."""
Several = Literal["unite", "separate"]
"""Whether the things of one phrase become one region or one each."""


@dataclass(frozen=True)
class Aligned:
    """Regions in the prompt's order, the prompt that holds their phrases, and remarks."""

    regions: tuple[Region, ...]
    prompt: str
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def captions_by_rules(prompt: str) -> tuple[list[Caption], list[str]]:
    """The noun phrases of ``prompt`` that name a thing, weight 1, and remarks.

    Raises RealCompoError for input 'prompt' if it names none.
    """
    text = plain_text(checked_prompt(prompt))
    parsed = parse_prompt(text)
    if not parsed.things:
        raise RealCompoError(
            "prompt", "the rules find no thing in it",
            "Name things, as in 'a red star and a blue circle', or use a language model",
        )  # fmt: skip
    checked_phrases(thing.phrase for thing in parsed.things)
    order = occurrences(text, parsed.things)
    captions = [Caption(t.phrase, n) for t, n in zip(parsed.things, order, strict=True)]
    return captions, list(parsed.notes)


def _united(group: Sequence[Detection]) -> Mask:
    """One mask of several things, at the resolution of the finest."""
    height = max([seen.mask.height for seen in group if seen.mask is not None] or [256])
    width = max([seen.mask.width for seen in group if seen.mask is not None] or [256])
    plane = torch.zeros(height, width)
    for seen in group:
        if seen.mask is None:
            part = region_grid(Layout((Region("thing", seen.box),)), height, width)[0]
        else:
            part = seen.mask.tensor()
            if part.shape != plane.shape:
                part = functional.interpolate(
                    part[None, None], (height, width), mode="bilinear", align_corners=False
                )[0, 0]
        plane = torch.maximum(plane, part)
    return Mask.from_tensor(plane.clamp(0, 1))


def _regions(caption: Caption, group: Sequence[Detection], several: Several) -> list[Region]:
    options = {"occurrence": caption.occurrence, "weight": caption.weight}
    if several == "separate" or len(group) == 1:
        return [Region(caption.phrase, seen.box, seen.mask, **options) for seen in group]
    return [Region.from_mask(caption.phrase, _united(group), **options)]


def _planned(parsed: Parsed, boxes: list[list[Box]], caption: Caption) -> tuple[int, list[Box]]:
    """Number and boxes of the thing that a caption is about; the whole picture's middle for a
    phrase that the rules do not know."""
    for number, thing in enumerate(parsed.things):
        if wording(thing.phrase) == caption.wording:
            return number, boxes[number]
    return -1, [(0.3, 0.3, 0.7, 0.7)]


def _handy(box: Box, found: Sequence[Box]) -> Box:
    """A wish for room made nearly square, and no larger than the largest thing that was found: the
    planner fills the picture, which what stands there already does not."""
    width, height = box[2] - box[0], box[3] - box[1]
    most = 1.2 * min(width, height)
    sides = [side for b in found for side in (b[2] - b[0], b[3] - b[1])]
    most = min([most, max(sides)] if sides else [most])
    most = max(most, 0.15)
    width, height = min(width, most), min(height, most)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _given_by(layout: Layout | None, caption: Caption) -> list[Region]:
    """A layout's regions for the phrase."""
    wanted = caption.wording
    regions = () if layout is None else layout.regions
    return [
        replace(region, phrase=caption.phrase, occurrence=caption.occurrence,
                weight=caption.weight, tokens=None)
        for region in regions
        if wording(region.phrase) == wanted
    ]  # fmt: skip


Made = dict[int, list[Region]]
"""Regions of every caption that has some, by the caption's index."""


def _put_into_room(
    captions: Sequence[Caption], lacking: Sequence[int], made: Made, prompt: str, aspect: float
) -> list[str]:
    """Boxes in free room for the captions ``lacking``, into ``made``; a remark for each."""
    parsed, boxes = planned_boxes(plain_text(prompt), aspect) if lacking else (Parsed(), [])
    notes = []
    for number in lacking:
        caption = captions[number]
        thing, wishes = _planned(parsed, boxes, caption)
        known = {
            _planned(parsed, boxes, captions[other])[0]: regions[0].box
            for other, regions in made.items()
        }
        stands = [region.box for regions in made.values() for region in regions]
        made[number], crowded = [], 0.0
        for wish in (_handy(wish, stands) for wish in wishes):
            taken = taken_room([region for regions in made.values() for region in regions])
            box, share = free_box(wish, taken, thing, parsed, known)
            crowded = max(crowded, share)
            made[number].append(
                Region(caption.phrase, box, None, caption.occurrence, caption.weight)
            )
        where = "free room" if crowded < 0.05 else "the freest room, over other things"
        notes.append(f"not found: '{caption.phrase}', put into {where}")
    return notes


def align(
    captions: Sequence[Caption],
    found: Sequence[Detection],
    prompt: str,
    missing: Missing = "place",
    several: Several = "unite",
    fallback: Layout | None = None,
    aspect: float = 1.0,
    keep: Keep = "mask",
) -> Aligned:
    """Regions for ``captions`` by what was ``found`` in the picture.

    A phrase gets the thing whose name has its noun; attributes decide between several. A phrase
    without one gets a thing that no phrase names but whose attributes fit, then the regions that
    ``fallback`` has for it, and then, if ``missing`` is 'place', a box in free room, about where
    the planner's rules would put it. ``several`` says whether the things of one phrase become one
    region or one each, ``keep`` whether their exact shape counts or the box around it; ``aspect``
    is the picture's width divided by its height.

    Raises RealCompoError for input 'missing' if no phrase has a region then.
    """
    found = once(found)
    match = Match(captions, found)
    made: Made = {}
    for number, (caption, row) in enumerate(zip(captions, match.given, strict=True)):
        group = [found[index] for index in row]
        if keep == "box" or number in match.replaced:
            # the outline of what takes another thing's place is that other thing's
            group = [replace(seen, mask=None) for seen in group]
        if group:
            made[number] = _regions(caption, group, several)
    notes, lacking = list(match.notes), []
    for number, caption in enumerate(captions):
        if number in made:
            continue
        if regions := _given_by(fallback, caption):
            made[number] = regions
            notes.append(f"not found: '{caption.phrase}', stands where 'fallback' has it")
        else:
            lacking.append(number)
    absent = [captions[number].phrase for number in lacking] if missing == "leave out" else []
    notes += [f"not found: '{phrase}', has no region" for phrase in absent]
    if missing == "place":
        notes += _put_into_room(captions, lacking, made, prompt, aspect)
    regions = tuple(region for number in sorted(made) for region in made[number])
    if not regions:
        raise RealCompoError(
            "missing", "nothing that the prompt names was found in the picture",
            "Set 'missing' to 'place', connect a 'fallback' layout, or lower the detector's"
            " threshold",
        )  # fmt: skip
    return Aligned(regions, prompt, tuple(notes), tuple(absent))
