"""The text of a language model's answer before its JSON is looked for: thoughts, broken JSON.

Every function takes time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import json
import re
from typing import Any

LONGEST_PIECE = 1 << 16
"""Characters of broken JSON that are mended; 64 regions take about a fifth of it."""
DEEPEST_PIECE = 24
"""Brackets that may stand open at once in broken JSON."""

_THOUGHT = (
    r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|drafts?|analysis)\b[^<>]{0,40}"
)
_TAG = re.compile(
    rf"<(?P<a>/?)(?:\w{{1,12}}:)?{_THOUGHT}>|\[(?P<b>/?)(?-i:THINK)\]|\u25c1(?P<c>/?)think\u25b7"
    r"|<\|(?P<d>end_|begin_|start_)(?:of_)?th(?:ought|inking)\|>",
    re.IGNORECASE,
)
"""Tags around the thoughts of reasoning models, as their makers write them."""


def without_thoughts(text: str) -> str:
    """``text`` without a reasoning model's thoughts, drafts and other channels.

    A closing tag alone ends thoughts that began in the model's template; thoughts that no tag ends
    go on to the end.
    """
    if "<|channel|>" in text:
        before, *parts = text.split("<|channel|>")
        split = [part.partition("<|message|>") for part in parts]
        final = [said for name, _, said in split if name.strip().lower().startswith("final")]
        text = "\n".join([before, *final])
    kept: list[str] = []
    start, inside = 0, False
    for tag in _TAG.finditer(text):
        if (tag["a"] or tag["b"] or tag["c"] or tag["d"] or "").lower() in ("/", "end_"):
            if not inside:
                kept.clear()
            inside, start = False, tag.end()
        elif not inside:
            kept.append(text[start : tag.start()])
            inside = True
    if not inside:
        kept.append(text[start:])
    return "\n".join(kept)


class _TooMuch(Exception):
    """The library read more letters than it may."""


class Budget:
    """How many letters of broken JSON may still be read: a repair reads each letter of a usual
    answer about twice, but hostile text again and again."""

    def __init__(self, left: int) -> None:
        self.left = left


class _Counted(str):
    """Text that counts how often it is read: the library itself knows no bound."""

    budget: Budget

    def __getitem__(self, key: Any) -> str:
        self.budget.left -= 1
        if self.budget.left < 0:
            raise _TooMuch
        return str.__getitem__(self, key)


def _depth(text: str) -> int:
    """The most brackets that stand open at once."""
    deepest = level = 0
    for bracket in re.findall(r"[\[\](){}]", text):
        level = level + 1 if bracket in "[({" else max(0, level - 1)
        deepest = max(deepest, level)
    return deepest


def fault_of(text: str) -> str:
    """What a strict reader has against the JSON that starts ``text``; '' if nothing."""
    try:
        json.JSONDecoder(parse_int=float).raw_decode(text)
    except json.JSONDecodeError as error:
        said = error.msg[:1].lower() + error.msg[1:]
        return f"{said} at line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        return "too many brackets in each other"
    return ""


def mended(text: str, budget: Budget) -> Any:
    """The value of nearly right JSON: commas, quotes, comments, brackets, Python's literals.

    Raises ValueError that says why there is none: too long, too deep, or too broken to be read
    with the ``budget`` that is left.
    """
    if len(text) > LONGEST_PIECE:
        raise ValueError(f"longer than {LONGEST_PIECE} characters")
    if _depth(text) > DEEPEST_PIECE:
        raise ValueError(f"more than {DEEPEST_PIECE} brackets in each other")
    import json_repair

    counted = _Counted(text)
    counted.budget = budget
    try:
        return json_repair.loads(counted, skip_json_loads=True)
    except Exception:  # whatever a library meets in text that it was not made for
        raise ValueError("too broken to be mended") from None
