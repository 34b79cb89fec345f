"""Finished work in a folder: written whole or not at all, and by one process at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

LEFT_BEHIND = 3600.0
"""Seconds after which a lock belongs to a process that died."""


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make a file: nobody else alive is at it until the block ends."""
    lock = path.with_suffix(".lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if time.time() - lock.stat().st_mtime < LEFT_BEHIND:
            yield False
            return
        lock.touch()
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz``, never half a one."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)
