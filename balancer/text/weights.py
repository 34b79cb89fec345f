"""A prompt without the host's weights, and where each of its characters was typed.

Read as the host reads it: brackets weigh what is in them, ``(red car:1.2)`` by a number, ``\\(``
and ``\\)`` are brackets of the text, and so is a bracket that has no partner.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .letters import EMBEDDING

_MARK = re.compile(r"\\[()]|[()]")
_ESCAPE = re.compile(r"\\([()])")
_WEIGHT = re.compile(r":\s*[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?\s*\Z", re.IGNORECASE)
_NAMED = re.compile(r"(?:^|\s)embedding:\S+\Z")
_SPACED = re.compile(r"[A-Za-z0-9]")

_LONGEST_WEIGHT = 64
"""Characters that a weight may have, its colon included."""
_MOST_UNEVEN = 64
"""Opening brackets too many that are looked at one by one; the rest is text."""


class Plain(NamedTuple):
    """``text`` as an encoder reads it, and for each character its place in the typed prompt."""

    text: str
    origin: list[int]


def _weight_start(prompt: str, start: int, end: int) -> int:
    """Where the number that weighs ``prompt[start:end]`` begins; ``end`` if there is none."""
    found = _WEIGHT.search(prompt, max(start, end - _LONGEST_WEIGHT), end)
    # the host wants something before the colon
    return found.start() if found and found.start() > start else end


def _pairs(prompt: str, marks: list[re.Match[str]]) -> dict[int, int]:
    """Index of a weight's opening bracket in ``marks`` -> that of its closing one.

    As the host pairs them, from left to right. After a closing bracket too many, no opening one
    starts a weight until their number is even. From an opening one without a partner on, all is
    text; but where a closing one ends the text, the host takes these two for a pair.
    """
    pairs: dict[int, int] = {}
    start, stop, end = 0, len(marks), len(prompt)
    for _ in range(_MOST_UNEVEN):
        found: dict[int, int] = {}
        waiting: list[int] = []
        debt = 0
        for index in range(start, stop):
            sign = marks[index].group()
            if sign == "(" and debt:
                debt -= 1
            elif sign == "(":
                waiting.append(index)
            elif sign == ")" and waiting:
                found[waiting.pop()] = index
            elif sign == ")":
                debt += 1
        if not waiting:
            return pairs | found
        first, last = waiting[0], stop - 1
        pairs |= {one: other for one, other in found.items() if one < first}
        if last == first or marks[last].group() != ")" or marks[last].end() != end:
            return pairs
        pairs[first] = last
        start, stop = first + 1, last
        end = _weight_start(prompt, marks[first].end(), marks[last].start())
    return pairs


def read_weights(prompt: str) -> Plain:
    """``prompt`` without weights; words that only a bracket parts stay two words."""
    marks = list(_MARK.finditer(prompt))
    if not marks:
        return Plain(prompt, list(range(len(prompt))))
    pairs = _pairs(prompt, marks)
    opening = {end: start for start, end in pairs.items()}
    out: list[str] = []
    origin: list[int] = []
    border, cursor, before = False, 0, ""

    def add(start: int, end: int) -> None:
        nonlocal border, before
        if start >= end:
            return
        if border and out and not out[-1].isspace() and (
            prompt.startswith(EMBEDDING, start)
            or (_NAMED.search(before) and not (prompt[start].isspace() or prompt[start] == ","))
            or (_SPACED.match(out[-1]) and _SPACED.match(prompt[start]))
        ):  # fmt: skip
            out.append(" ")
            origin.append(start)
        border, before = False, prompt[start:end]
        out.extend(prompt[start:end])
        origin.extend(range(start, end))

    for index, mark in enumerate(marks):
        end = mark.start()
        if index in opening:
            begin = marks[opening[index]].end()
            end = max(cursor, _weight_start(prompt, begin, end))
        add(cursor, end)
        cursor = mark.end()
        if mark.group()[0] == "\\":
            add(mark.end() - 1, mark.end())
        elif index in pairs or index in opening:
            border = True
        else:
            add(mark.start(), mark.end())
    add(cursor, len(prompt))
    return Plain("".join(out), origin)


def read_escapes(prompt: str) -> Plain:
    """``prompt`` as an encoder without weights reads it: only ``\\(`` and ``\\)`` are resolved."""
    out: list[str] = []
    origin: list[int] = []
    cursor = 0
    for mark in _ESCAPE.finditer(prompt):
        out.append(prompt[cursor : mark.start()] + mark.group(1))
        origin += [*range(cursor, mark.start()), mark.start() + 1]
        cursor = mark.end()
    out.append(prompt[cursor:])
    origin += range(cursor, len(prompt))
    return Plain("".join(out), origin)


def plain_text(prompt: str) -> str:
    """``prompt`` without the host's weights: ``a (red car:1.2)`` becomes ``a red car``."""
    return read_weights(prompt).text


def escaped(text: str) -> str:
    """``text`` so that the host reads its brackets as brackets, not as weights."""
    return re.sub(r"[()]", r"\\\g<0>", text)
