"""Is a value what an input takes? One checker per kind, for settings and for the nodes' inputs.

The host checks widgets that a user types into; what comes by wire or from a script is checked by
nobody. Every function gives the value back in its plain type, or raises ``RealCompoError`` for
input ``where``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..errors import RealCompoError, shown
from .foreign_json import has_surrogates

LONGEST_PROMPT = 20_000
"""Characters of a prompt or phrase: about 65 chunks of a text encoder."""
MOST_LINES = 10_000
"""Lines of a text that holds a prompt a line."""
EXACT = 1 << 53
"""Whole numbers up to here are exact as floats; beyond, a float is some other number nearby."""

MOST_ENTRIES, DEEPEST_LIST = 1 << 16, 8
"""Entries of a list, and levels of lists in each other."""

_NAMES = {str: "a text", bool: "a yes or no", int: "a whole number", float: "a number"}


def kind(value: object) -> str:
    """What a value is, for the sentence 'got ..., not a MODEL'."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _real(value: object, where: str, low: float, high: float, wanted: str) -> Real:
    """``value`` if it is a number in ``low`` to ``high``; NaN is in no range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RealCompoError(where, f"got {kind(value)}, not {wanted}", "Give a number")
    if not low <= value <= high:  # pyright: ignore[reportOperatorIssue]
        raise RealCompoError(
            where, f"{shown(value)} is outside {_bound(low)} to {_bound(high)}",
            "Set it inside that range",
        )  # fmt: skip
    return value


def whole(value: object, where: str, low: int, high: int) -> int:
    """An int in ``low`` to ``high``. A float is taken where it is a whole number and exact."""
    real = _real(value, where, low, high, "a whole number")
    if isinstance(real, Integral):
        return int(real)
    given = float(real)
    if not given.is_integer():
        raise RealCompoError(
            where, f"{shown(given)} is not a whole number", "Give one without a fraction"
        )
    if abs(given) > EXACT:
        raise RealCompoError(
            where, f"{given:.0f} came as a number with a point, which is exact up to {EXACT} only",
            "Wire or write it as a whole number",
        )  # fmt: skip
    return int(given)


def number(value: object, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite float in ``low`` to ``high``."""
    given = _real(value, where, max(low, -1e300), min(high, 1e300), "a number")
    return float(given)


