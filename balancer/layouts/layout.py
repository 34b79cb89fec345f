"""What shall stand where: regions of phrases and boxes, free of any resolution.

A layout is the one value that every method of this pack shares. It is immutable, so that nodes can
pass it on without copying, and it survives a round trip through JSON, so that it can live in a
workflow file or come from a language model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RealCompoError, shown
from ..values.checked import LONGEST_PROMPT
from ..values.foreign_json import parse_json
from .mask import MOST_PIXELS, Mask, claimed_pixels, too_many_pixels

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in 0..1 of the image's width and height, origin top left."""

SCHEMA = 1
"""Version of the JSON form; a reader refuses forms that are newer than itself."""

MOST_REGIONS = 1024
"""Regions of one layout."""
LONGEST_PHRASE = 1000
"""Characters of a region's phrase, which is a wording of the prompt."""
MOST_TOKENS = 4096
"""Explicit token positions of one region."""
LAST_TOKEN = 1 << 20
"""Largest explicit token position."""
LAST_OCCURRENCE = LONGEST_PROMPT
"""Largest number of an occurrence: a prompt has no more than one a character."""
LARGEST_PICTURE = 1 << 16
"""Pixels of the longer side of the picture that a layout is drawn for."""


def _refuse(problem: str, remedy: str) -> RealCompoError:
    return RealCompoError("layout", problem, remedy)


def is_number(value: object) -> bool:
    """True for a finite int or float; a bool is no coordinate."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond a float's range
        return False


def is_count(value: object) -> bool:
    """True for an int of at least zero that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def checked_prompt(text: str, where: str = "prompt") -> str:
    """``text``, or a RealCompoError for input ``where`` if it is longer than ``LONGEST_PROMPT``.

    For whoever works on a prompt before there is a layout of it.
    """
    if len(text) > LONGEST_PROMPT:
        raise RealCompoError(
            where, f"the prompt has {len(text)} characters",
            f"Shorten it: up to {LONGEST_PROMPT} are read",
        )  # fmt: skip
    return text


def checked_phrases(phrases: Iterable[str], where: str = "prompt") -> None:
    """RealCompoError for input ``where`` if one of the things that a prompt names is too long."""
    for phrase in phrases:
        if len(phrase) > LONGEST_PHRASE:
            raise RealCompoError(
                where, f"it names one thing in {len(phrase)} characters: {shown(phrase)}",
                f"Part its things by commas or 'and'; up to {LONGEST_PHRASE} characters each",
            )  # fmt: skip


def checked_box(box: object, name: str) -> Box:
    """``box`` as a tuple of four floats in 0..1 with positive area, or a RealCompoError.

    ``name`` says in the message whose box it is.
    """
    if not isinstance(box, (tuple, list)) or len(box) != 4 or not all(map(is_number, box)):
        raise _refuse(
            f"{name} has the box {shown(box)}", "A box is four finite numbers: x0, y0, x1, y1"
        )
    x0, y0, x1, y1 = (float(v) for v in box)
    said = f"{name} has the box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if min(x0, y0, x1, y1) < 0 or max(x0, y0, x1, y1) > 1:
        raise _refuse(
            f"{said}, which leaves the image",
            "Coordinates are shares of the image's width and height, between 0 and 1",
        )
    if x1 <= x0 or y1 <= y0:
        raise _refuse(
            f"{said}, which has no area",
            "Give the top left corner first: x0 < x1 and y0 < y1",
        )
    return (x0, y0, x1, y1)


