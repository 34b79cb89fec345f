"""JSON from outside: one loader for layouts, boxes, tables, journals, traces, settings of models.

Python's own reader answers bad text with five kinds of exception (a number of 400 digits, a
thousand brackets, half a surrogate pair, an unknown encoding, a number that is none) and takes
what nobody means (NaN, one key twice). Here everything comes back as one ``RealCompoError``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RealCompoError, cut, shown

LONGEST = 64 << 20
"""Characters (bytes in a file) that are read unless a caller says otherwise."""
DEEPEST = 64
"""Levels of objects and lists in each other."""
LARGEST = 1 << 64
"""Whole numbers beyond -LARGEST..LARGEST are refused: nothing here counts so far, and a float,
a table's column and a tensor each fail at such a number in its own way."""

_LONGEST_NUMBER = 24
"""Digits of a number that a message repeats."""
_REMEDY = "Give plain JSON, as the tool that made it writes it"


class _Refused(ValueError):
    """Bad text, said by one of the hooks below."""


def _whole(digits: str) -> int:
    if len(digits) > 21 or not -LARGEST <= int(digits) <= LARGEST:
        raise _Refused(f"it holds the number {cut(digits, _LONGEST_NUMBER)}, which is too large")
    return int(digits)


def _decimal(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"it holds the number {cut(digits, _LONGEST_NUMBER)}, which is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"it holds {name}, which is no number of JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"one object has the key {shown(twice)} twice")
    return value


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half a surrogate pair, which no file, tokenizer or table takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _require_sane(value: Any, deepest: int) -> None:
    """Refuse what the parser lets through: depth, and surrogates in any text."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if has_surrogates(item):
                raise _Refused("a text in it holds half a character (a lone surrogate)")
        elif isinstance(item, (dict, list)):
            if depth > deepest:
                raise _Refused(f"its lists and objects lie more than {deepest} levels deep")
            if isinstance(item, dict):
                waiting += [(key, depth) for key in item]
                item = list(item.values())
            waiting += [(inner, depth + 1) for inner in item]


def _text(given: object, longest: int) -> str:
    if isinstance(given, (bytes, bytearray, str)) and len(given) > longest:
        unit = "characters" if isinstance(given, str) else "bytes"
        raise _Refused(f"it has {len(given)} {unit}, and up to {longest} are read")
    if isinstance(given, (bytes, bytearray)):
        try:
            # UTF-8 with or without a mark, and the UTF-16 that some editors and shells write.
            given = given.decode(json.detect_encoding(bytes(given)))
        except UnicodeDecodeError:
            raise _Refused("it is no UTF-8 text") from None
    if not isinstance(given, str):
        raise _Refused(f"it is a {type(given).__name__}, not a text")
    return given.removeprefix("\ufeff")


def parse_json(
    given: object, *, longest: int = LONGEST, deepest: int = DEEPEST, finite: bool = True
) -> Any:
    """The value of the JSON text ``given`` (str or bytes), or a ValueError that says what is wrong.

    The message is a part of a sentence such as 'it ends too early (line 3, column 7)'. ``finite``
    False takes NaN and Infinity as they stand, for what other programs' servers write. For whoever
    has an error of their own; everyone else uses ``read_json``.
    """
    text = _text(given, longest)
    try:
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=_decimal if finite else float,
            parse_constant=_constant if finite else None,
            object_pairs_hook=_without_doubles,
        )
        _require_sane(value, deepest)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise _Refused("it is empty") from None
        early = error.pos >= len(text.rstrip())
        said = "it ends too early" if early else f"it is no JSON: {error.msg}"
        raise _Refused(f"{said} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _Refused(f"its lists and objects lie more than {deepest} levels deep") from None
    return value


def read_json(
    given: object, where: str, what: str, remedy: str = _REMEDY, *, longest: int = LONGEST,
    deepest: int = DEEPEST, finite: bool = True, kinds: Sequence[type] = (),
) -> Any:  # fmt: skip
    """The value of the JSON text ``given`` (str or bytes).

    ``where`` names the input and ``what`` the thing in the message ('the layout'). Raises
    RealCompoError, and nothing else, for: more than ``longest`` characters, more than ``deepest``
    levels, whole numbers beyond 2^64, other numbers beyond a float's range, NaN and Infinity
    (unless ``finite`` is False), a key that one object has twice, half a surrogate pair, text that
    is not UTF-8 or UTF-16, and a value that is none of ``kinds`` (dict, list; () = any).
    """
    try:
        value = parse_json(given, longest=longest, deepest=deepest, finite=finite)
    except ValueError as error:
        raise RealCompoError(where, f"{what} cannot be read: {error}", remedy) from None
    if kinds and not isinstance(value, tuple(kinds)):
        names = {dict: "an object", list: "a list", str: "a text"}
        wanted = " or ".join(names.get(kind, kind.__name__) for kind in kinds)
        raise RealCompoError(where, f"{what} is not {wanted}", remedy)
    return value


def read_json_file(
    path: Path, where: str, what: str, remedy: str = _REMEDY, *, longest: int = LONGEST,
    deepest: int = DEEPEST, finite: bool = True, kinds: Sequence[type] = (),
) -> Any:  # fmt: skip
    """The value of the JSON file ``path``; as ``read_json``, and for a file that cannot be read.

    The size is looked at before anything is read.
    """
    try:
        size = path.stat().st_size
        if size > longest:
            raise RealCompoError(
                where, f"{what} has {size} bytes, and up to {longest} are read", remedy
            )
        given = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, RealCompoError):
            raise
        said = getattr(error, "strerror", None) or "its name is none that a file can have"
        raise RealCompoError(where, f"{what} cannot be read: {said}", remedy) from None
    return read_json(
        given, where, what, remedy, longest=longest, deepest=deepest, finite=finite, kinds=kinds
    )