def any_number(value: object, where: str, remedy: str) -> float:
    """A float, NaN and infinity too: what a measure gave. RealCompoError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RealCompoError(where, f"got {kind(value)}, not numbers", remedy)
    if isinstance(value, Integral) and int(value).bit_length() > 1000:
        raise RealCompoError(where, f"it holds {shown(value)}", remedy)
    return float(value)


def flag(value: object, where: str) -> bool:
    """A bool; 0 and 1 count as such."""
    if isinstance(value, bool) or (isinstance(value, Integral) and int(value) in (0, 1)):
        return bool(value)
    if type(value).__name__ in ("bool_", "bool"):  # NumPy's own, which is no number there
        return bool(value)
    raise RealCompoError(where, f"got {kind(value)}, not a yes or no", "Give true or false")


def text(value: object, where: str, longest: int = LONGEST_PROMPT) -> str:
    """A text of at most ``longest`` characters that every tokenizer and file takes."""
    if not isinstance(value, str):
        raise RealCompoError(where, f"got {kind(value)}, not a text", "Connect or write a text")
    if len(value) > longest:
        raise RealCompoError(
            where, f"it has {len(value)} characters, and up to {longest} are read", "Shorten it"
        )
    if has_surrogates(value):
        raise RealCompoError(
            where, "it holds half a character (a lone surrogate)",
            "Write that character anew, or take it out",
        )  # fmt: skip
    return value


def lines(value: str, where: str) -> list[str]:
    """The lines of a text that holds a prompt a line, comments too, without space around them.

    Raises RealCompoError for more than ``MOST_LINES``, and for one beyond ``LONGEST_PROMPT``.
    """
    found = [line.strip() for line in value.splitlines()]
    if len(found) > MOST_LINES:
        raise RealCompoError(
            where, f"it has {len(found)} lines, and up to {MOST_LINES} are read", "Give fewer"
        )
    for row, line in enumerate(found, 1):
        if len(line) > LONGEST_PROMPT:
            raise RealCompoError(
                where, f"line {row} has {len(line)} characters, and up to {LONGEST_PROMPT} are"
                " read", "Shorten it, or part it into several lines",
            )  # fmt: skip
    return found


def choice(value: object, where: str, choices: Sequence[Any]) -> Any:
    """``value`` if it is one of ``choices``."""
    if isinstance(value, (str, int, float)) and value in choices:
        return value
    what = f"{shown(value)} is unknown" if isinstance(value, str) else f"got {kind(value)}"
    some = ", ".join(map(str, choices[:12]))
    more = f", or {len(choices) - 12} others" if len(choices) > 12 else ""
    raise RealCompoError(where, what, f"Use one of {some}{more}")


def flat(value: object, where: str) -> list[Any]:
    """The entries of a list that may hold lists, tuples and arrays; one value is a list of one.

    Raises RealCompoError for more than ``MOST_ENTRIES`` entries or ``DEEPEST_LIST`` levels.
    """
    found: list[Any] = []
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, Tensor):
            item = plain_tensor(item, where, "a list", "Connect a plain list").tolist()
        elif type(item).__module__ == "numpy" and callable(getattr(item, "tolist", None)):
            item = item.tolist()
        if not isinstance(item, (list, tuple, set, frozenset)):
            found.append(item)
        elif depth >= DEEPEST_LIST:
            raise RealCompoError(
                where, f"its lists lie more than {DEEPEST_LIST} levels deep", "Connect a plain list"
            )
        else:
            waiting += [(entry, depth + 1) for entry in reversed(list(item))]
        if len(found) + len(waiting) > MOST_ENTRIES:
            raise RealCompoError(
                where, f"it has more than {MOST_ENTRIES} entries", "Connect them in several runs"
            )
    return found


def dense_tensor(value: object, where: str, what: str, remedy: str) -> Tensor:
    """``value`` if it is an ordinary tensor of real numbers, whatever they are.

    ``what`` it should be is for the message. Raises RealCompoError for sparse, nested, quantised
    and complex tensors, and for those without storage.
    """
    if not isinstance(value, Tensor):
        raise RealCompoError(where, f"got {kind(value)}, not {what}", remedy)
    if getattr(value, "is_nested", False) or value.layout != torch.strided or value.is_meta:
        raise RealCompoError(where, f"got a tensor of another kind than {what}", remedy)
    if value.is_complex() or value.is_quantized:
        raise RealCompoError(where, f"its values are {value.dtype}, not real numbers", remedy)
    return value


def plain_tensor(
    value: object, where: str, what: str, remedy: str, empty: bool = False
) -> Tensor:
    """As ``dense_tensor``, with some numbers, and all finite.

    Raises RealCompoError for empty tensors, too (unless ``empty``), for NaN and infinity.
    """
    value = dense_tensor(value, where, what, remedy)
    if not value.numel() and not empty:
        raise RealCompoError(where, f"it is empty: its shape is {tuple(value.shape)}", remedy)
    # 8-bit floats know no arithmetic of their own
    small = value.is_floating_point() and value.element_size() == 1
    if value.is_floating_point() and not torch.isfinite(value.float() if small else value).all():
        raise RealCompoError(
            where, "it holds NaN or infinity", "Make it again; an earlier step failed"
        )
    return value.detach()


def picture(value: object, where: str) -> Tensor:
    """(B, H, W, C) of an IMAGE: C is 1, 3 or 4, values are floats; one picture (H, W, C) is B = 1.

    Raises RealCompoError for anything else, and for NaN.
    """
    remedy = "Connect an IMAGE (batch, height, width, colours)"
    found = plain_tensor(value, where, "an IMAGE", remedy)
    if found.ndim not in (3, 4) or found.shape[-1] not in (1, 3, 4):
        raise RealCompoError(where, f"its shape is {tuple(found.shape)}", remedy)
    if not found.is_floating_point():
        raise RealCompoError(where, f"its values are {found.dtype}, not shares of 1", remedy)
    if found.element_size() == 1:
        found = found.float()
    return found if found.ndim == 4 else found[None]


def mask(value: object, where: str) -> Tensor:
    """(H, W), (B, H, W) or (B, 1, H, W) of a MASK. Raises RealCompoError otherwise.

    B may be 0: a detector that found nothing.
    """
    remedy = "Connect MASK: (height, width) or a batch of them"
    found = plain_tensor(value, where, "a MASK", remedy, empty=True)
    extra = found.ndim == 4 and found.shape[1] != 1
    if not 2 <= found.ndim <= 4 or extra or not min(found.shape[-2:]):
        raise RealCompoError(where, f"its shape is {tuple(found.shape)}", remedy)
    if found.is_floating_point() and found.element_size() == 1:
        found = found.float()
    return found
