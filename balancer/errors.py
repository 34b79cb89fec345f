"""The one error type that a user sees: which node, which input, what to do."""

from __future__ import annotations

import reprlib
from numbers import Integral, Real
from typing import Any

LONGEST_SENTENCE = 600
"""Characters of a problem or a remedy that are told; of longer ones the middle is left out."""
LONGEST_VALUE = 80
"""Characters of one given value that a message repeats."""

# They join letters of some scripts and of emoji; every other invisible character may turn a
# line's direction around or break it.
_JOINERS = "\u200c\u200d"


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\ufffd" for c in text
    )


def cut(text: str, longest: int = LONGEST_VALUE) -> str:
    """``text`` in at most ``longest`` printable characters: beginning and end, if it is longer."""
    if len(text) > longest:
        end = longest // 3
        text = f"{text[: longest - end - 5]} ... {text[len(text) - end :]}"
    return _plain(text)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = LONGEST_VALUE

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        # Python refuses to write the digits of very long numbers.
        return repr(x) if bits <= 128 else f"a number of {int(bits * 0.30103) + 1} digits"

    def repr_float(self, x: float, level: int) -> str:
        return repr(x)


_short = _Short()


def shown(value: Any, longest: int = LONGEST_VALUE) -> str:
    """``value`` as a message shows it: like ``repr``, in at most ``longest`` characters.

    A text is in quotes, a number as Python writes it, whatever its type. Only the beginning of a
    long list or text is ever written out.
    """
    if isinstance(value, str):
        return f"'{cut(value, longest - 2)}'"
    try:
        if isinstance(value, Real) and not isinstance(value, bool):
            value = int(value) if isinstance(value, Integral) else float(value)
        return cut(_short.repr(value), longest)
    except Exception:  # a foreign object's own repr may do anything
        return f"a {type(value).__name__}"


class RealCompoError(ValueError):
    """Bad input, said in one sentence that names the node, the input and the remedy.

    ``node`` is the name shown on the node (may be empty inside the engine, which does not know
    who called it), ``where`` the input, ``problem`` what is wrong with it and ``remedy`` what the
    user can do. Engine code raises it with an empty node; nodes fill it in with ``at``. What is
    told is one printable line, however long the input is that it repeats (``LONGEST_SENTENCE``).
    """

    def __init__(self, where: str, problem: str, remedy: str, node: str = "") -> None:
        self.node, self.where = cut(node), cut(where)
        self.problem, self.remedy = cut(problem, LONGEST_SENTENCE), cut(remedy, LONGEST_SENTENCE)
        subject = f"{self.node}, input '{self.where}'" if node else f"Input '{self.where}'"
        super().__init__(f"{subject}: {self.problem}. {self.remedy.rstrip('.')}.")

    def at(self, node: str, where: str | None = None) -> RealCompoError:
        """The same error, said by ``node`` (of its input ``where``, if that has another name)."""
        return RealCompoError(where or self.where, self.problem, self.remedy, node or self.node)
