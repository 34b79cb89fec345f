"""Boxes and phrases as somebody types them: one region a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import RealCompoError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LIST = rf"{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})*"
# phrase ':' numbers, bare or in one pair of brackets, then perhaps '*' weight. A phrase may hold
# colons and brackets itself, as '(red car:1.2)' does: only a tail made of numbers alone is a box.
_LINE = re.compile(
    rf"^(?P<phrase>.*?)\s*:\s*(?:\[\s*(?P<a>{_LIST})\s*\]|\(\s*(?P<b>{_LIST})\s*\)|(?P<c>{_LIST}))"
    rf"\s*(?:\*\s*(?P<weight>{_NUMBER}))?\s*[,;]?\s*$"
)
_WEIGHT = re.compile(rf"^(?P<phrase>.*?)\s*\*\s*(?P<weight>{_NUMBER})$")
_OCCURRENCE = re.compile(r"^(?P<phrase>.*\S)\s*#\s*(?P<occurrence>\d+)$")


@dataclass(frozen=True)
class BoxEntry:
    """One box or phrase before units and names are settled. ``where`` names it in messages."""

    where: str
    phrase: str = ""
    values: tuple[float, ...] | None = None
    relative: bool = False
    occurrence: int = 0
    weight: float = 1.0


def _line(text: str, where: str) -> BoxEntry:
    """``phrase[#occurrence][*weight][: x0 y0 x1 y1[*weight]]``."""
    found = _LINE.match(text)
    phrase, values, weight = text, None, 1.0
    if found:
        phrase = found["phrase"]
        numbers = re.findall(_NUMBER, found["a"] or found["b"] or found["c"])
        if len(numbers) != 4:
            raise RealCompoError(
                "phrases",
                f"{where} '{text}' has {len(numbers)} numbers",
                "Write: phrase: x0 y0 x1 y1",
            )
        values = tuple(float(n) for n in numbers)
        weight = float(found["weight"] or 1.0)
    if (tail := _WEIGHT.match(phrase)) is not None:
        phrase, weight = tail["phrase"], weight * float(tail["weight"])
    occurrence = 0
    if (tail := _OCCURRENCE.match(phrase)) is not None:
        phrase, occurrence = tail["phrase"], int(tail["occurrence"]) - 1
    if occurrence < 0:
        problem = f"{where} '{text}' asks for #0"
        raise RealCompoError("phrases", problem, "Occurrences count from #1")
    if not phrase.strip():
        problem = f"{where} '{text}' has no phrase"
        raise RealCompoError("phrases", problem, "Write: phrase: x0 y0 x1 y1")
    return BoxEntry(f"{where} '{text}'", phrase, values, False, occurrence, weight)


def read_lines(text: str) -> list[BoxEntry]:
    """All lines but blank ones and comments that start with '#'."""
    rows = ((number, row.strip()) for number, row in enumerate(text.splitlines(), 1))
    return [_line(row, f"line {n}") for n, row in rows if row and not row.startswith("#")]


def phrase_line(phrase: str, occurrence: int = 0, weight: float = 1.0) -> str:
    """The line that ``read_lines`` reads as this phrase, occurrence and weight."""
    mark = f"#{occurrence + 1}" if occurrence else ""
    return phrase + mark + (f"*{weight:g}" if weight != 1.0 else "")


def phrases_alone(text: str, but: str, remedy: str) -> list[BoxEntry]:
    """The entries of ``text`` where places come from elsewhere.

    Raises RealCompoError for input 'phrases' if a line holds a box: ``but`` says where the place
    comes from, ``remedy`` what to do.
    """
    lines = read_lines(text)
    boxed = next((line for line in lines if line.values is not None), None)
    if boxed is not None:
        raise RealCompoError("phrases", f"{boxed.where} holds a box, but {but}", remedy)
    return lines
