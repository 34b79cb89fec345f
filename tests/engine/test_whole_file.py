"""Files are written whole or not at all, and a bad name or a full disk is one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.values import whole_file
from realcompo.balancer.values.whole_file import checked_name, write_whole


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\0b", "control character"), ("a\nb", "control character"), ("\ud800", "half a char"),
        ("x" * 300, "300 bytes"), ("\u00e9" * 150, "300 bytes"), ("a/" * 600 + "b", "1201 bytes"),
        ("CON", "device"), ("runs/con.old", "device"), ("lpt1", "device"), ("a:b", "':'"),
        ("what?", "'[?]'"), ("a\\nul\\b", "device"), ("run...", "ends with a dot"),
        ("run. /x", "ends with a dot"), ("", "names no file"), ("runs/", "names no file"),
        ("a/..", "names no file"), (".", "names no file"),
    ],
)  # fmt: skip
def test_names_that_some_system_cannot_hold(name: str, said: str) -> None:
    with pytest.raises(RealCompoError, match=said) as caught:
        checked_name(name, "filename_prefix")
    assert caught.value.where == "filename_prefix" and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "name", ["realcompo/run", "%year%-%month%/x", "K\u00e4fer", "console", "a b", ".hidden", "v1.5"]
)
def test_names_that_every_system_takes(name: str) -> None:
    assert checked_name(name, "filename_prefix") == name


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written to"),
     (errno.EACCES, "cannot be written to"), (errno.EIO, os.strerror(errno.EIO))],
)  # fmt: skip
@pytest.mark.parametrize("by_library", [False, True])
def test_a_failure_leaves_nothing_and_the_old_file_as_it_was(
    tmp_path: Path, number: int, said: str, by_library: bool
) -> None:
    from safetensors import SafetensorError

    old, new = tmp_path / "old", tmp_path / "sub" / "new"
    old.write_text("before")

    def fails(part: Path) -> None:
        part.write_text("ha")
        if by_library:
            raise SafetensorError(f"I/O error: no (os error {number})")
        raise OSError(number, os.strerror(number))

    with pytest.raises(RealCompoError, match=said) as caught:
        write_whole({old: lambda part: part.write_text("after"), new: fails})
    assert caught.value.where == "filename_prefix"
    assert old.read_text() == "before"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [old]


def test_the_last_step_may_fail_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == "b":
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(whole_file.os, "replace", replace)
    files = {tmp_path / name: lambda part: part.write_text("x") for name in "ab"}
    with pytest.raises(RealCompoError, match="disk is full"):
        write_whole(files)
    assert not list(tmp_path.iterdir())
    write_whole({tmp_path / "a": lambda part: part.write_text("x")})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
