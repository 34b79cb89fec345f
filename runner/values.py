"""A table's cell as the value of a node's input, checked against the node's own description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import RowError

Spec = tuple[Any, dict[str, Any]]
"""Kind ('INT', 'STRING', ..., or the list of a choice's values) and options of an input."""

NUMBERS = {"INT", "FLOAT"}
TYPED = {*NUMBERS, "STRING", "BOOLEAN", "COMBO"}
TRUE, FALSE = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}
SHOWN_CHOICES = 6


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


def coerce(value: Any, spec: Spec | None, before: Any) -> Any:
    """``value`` as the input takes it; ``before`` is what the workflow has there.

    Text from a CSV file becomes the number or truth value that the input asks for. Raises
    ``RowError`` if it cannot, or if the value is not in the input's range or choice.
    """
    kind, options = spec if spec is not None else (_kind_of(before), {})
    if isinstance(kind, (list, tuple)) or kind == "COMBO":
        choices = options.get("options") if kind == "COMBO" else list(kind)
        return _choice(value, choices, options)
    if kind in NUMBERS:
        return _number(value, kind, options)
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
    except (TypeError, ValueError, OverflowError):
        wanted = "whole number" if kind == "INT" else "number"
        raise RowError(f"{_shown(value)} is no {wanted}") from None
    if not math.isfinite(number):
        raise RowError(f"{_shown(value)} is no finite number")
    low, high = options.get("min"), options.get("max")
    if (low is not None and number < low) or (high is not None and number > high):
        raise RowError(f"{number} is not in {low} to {high}")
    return number


def _whole(value: Any) -> int:
    """``value`` as an integer; 3.0 is one (a column with gaps is of floats), 3.5 is none."""
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            value = float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    said = _text(value).strip().lower()
    if said in TRUE | FALSE:
        return said in TRUE
    raise RowError(f"{_shown(value)} is neither true nor false")


def _choice(value: Any, choices: Any, options: Mapping[str, Any]) -> Any:
    uploads = any(str(key).endswith("_upload") and on for key, on in options.items())
    if not isinstance(choices, (list, tuple)) or uploads or options.get("remote"):
        return value  # the list is a file listing of this moment, or elsewhere: the host checks
    for choice in choices:
        if value == choice or _text(value) == _text(choice):
            return choice
    shown = ", ".join(str(choice) for choice in choices[:SHOWN_CHOICES])
    more = f" and {len(choices) - SHOWN_CHOICES} more" if len(choices) > SHOWN_CHOICES else ""
    raise RowError(f"{_shown(value)} is not one of {shown or 'the choices, of which there are no'}"
                   f"{more}")  # fmt: skip


def _shown(value: Any) -> str:
    said = str(value)
    return f"'{said}'" if len(said) <= 60 else f"'{said[:57]}...'"