@dataclass(frozen=True)
class Region:
    """One phrase of the prompt and the place where it shall stand.

    ``phrase`` is a wording of the prompt ("a red star"); ``box`` its place in 0..1 (with a
    ``mask`` the box is always the mask's bounds, whatever was given); ``occurrence`` which
    occurrence of the phrase in the prompt is meant (0 = first); ``weight`` > 0 the factor of this
    region's term in the loss; ``tokens`` explicit token positions that replace the search for the
    phrase. Raises RealCompoError for values that cannot be meant.
    """

    phrase: str
    box: Box
    mask: Mask | None = None
    occurrence: int = 0
    weight: float = 1.0
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.phrase, str):
            raise _refuse(f"a region's phrase is {shown(self.phrase)}", "A phrase is a text")
        if len(self.phrase) > LONGEST_PHRASE:
            raise _refuse(
                f"the region {shown(self.phrase)} has a phrase of {len(self.phrase)} characters",
                f"Name it with the few words of the prompt that it is about; up to {LONGEST_PHRASE}"
                " characters are read",
            )
        object.__setattr__(self, "phrase", " ".join(self.phrase.split()))
        name = f"the region {shown(self.phrase)}"
        if self.tokens is not None:
            tokens = self.tokens
            listed = isinstance(tokens, (tuple, list)) and 0 < len(tokens) <= MOST_TOKENS
            if not listed or not all(is_count(token) and token <= LAST_TOKEN for token in tokens):
                raise _refuse(
                    f"{name} has the token positions {shown(tokens)}",
                    f"Give 1 to {MOST_TOKENS} whole numbers from 0 to {LAST_TOKEN}, or leave them"
                    " out to search the phrase",
                )
            object.__setattr__(self, "tokens", tuple(tokens))
        elif not self.phrase:
            raise _refuse(
                "a region has neither a phrase nor token positions",
                "Name the words of the prompt that the region belongs to",
            )
        if self.mask is not None:
            if not isinstance(self.mask, Mask):
                raise _refuse(f"{name} has the mask {type(self.mask).__name__}", "Give a Mask")
            object.__setattr__(self, "box", self.mask.bounds())
        object.__setattr__(self, "box", checked_box(self.box, name))
        if not is_count(self.occurrence) or self.occurrence > LAST_OCCURRENCE:
            raise _refuse(
                f"{name} asks for occurrence {shown(self.occurrence)}",
                "0 means the first occurrence",
            )
        if not is_number(self.weight) or self.weight <= 0:
            raise _refuse(
                f"{name} has the weight {shown(self.weight)}",
                "A weight is a positive number; remove the region if it shall not count",
            )
        object.__setattr__(self, "weight", float(self.weight))

    @classmethod
    def from_mask(cls, phrase: str, mask: Mask, **options: Any) -> Region:
        """The region of ``mask``; ``options`` are the remaining fields."""
        return cls(phrase, (0.0, 0.0, 1.0, 1.0), mask, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields at their default are left out, box and phrase never."""
        out: dict[str, Any] = {"phrase": self.phrase, "box": list(self.box)}
        if self.mask is not None:
            out["mask"] = self.mask.to_dict()
        if self.occurrence:
            out["occurrence"] = self.occurrence
        if self.weight != 1.0:
            out["weight"] = self.weight
        if self.tokens is not None:
            out["tokens"] = list(self.tokens)
        return out

    @classmethod
    def from_dict(cls, value: object) -> Region:
        """Inverse of ``to_dict``; optional keys may be missing or null."""
        if not isinstance(value, Mapping):
            raise _refuse(f"a region is {type(value).__name__}", "A region is a JSON object")
        mask = value.get("mask")
        box = value.get("box")
        if box is None and mask is None:
            raise _refuse("a region has neither 'box' nor 'mask'", "Give it one of the two")
        packed = None if mask is None else Mask.from_dict(mask)
        # With a mask the box is whatever the mask says.
        box = (0.0, 0.0, 1.0, 1.0) if packed is not None else box
        occurrence, weight = value.get("occurrence"), value.get("weight")
        return cls(
            phrase="" if value.get("phrase") is None else value["phrase"],
            box=box,  # type: ignore[arg-type]
            mask=packed,
            occurrence=0 if occurrence is None else occurrence,
            weight=1.0 if weight is None else weight,
            tokens=value.get("tokens"),
        )


@dataclass(frozen=True)
class Layout:
    """All regions of one image, with the prompt whose words they name.

    ``width`` and ``height`` are the pixels that the boxes were drawn for: a hint for editors and
    previews, never used in the maths. A layout without regions is a valid value (an editor starts
    with one); what needs regions asks ``require_regions``.
    """

    regions: tuple[Region, ...]
    prompt: str = ""
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))
        if not all(isinstance(region, Region) for region in self.regions):
            raise _refuse("the layout holds something that is no region", "Build it from Regions")
        _check_count(len(self.regions))
        pixels = sum(len(one.mask.data) for one in self.regions if one.mask is not None)
        if pixels > MOST_PIXELS:
            raise too_many_pixels(pixels)
        if not isinstance(self.prompt, str):
            raise _refuse(f"the layout's prompt is {shown(self.prompt)}", "A prompt is a text")
        checked_prompt(self.prompt)
        for name, size in (("width", self.width), ("height", self.height)):
            if size is not None and (not is_count(size) or not 0 < size <= LARGEST_PICTURE):
                raise _refuse(
                    f"the layout's {name} is {shown(size)}",
                    f"Give pixels from 1 to {LARGEST_PICTURE}, or leave it out",
                )

    def require_regions(self) -> tuple[Region, ...]:
        """The regions; raises RealCompoError if there are none."""
        if not self.regions:
            raise _refuse(
                "the layout has no regions", "Draw or list at least one box with its phrase"
            )
        return self.regions

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the schema's version."""
        return {
            "schema": SCHEMA,
            "prompt": self.prompt,
            "width": self.width,
            "height": self.height,
            "regions": [region.to_dict() for region in self.regions],
        }

    @classmethod
    def from_dict(cls, value: object) -> Layout:
        """Inverse of ``to_dict``; every key but ``regions`` may be missing.

        Raises RealCompoError for a schema newer than ``SCHEMA`` and for malformed values.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("regions"), (list, tuple)):
            raise _refuse("the layout's JSON has no list 'regions'", "Give an object with one")
        schema = value.get("schema", SCHEMA)
        if not is_count(schema) or schema == 0:
            raise _refuse(
                f"the layout's schema is {shown(schema)}", f"It is a number up to {SCHEMA}"
            )
        if schema > SCHEMA:
            raise _refuse(
                f"the layout was written in schema {shown(schema)}, this version reads up to"
                f" {SCHEMA}",
                "Update RealCompo",
            )
        regions = value["regions"]
        _check_count(len(regions))
        # Counted before any is unpacked: text of a few kilobytes may ask for gigabytes.
        masks = (one.get("mask") for one in regions if isinstance(one, Mapping))
        pixels = sum(map(claimed_pixels, masks))
        if pixels > MOST_PIXELS:
            raise too_many_pixels(pixels)
        return cls(
            regions=tuple(Region.from_dict(region) for region in regions),
            prompt="" if value.get("prompt") is None else value["prompt"],
            width=value.get("width"),
            height=value.get("height"),
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Inverse of ``to_json``; raises RealCompoError for text that is no layout."""
        return cls.from_dict(layout_value(text))


def layout_value(text: object, where: str = "layout") -> Any:
    """The JSON value of a layout's text, not looked at yet; RealCompoError for input ``where``."""
    try:
        return parse_json(text)
    except ValueError as error:
        problem = f"the layout's text is no JSON that can be read: {error}"
        raise RealCompoError(where, problem, "Give a layout as JSON") from None


def _check_count(count: int) -> None:
    if count > MOST_REGIONS:
        raise _refuse(
            f"the layout has {count} regions", f"Leave some out: up to {MOST_REGIONS} are read"
        )


def require_layout(value: object) -> Layout:
    """``value`` if it is a Layout; RealCompoError otherwise (sockets can bring anything)."""
    if not isinstance(value, Layout):
        got = "nothing" if value is None else f"a {type(value).__name__}"
        raise _refuse(f"got {got}, not a REALCOMPO_LAYOUT", "Connect a RealCompo layout node")
    return value
