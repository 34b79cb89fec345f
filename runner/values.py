"""A table's cell as the value of a node's input, checked against the node's own description."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import RowError, shown, tidy

Spec = tuple[Any, dict[str, Any]]
"""Kind ('INT', 'STRING', ..., or the list of a choice's values) and options of an input."""

NUMBERS = {"INT", "FLOAT"}
TYPED = {*NUMBERS, "STRING", "BOOLEAN", "COMBO"}
TRUE, FALSE = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}
SHOWN_CHOICES = 6
EXACT = 2**53
"""Beyond it, a number with a fraction does not tell neighbouring whole numbers apart."""
LONGEST_NUMBER = 400
"""Characters; the digits of a longer one take long to work out, and no input goes so far."""
ROUNDED = 1e11
"""From here on a spreadsheet shows whole numbers as 1.23457E+14, and saves what it shows."""
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")


def info_of(infos: Any, names: Iterable[str]) -> dict[str, Any]:
    """The descriptions of node classes, as far as they have the form of one.

    A part that has not is left out: the host checks what is not checked here.
    """
    found = {}
    for name in names:
        entry = infos.get(name)
        if not isinstance(entry, dict):
            continue
        sections = entry.get("input")
        sections = sections if isinstance(sections, dict) else {}
        inputs = {
            section: {
                key: list(spec) for key, spec in part.items()
                if isinstance(spec, list) and spec and isinstance(spec[0], (str, list))
            }
            for section, part in sections.items() if isinstance(part, dict)
        }  # fmt: skip
        outputs = entry.get("output")
        outputs = outputs if isinstance(outputs, list) else []
        found[name] = {**entry, "input": inputs, "output": outputs}
    return found


def spec_of(info: Mapping[str, Any], kind: str, name: str) -> Spec | None:
    """The description of input ``name`` of node class ``kind``, or None if it has none."""
    sections = info.get(kind, {}).get("input") or {}
    for section in ("required", "optional"):
        entry = (sections.get(section) or {}).get(name)
        if entry is not None:
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
            return entry[0], options
    return None


def typed(spec: Spec) -> bool:
    """Does the input take a value that can be written down, rather than another node's output?"""
    return isinstance(spec[0], (list, tuple)) or spec[0] in TYPED


def coerce(value: Any, spec: Spec | None, before: Any, decimal_comma: bool = False) -> Any:
    """``value`` as the input takes it; ``before`` is what the workflow has there.

    Text from a CSV file becomes the number or truth value that the input asks for; with
    ``decimal_comma``, '3,5' is three and a half. Raises ``RowError`` if it cannot, or if the value
    is not in the input's range or choice.
    """
    kind, options = spec if spec is not None else (_kind_of(before), {})
    if isinstance(kind, (list, tuple)) or kind == "COMBO":
        choices = options.get("options") if kind == "COMBO" else list(kind)
        return _choice(value, choices, options)
    if kind in NUMBERS:
        if decimal_comma and isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
            value = value.replace(",", ".")
        return _number(value, str(kind), options)
    if kind == "BOOLEAN":
        return _truth(value)
    if kind == "STRING":
        return value if isinstance(value, str) else _text(value)
    # an input of a type of its own: whatever the workflow had there was written down, too
    return {"__value__": value} if isinstance(value, list) else value


def _kind_of(before: Any) -> str:
    for kind, python in (("BOOLEAN", bool), ("INT", int), ("FLOAT", float), ("STRING", str)):
        if isinstance(before, python):
            return kind
    return "*"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _number(value: Any, kind: str, options: Mapping[str, Any]) -> int | float:
    if isinstance(value, bool):
        raise RowError(f"{_text(value)} is no number")
    try:
        number = _whole(value) if kind == "INT" else float(value)
    except RowError:
        raise
    except (TypeError, ValueError, OverflowError):
        wanted = "whole number" if kind == "INT" else "number"
        raise RowError(f"{shown(value)} is no {wanted}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise RowError(f"{shown(value)} is no finite number")
    low, high = limits(options)
    if (low is not None and number < low) or (high is not None and number > high):
        raise RowError(f"{number} is not in {low} to {high}")
    return number


def limits(options: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """An input's smallest and largest value, None where its description has none."""
    found = [options.get(name) for name in ("min", "max")]
    low, high = (
        one if isinstance(one, (int, float)) and not isinstance(one, bool) else None
        for one in found
    )
    return low, high


def _whole(value: Any) -> int:
    """``value`` as an integer; 3.0 is one (a column with gaps is of floats), 3.5 is none.

    Raises ``RowError`` for a number that has lost its last digits on its way through a program
    that keeps fractions only, or through what a spreadsheet shows: it was another one.
    """
    written = value
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER:
            raise ValueError(value[:40])
        try:
            return int(value.strip())
        except ValueError:
            value = float(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
        shortened = isinstance(written, str) and "e" in written.lower() and abs(value) >= ROUNDED
        if abs(value) > EXACT or shortened:
            raise RowError(
                f"{shown(written)} is a rounded number, whose last digits are lost: keep whole"
                " numbers as whole numbers or as text"
            )
    return int(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    said = _text(value).strip().lower()
    if said in TRUE | FALSE:
        return said in TRUE
    raise RowError(f"{shown(value)} is neither true nor false")


def _choice(value: Any, choices: Any, options: Mapping[str, Any]) -> Any:
    uploads = any(str(key).endswith("_upload") and on for key, on in options.items())
    if not isinstance(choices, (list, tuple)) or uploads or options.get("remote"):
        return value  # the list is a file listing of this moment, or elsewhere: the host checks
    for choice in choices:
        if value == choice or _text(value) == _text(choice):
            return choice
    first = ", ".join(tidy(choice, 60) for choice in choices[:SHOWN_CHOICES])
    more = f" and {len(choices) - SHOWN_CHOICES} more" if len(choices) > SHOWN_CHOICES else ""
    raise RowError(f"{shown(value)} is not one of {first or 'the choices, of which there are no'}"
                   f"{more}")  # fmt: skip

