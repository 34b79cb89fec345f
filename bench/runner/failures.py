"""What may go wrong around a run: its driver is killed, a disk fills up, the user is mistaken."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .demonstration import Demonstration, complete, pixels


def killed_driver(demo: Demonstration, *more: str) -> dict[str, Any]:
    """A run by the command line, killed after some rows and started again."""
    out = demo.out("driver")
    command = demo.command(out, *more)
    environment = {**os.environ}
    with (demo.folder / "driver.log").open("wb") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while first.poll() is None and _journal(out) < demo.size.kill_after:
            time.sleep(0.2)
        first.kill()
        first.wait()
    before = _journal(out)
    files = {path.name: path.stat().st_mtime_ns for path in (out / "images").glob("*.png")}
    start = time.monotonic()
    code = subprocess.run(command, capture_output=True, env=environment, check=False).returncode
    again = [
        name for name, stamp in files.items()
        if (out / "images" / name).stat().st_mtime_ns != stamp
    ]  # fmt: skip
    return {
        "recorded_when_killed": before, "exit_code_of_second_start": code,
        # a picture that was written and not yet recorded is drawn again
        "pictures_drawn_again": len(again), "seconds_of_second_start": time.monotonic() - start,
        **complete(out, len(demo.rows)),
        "same_pictures": pixels(out) == pixels(demo.folder / "a"),
    }  # fmt: skip


def _journal(out: Path) -> int:
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A file system of that size at ``folder``, or None where this user may not make one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    try:
        yield folder if made else None
    finally:
        if made:
            subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def full_disk(demo: Demonstration) -> dict[str, Any] | None:
    """A run onto a disk that is too small, then onto the same disk enlarged."""
    count = min(60, demo.size.rows)
    rows = ["--limit", str(count)]
    with small_disk(demo.folder / "disk", f"{demo.size.rows * 5 // 2}k") as disk:
        if disk is None:
            return None
        out = disk / "out"
        first = subprocess.run(demo.command(out, *rows), capture_output=True, text=True,
                               check=False)  # fmt: skip
        recorded = _journal(out)
        grow = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(grow, check=True, capture_output=True)
        second = subprocess.run(demo.command(out, *rows), capture_output=True, text=True,
                                check=False)  # fmt: skip
        return {
            "exit_code": first.returncode, "sentence": _last_line(first.stderr, demo),
            "recorded_when_full": recorded, "exit_code_with_space": second.returncode,
            **complete(out, count),
        }  # fmt: skip


def _last_line(text: str, demo: Demonstration) -> str:
    """What the runner said last, without this machine's folders."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].replace(str(demo.folder), "OUT") if lines else ""


def mistakes(demo: Demonstration) -> dict[str, str]:
    """The sentence that each mistake gives, by the command line."""
    out, table = demo.folder / "mistakes", demo.folder / "wrong.csv"
    good = demo.rows[0]
    found = {}
    for name, columns, cells, more in (
        ("missing_column", ["seed"], ["1"], ["--map", "prompt=Positive.text"]),
        ("unknown_title", ["Samplr.seed"], ["1"], []),
        ("corrupt_cell", ["seed"], ["x"], ["--dry-run"]),
        ("out_of_range", ["steps"], ["0"], ["--dry-run"]),
        ("unreachable_server", ["seed"], [str(good["seed"])],
         ["--server", "http://127.0.0.1:9"]),
    ):  # fmt: skip
        table.write_text(",".join(columns) + "\n" + ",".join(cells) + "\n", encoding="utf-8")
        command = demo.command(out, *more)
        command[command.index("--set") + 1] = str(table)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr if done.returncode == 2 else done.stdout.rsplit("\n", 2)[0]
        found[name] = _last_line(said, demo)
    return found
