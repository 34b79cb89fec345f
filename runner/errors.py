"""What can go wrong with a whole run, and with one row of it."""

from __future__ import annotations

import errno
import os

LONGEST_SAID = 500
"""Characters of what others say: a server, a node, a library."""
LONGEST_SENTENCE = 2000
"""Characters of a sentence of our own, which may name several things."""


class RunnerError(ValueError):
    """The run cannot start or go on. The message is one sentence: what is wrong, and the remedy."""

    def __init__(self, message: str = "") -> None:
        """``message`` becomes one printable line; of an overlong one the middle is left out, as
        the remedy stands at the end."""
        super().__init__(tidy(message, LONGEST_SENTENCE, middle=True))


class OutOfSpace(RunnerError):
    """Nothing more can be written; what is finished stays, and the run can be taken up again."""


class RowError(ValueError):
    """One row cannot be drawn; it is recorded with this message and the others go on.

    ``again``: the fault lies with what carried the row's pictures and not with the row, so that
    the next start draws it once more.
    """

    def __init__(self, message: str = "", again: bool = False) -> None:
        super().__init__(tidy(message, LONGEST_SENTENCE, middle=True))
        self.again = again


class Stopped(Exception):
    """The user has stopped the run in the middle of a row, which does not count as drawn."""


def full_disk(message: str) -> bool:
    """Whether an error's text is the system's 'no space left', which every further row would
    meet, too."""
    return f"[Errno {errno.ENOSPC}]" in message or os.strerror(errno.ENOSPC) in message


def tidy(text: object, longest: int, middle: bool = False) -> str:
    """``text`` as one printable line of at most ``longest`` characters, whatever it is.

    What is too long loses its end, or its ``middle``.
    """
    try:
        said = str(text)
    except Exception:  # an object of others whose text cannot be made
        said = f"a {type(text).__name__} without a text"
    if len(said) > 8 * longest:  # no work on megabytes that are not shown
        said = f"{said[: 4 * longest]} {said[-4 * longest :]}"
    said = " ".join(said.split())
    if not said.isprintable():
        said = "".join(letter if letter.isprintable() else "?" for letter in said)
    if len(said) <= longest:
        return said
    half = (longest - 5) // 2
    return f"{said[:half]} ... {said[-half:]}" if middle else f"{said[: longest - 3]}..."


def one_line(text: object) -> str:
    """An error's text without line breaks and a closing full stop, printable, and cut."""
    said = tidy(text, LONGEST_SAID)
    return said if len(said) == LONGEST_SAID else said.rstrip(".")


def shown(value: object, longest: int = 60) -> str:
    """A cell or a name of the user's in a message, in quotes."""
    return f"'{tidy(value, longest)}'"
