"""Which phrase of a prompt is about which thing that was seen in its picture.

After RealignDiff's local dense captions, by our own rules: nouns decide, attributes only between
equal nouns, so that a thing drawn in the wrong colour still is what its phrase is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import shown
from ..layouts.grid import region_grid
from ..layouts.layout import Layout, Region
from ..text.nouns import (
    Wording,
    attribute_fit,
    noun_fit,
    same_word,
    shares_attribute,
    wording,
)
from .detections import Detection

SAME = 0.85
"""From this overlap (IoU) on, two things of one name are one thing that was seen twice."""
_COMPARED = 64
"""Cells of each side of the grid on which two things are compared."""
_NOUN, _TAGGED, _WORN = 100.0, 400.0, 10.0
_ORDER = 0.5
_TIE = 1e-6
"""Sums of worths that differ by less are equally good."""


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


def assign(worth: Sequence[Sequence[float]]) -> list[int | None]:
    """For every row the column that it gets, None for none, so that the sum of worths is largest.

    A worth of 0 or less means that the two do not fit and are never put together. Of equally good
    ways earlier rows get one before later ones do, and earlier columns.
    """
    from scipy.optimize import linear_sum_assignment

    found: list[int | None] = [None] * len(worth)
    if not worth or not worth[0]:
        return found
    value = np.maximum(np.asarray(worth, dtype=np.float64), 0.0)
    rows, columns = value.shape
    row, column = np.indices(value.shape)
    late = row / rows + column * (2 * rows - row) / (2 * rows * rows * columns)
    value -= np.where(value > 0, _TIE / 2 * late, 0.0)
    for first, second in zip(*linear_sum_assignment(value, maximize=True), strict=True):
        if worth[first][second] > 0:
            found[first] = int(second)
    return found


def _named_by(seen: Detection, caption: Caption) -> bool:
    """Whether a language model said that ``caption`` is what the detector calls ``seen``."""
    words = wording(seen.tag).words
    return any(
        len(words) == len(named.words)
        and all(same_word(a, b) for a, b in zip(words, named.words, strict=True))
        for named in map(wording, caption.tags)
    )


def _worth(seen: Detection, caption: Caption) -> float:
    """How well a thing and a phrase go together; 0 if the nouns differ."""
    tag, phrase = wording(seen.tag), caption.wording
    noun = noun_fit(tag, phrase)
    if _named_by(seen, caption):
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


@dataclass
class Match:
    """Who got what: ``given`` holds for every caption the indices of the things it is about.

    ``replaced`` are captions that took the place of a thing which no phrase names, ``notes``
    remarks, one sentence each.
    """

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
        middles = [(seen.box[0] + seen.box[2]) / 2 for seen in self.found]
        worth = [
            [
                value and value + _ORDER * (1 - abs(number / last - middle))
                for value, middle in zip(row, middles, strict=True)
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
            tags = [wording(self.found[index].tag) for index in free]
            worth.append([
                _WORN + attribute_fit(tag, phrase) if shares_attribute(tag, phrase) else 0.0
                for tag in tags
            ])  # fmt: skip
        for number, index in zip(lacking, assign(worth), strict=True):
            if index is not None:
                self.given[number] = [free[index]]
                self.replaced.add(number)
                phrase, seen = self.captions[number].phrase, self.found[free[index]].tag
                self.notes.append(f"'{phrase}' takes the place of {shown(seen)}")

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
