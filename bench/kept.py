"""Finished work in a folder: written whole or not at all, and by one process at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_WRITTEN_IN, _LEFT_BEHIND = 60.0, 3600.0
"""Seconds after which a lock without a process's number, and one whose process cannot be asked
for, are nobody's."""


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make a file: nobody else on this machine is at it until the block
    ends. What a process left behind that died is nobody's."""
    lock = path.with_suffix(".lock")
    if not _taken(lock):
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)


def _taken(lock: Path) -> bool:
    """Whether the lock is this process's now."""
    for _ in range(2):
        try:
            with lock.open("x") as file:
                file.write(str(os.getpid()))
            return True
        except FileExistsError:
            if _alive(lock):
                return False
            lock.unlink(missing_ok=True)
    return False


def _alive(lock: Path) -> bool:
    """Whether the process that made the lock still runs."""
    try:
        owner, age = int(lock.read_text() or 0), time.time() - lock.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return False
    if owner == 0:
        # made this very moment: its number is not written yet
        return age < _WRITTEN_IN
    if os.name == "nt":
        # there is no asking there: signal 0 is Ctrl+C
        return age < _LEFT_BEHIND
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz``, never half a one."""
    part = path.with_suffix(".part")
    named: dict[str, Any] = {**arrays}  # numpy's hints take any of these for an option
    with part.open("wb") as file:
        np.savez(file, **named)
    os.replace(part, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of ready bytes, never half a one."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)
