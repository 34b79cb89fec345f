"""What can go wrong with a whole run, and with one row of it."""

from __future__ import annotations

import errno
import os


class RunnerError(ValueError):
    """The run cannot start or go on. The message is one sentence: what is wrong, and the remedy."""


class OutOfSpace(RunnerError):
    """Nothing more can be written; what is finished stays, and the run can be taken up again."""


class RowError(ValueError):
    """One row cannot be drawn; it is recorded with this message and the others go on."""


class Stopped(Exception):
    """The user has stopped the run in the middle of a row, which does not count as drawn."""


def full_disk(message: str) -> bool:
    """Whether an error's text is the system's 'no space left', which every further row would
    meet, too."""
    return f"[Errno {errno.ENOSPC}]" in message or os.strerror(errno.ENOSPC) in message


def one_line(text: object) -> str:
    """An error's text without line breaks and a closing full stop, at most 500 characters."""
    said = " ".join(str(text).split()).rstrip(".")
    return said if len(said) <= 500 else said[:497] + "..."
