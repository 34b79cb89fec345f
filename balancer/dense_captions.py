"""Phrases of a prompt for the things that a detector saw in its picture, and regions for both.

After RealignDiff's local dense captions, by our own rules: the nouns say which thing a phrase is
about, the attributes come from the prompt and not from what was drawn, so that drawing again puts
right what is wrong about a thing that is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional

from .assignment import assign
from .coverage import Mask
from .detections import Detection
from .errors import RealCompoError, shown
from .free_place import free_box, planned_boxes, taken_room
from .layout import Box, Layout, Region, checked_phrases, checked_prompt
from .masks import region_grid
from .noun_words import (
    Wording,
    attribute_fit,
    noun_fit,
    same_word,
    shares_attribute,
    wording,
)
from .planner_parse import Parsed, parse_prompt
from .words import mention, plain_text, words_of

LEAVE_OUT, PLACE = "leave out", "place"
MISSING = (PLACE, LEAVE_OUT)
UNITE, SEPARATE = "unite", "separate"
SEVERAL = (UNITE, SEPARATE)
MASK, BOX = "mask", "box"
KEEP = (MASK, BOX)
SAME = 0.85
"""From this overlap (IoU) on, two things of one name are one thing that was seen twice."""
_COMPARED = 64
_NOUN, _TAGGED, _WORN = 100.0, 400.0, 10.0
_ORDER = 0.5


@dataclass(frozen=True)
class Caption:
    """One phrase of the prompt: which occurrence, its weight > 0, and the detector's names for it,
    if a language model said them ('' otherwise: words decide)."""

    phrase: str
    occurrence: int = 0
    weight: float = 1.0
    tags: tuple[str, ...] = ()

    @property
    def wording(self) -> Wording:
        """The phrase taken apart."""
        return wording(self.phrase)


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
    spoken: dict[tuple[str, ...], int] = defaultdict(int)
    captions = []
    for thing in parsed.things:
        key = tuple(word.text for word in words_of(thing.phrase))
        order = mention(text, thing.phrase, thing.start)
        occurrence = spoken[key] if order is None else order
        spoken[key] += 1
        captions.append(Caption(thing.phrase, occurrence))
    return captions, list(parsed.notes)


def _said_of(seen: Detection, caption: Caption) -> bool:
    words = wording(seen.tag).words
    return any(
        len(words) == len(said.words)
        and all(same_word(a, b) for a, b in zip(words, said.words, strict=True))
        for said in map(wording, caption.tags)
    )


def _worth(seen: Detection, caption: Caption) -> float:
    """How well a thing and a phrase go together; 0 if the nouns differ."""
    tag, phrase = wording(seen.tag), caption.wording
    noun = noun_fit(tag, phrase)
    if _said_of(seen, caption):
        return _TAGGED + attribute_fit(tag, phrase)
    return _NOUN * noun + attribute_fit(tag, phrase) if noun else 0.0


def _iou(one: Detection, other: Detection) -> float:
    pair = Layout(tuple(Region("thing", seen.box, seen.mask) for seen in (one, other)))
    first, second = region_grid(pair, _COMPARED, _COMPARED, soft=True)
    both, either = torch.minimum(first, second).sum(), torch.maximum(first, second).sum()
    return float(both / either) if either > 0 else 0.0


def once(found: Sequence[Detection]) -> list[Detection]:
    """``found`` without things that were seen twice under one name: a detector that runs once for
    each phrase finds the same circle for 'a red circle' and for 'a blue circle'."""
    kept: list[Detection] = []
    for seen in found:
        twins = (k for k in kept if k.tag.casefold() == seen.tag.casefold())
        if not any(_iou(seen, twin) >= SAME for twin in twins):
            kept.append(seen)
    return kept


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@dataclass
class _Match:
    """Who got what: for every caption the things that it is about."""

    captions: Sequence[Caption]
    found: Sequence[Detection]
    given: list[list[int]] = field(init=False)
    replaced: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = [[] for _ in self.captions]
        self._worth = [[_worth(seen, one) for seen in self.found] for one in self.captions]
        self._by_noun()
        self._by_attribute()
        self._rest()

    @property
    def _free(self) -> list[int]:
        taken = {index for row in self.given for index in row}
        return [index for index in range(len(self.found)) if index not in taken]

    def _by_noun(self) -> None:
        """One thing for each phrase; equally good ones from left to right, as the prompt goes."""
        last = max(1, len(self.captions) - 1)
        worth = [
            [
                value
                and value + _ORDER * (1 - abs(number / last - _centre(self.found[index].box)[0]))
                for index, value in enumerate(row)
            ]
            for number, row in enumerate(self._worth)
        ]
        for row, index in zip(self.given, assign(worth), strict=True):
            row += [] if index is None else [index]

    def _by_attribute(self) -> None:
        """A thing that no phrase names gives its place to a missing one that is said to look so:
        a red circle in the place of the red square that was asked for."""
        lacking = [n for n, row in enumerate(self.given) if not row]
        free = self._free
        worth = []
        for number in lacking:
            phrase = self.captions[number].wording
            row = []
            for index in free:
                tag = wording(self.found[index].tag)
                alike = shares_attribute(tag, phrase)
                row.append(_WORN + attribute_fit(tag, phrase) if alike else 0.0)
            worth.append(row)
        for number, place in zip(lacking, assign(worth), strict=True):
            if place is not None:
                self.given[number] = [free[place]]
                self.replaced.add(number)
                said, seen = self.captions[number].phrase, self.found[free[place]].tag
                self.notes.append(f"'{said}' takes the place of {shown(seen)}")

    def _rest(self) -> None:
        """Things that fit a phrase as well as the one it has belong to it, too."""
        for index in self._free:
            fits = [
                number
                for number, row in enumerate(self.given)
                if row
                and number not in self.replaced
                and self._worth[number][index] > 0
                and self._worth[number][index] >= self._worth[number][row[0]] - 1e-6
            ]
            if len(fits) == 1:
                self.given[fits[0]].append(index)
                continue
            named = any(self._worth[number][index] > 0 for number in range(len(self.captions)))
            why = "more than the prompt names" if named else "not in the prompt"
            self.notes.append(f"left out: {shown(self.found[index].tag)} ({why})")


def _united(group: Sequence[Detection]) -> Mask:
    """One mask of several things, at the resolution of the finest."""
    high = max([seen.mask.height for seen in group if seen.mask is not None] or [256])
    wide = max([seen.mask.width for seen in group if seen.mask is not None] or [256])
    plane = torch.zeros(high, wide)
    for seen in group:
        if seen.mask is None:
            part = region_grid(Layout((Region("thing", seen.box),)), high, wide)[0]
        else:
            part = seen.mask.tensor()
            if part.shape != plane.shape:
                part = functional.interpolate(
                    part[None, None], (high, wide), mode="bilinear", align_corners=False
                )[0, 0]
        plane = torch.maximum(plane, part)
    return Mask.from_tensor(plane.clamp(0, 1))


def _regions(caption: Caption, group: Sequence[Detection], several: str) -> list[Region]:
    options = {"occurrence": caption.occurrence, "weight": caption.weight}
    if several == SEPARATE or len(group) == 1:
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
    wide, high = box[2] - box[0], box[3] - box[1]
    most = 1.2 * min(wide, high)
    sides = [side for b in found for side in (b[2] - b[0], b[3] - b[1])]
    most = min([most, max(sides)] if sides else [most])
    most = max(most, 0.15)
    wide, high, x, y = min(wide, most), min(high, most), *_centre(box)
    return (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)


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


def align(
    captions: Sequence[Caption],
    found: Sequence[Detection],
    prompt: str,
    missing: str = PLACE,
    several: str = UNITE,
    fallback: Layout | None = None,
    aspect: float = 1.0,
    keep: str = MASK,
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
    match = _Match(captions, found)
    notes, made = list(match.notes), {}
    for number, (caption, row) in enumerate(zip(captions, match.given, strict=True)):
        group = [found[index] for index in row]
        if keep == BOX or number in match.replaced:
            # the outline of what takes another thing's place is that other thing's
            group = [replace(seen, mask=None) for seen in group]
        if group:
            made[number] = _regions(caption, group, several)
    lacking = [number for number in range(len(captions)) if number not in made]
    for number in list(lacking):
        regions = _given_by(fallback, captions[number])
        if regions:
            made[number] = regions
            lacking.remove(number)
            notes.append(f"not found: '{captions[number].phrase}', stands where 'fallback' has it")
    parsed, boxes = planned_boxes(plain_text(prompt), aspect) if lacking else (Parsed(), [])
    absent = []
    for number in lacking:
        caption = captions[number]
        if missing != PLACE:
            absent.append(caption.phrase)
            notes.append(f"not found: '{caption.phrase}', has no region")
            continue
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
    regions = tuple(region for number in sorted(made) for region in made[number])
    if not regions:
        raise RealCompoError(
            "missing", "nothing that the prompt names was found in the picture",
            f"Set 'missing' to '{PLACE}', connect a 'fallback' layout, or lower the detector's"
            " threshold",
        )  # fmt: skip
    return Aligned(regions, prompt, tuple(notes), tuple(absent))
