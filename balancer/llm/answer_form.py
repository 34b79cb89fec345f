"""What an answer of a language model looks like, and the broken lists that stand between its words.

A list that the strict reader cannot read is found by the names that belong into it. It ends where
a fence stands, where it is closed and another begins, or where the text breaks off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_NEAR = 200
"""Characters before a field's name in which its object must begin."""
_TOKENS = "let the server write more tokens, or ask for fewer things"
THOUGHTS_ONLY = f"the answer holds only the model's thoughts; {_TOKENS}"

Found = tuple[int, int, Any]
"""A value with its start and end in a text."""


@dataclass(frozen=True)
class Form:
    """What an answer looks like, and what the request looked like.

    ``lists`` are names for the list of regions. A region has a key of each group of ``fields``, the
    phrase's first. ``caption`` is the prompt that the request was about; an object with
    ``request_keys`` (and perhaps ``optional_keys``) as its only keys is a request. ``examples`` are
    lists that stand in the request.
    """

    lists: Sequence[str]
    fields: Sequence[Collection[str]]
    caption: str
    request_keys: frozenset[str]
    optional_keys: frozenset[str] = frozenset()
    examples: Sequence[list[Any]] = ()

    @cached_property
    def field_names(self) -> frozenset[str]:
        """Every name of a region's field."""
        return frozenset(name for group in self.fields for name in group)

    @cached_property
    def names(self) -> re.Pattern[str]:
        """A name of a list or field with what stands between it and its value."""
        known = sorted(self.field_names.union(self.lists))
        return re.compile(rf"\b(?:{'|'.join(known)})\b[\s\"'\\\u2019\u201d]*[:=]")

    def in_text(self, text: str) -> bool:
        """Whether a text may hold a list or a region as JSON."""
        return ("{" in text or "[" in text) and self.names.search(text) is not None

    def is_request(self, value: dict[Any, Any]) -> bool:
        """Whether an object is a request."""
        keys, needed = set(value), self.request_keys
        is_one = needed <= keys <= needed | self.optional_keys
        return is_one and isinstance(value["caption"], str)

    def is_region(self, value: Any) -> bool:
        """Whether a value is one region: it has the fields, and its phrase holds no JSON."""
        if not isinstance(value, dict):
            return False
        is_wrapper = any(isinstance(value.get(name), list) for name in self.lists)
        if is_wrapper or self.is_request(value):
            return False
        phrase = next((value[name] for name in self.fields[0] if name in value), None)
        if not isinstance(phrase, str) or self.in_text(phrase):
            return False
        return all(any(name in value for name in group) for group in self.fields[1:])


@dataclass(frozen=True)
class Entries:
    """One list of an answer: its entries, what was put right, what is lacking ('' = nothing)."""

    entries: list[Any]
    note: str = ""
    problem: str = ""
    is_good: bool = True


@dataclass(frozen=True)
class Broken:
    """The text of one list that could not be read, and the regions in it that could."""

    text: str
    complete: list[Any]
    is_cut: bool


@dataclass(frozen=True)
class Lost:
    """A list without anything that can be used, and why."""

    fault: str


def cut_off(count: int) -> str:
    """What is wrong with a list that breaks off after ``count`` complete regions."""
    if not count:
        return f"the answer is cut off before its first region is complete; {_TOKENS}"
    regions = "1 complete region" if count == 1 else f"{count} complete regions"
    return f"the end: the answer is cut off after {regions}; {_TOKENS}"


def shifted(found: list[Found], by: int) -> list[Found]:
    """``found`` as it stands in the text from ``by`` on."""
    return [(start - by, end - by, value) for start, end, value in found] if by else found


def fragments(text: str, single: list[Found], form: Form) -> Iterator[Entries | Broken | Lost]:
    """The lists in a ``text`` that holds no whole one, with the ``single`` regions read in it.

    A fence ends whatever was open before it.
    """
    begin = at = 0
    row: list[Found] = []
    for left, right, value in [*single, (len(text), len(text), None)]:
        while (fence := text.find("```", at, left)) >= 0:
            yield from _section(text[begin:fence], shifted(row, begin), form)
            begin = at = fence + 3
            row = []
        row.append((left, right, value))
        at = right
    yield from _section(text[begin:], shifted(row[:-1], begin), form)


def _named(text: str, start: int, end: int, form: Form) -> int | None:
    """Where the first object or list begins that has a known name in it, None if none does."""
    for name in form.names.finditer(text, start, end):
        head = text[max(start, name.start() - _NEAR) : name.start()]
        opened = max(head.rfind("{"), head.rfind("["))
        if opened >= 0:
            return _outermost(text, name.start() - len(head) + opened, start)
    return None


def _outermost(text: str, opened: int, start: int) -> int:
    """The first of the brackets that stand directly before the one at ``opened``."""
    head = text[max(start, opened - _NEAR) : opened]
    rest = len(head.rstrip("{[ \t\r\n\"'"))
    brackets = [at for at in (head.find("{", rest), head.find("[", rest)) if at >= 0]
    return opened - len(head) + min(brackets) if brackets else opened


def _section(text: str, single: list[Found], form: Form) -> Iterator[Entries | Broken | Lost]:
    if "{" not in text and "[" not in text:
        return
    opened = text.rfind("{")
    # An object that nothing closes is the incomplete last region of an answer that broke off.
    is_cut = opened > text.rfind("}") and _named(text, 0, len(text), form) is not None
    body = text[:opened] if is_cut else text
    begin = at = 0
    row: list[Found] = []
    for left, right, value in [*single, (len(body), len(body), None)]:
        named = _named(body, at, left, form) if row else None
        if named is not None and "]" in body[at:named]:
            # The list before is closed: it is a draft, or another answer.
            yield from _piece(body[begin:named], shifted(row, begin), False, form)
            begin, row = named, []
        row.append((left, right, value))
        at = right
    yield from _piece(body[begin:], shifted(row[:-1], begin), is_cut, form)


def _piece(
    text: str, single: list[Found], is_cut: bool, form: Form
) -> Iterator[Entries | Broken | Lost]:
    """The one list that a ``text`` holds, at most."""
    start, at = None, 0
    for left, right, _ in [*single, (len(text), len(text), None)]:
        start = _named(text, at, left, form)
        if start is not None:
            break
        at = right
    values = [value for _, _, value in single]
    if single:
        first = _outermost(text, single[0][0], 0)
        first = first if start is None else min(start, first)
        is_listed = "[" in text[first : single[0][0]]
        is_cut = is_cut or is_listed and "]" not in text[single[-1][1] :]
        start = None if start is None else first
    elif start is not None:
        is_cut = is_cut or text.count("[", start) > text.count("]", start)
    if start is not None:
        yield Broken(text[start:], values, is_cut)
    elif values:
        yield Entries(values, problem=cut_off(len(values)) if is_cut else "")
    elif is_cut:
        yield Lost(cut_off(0))
