"""Files that several processes may be at: one makes each, and the dead hold nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from realcompo.bench.kept import claimed, write_arrays


def test_one_at_a_time_and_free_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "row.npz"
    with claimed(path) as first, claimed(path) as second:
        assert first and not second
    with claimed(path) as again:
        assert again
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path / "row.npz"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_dead_process_holds_nothing_and_a_living_one_does(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = tmp_path / "row.lock"
    lock.write_text(str(dead.pid))
    with claimed(tmp_path / "row.npz") as ours:
        assert ours
    lock.write_text(str(os.getppid()))
    with claimed(tmp_path / "row.npz") as ours:
        assert not ours
    # the other's lock stays
    assert lock.exists()


def test_a_lock_that_was_never_written_is_nobodys_after_a_while(tmp_path: Path) -> None:
    lock = tmp_path / "row.lock"
    lock.touch()
    with claimed(tmp_path / "row.npz") as ours:
        assert not ours
    os.utime(lock, (0, 0))
    with claimed(tmp_path / "row.npz") as ours:
        assert ours


def test_arrays_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "row.npz"
    write_arrays(path, seeds=np.arange(3))
    with np.load(path) as stored:
        assert stored["seeds"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["row.npz"]
