"""Stages of the alignment table drawn by Ray workers, a whole stage at a time.

A stage is all samples' pictures drawn once (one of best-of-4's four candidates), the choice among
them, or the fine stage. Stages that need none of the missing ones are handed out together, then
those that start from them, until none is left. Files travel by value, so that workers need no
folder in common with the driver; a worker finds its stage by the name of its file, which holds a
hash of all weights: a machine with other models is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runner.errors import RunnerError
from ..kept import write_bytes
from ..workers import Crew, Piece, finished, start_worker
from .rows import Row

if TYPE_CHECKING:
    from .draw import Job, Part

FACTORY = "bench.alignment.workers:stage_worker"


@dataclass(frozen=True)
class Wanted:
    """A stage of ``row``, and the files of those that it starts from, by their names."""

    row: Row
    needs: dict[str, bytes]


def stage_worker(threads: int, arguments: Sequence[str], **about: Any) -> Callable[[Piece], bytes]:
    """What a worker does with a piece: make the stage of that file, and give the file.

    ``arguments``: ComfyUI's; ``about``: of the ``Job``.
    """
    start_worker(threads, arguments)
    from .draw import Job

    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), **about)

    def make(piece: Piece) -> bytes:
        wanted: Wanted = piece.content
        with tempfile.TemporaryDirectory() as folder:
            job.folder = Path(folder)
            for name, data in wanted.needs.items():
                (job.folder / name).write_bytes(data)
            parts = {part.path.name: part for part in job.parts(wanted.row)}
            if piece.path.name not in parts:
                raise RunnerError("the worker's machine has other models or another pack")
            part = parts[piece.path.name]
            part.make().save(part.path)
            return part.path.read_bytes()

    return make


def make_stages_on(job: Job, rows: Sequence[Row], crew: Crew) -> None:
    """Every stage of ``rows`` that is not there yet and that no other process is at, by workers.

    Raises ``RunnerError`` at the first stage that fails.
    """
    handed_out: set[Path] = set()
    with crew.workers(FACTORY, job.about) as workers:
        while ready := _ready(job, rows, handed_out):
            pieces = [
                Piece(f"{row.method}: {part.path.stem}", f"{row.style} {row.lora}", part.path,
                      Wanted(row, {path.name: path.read_bytes() for path in part.needs}))
                for row, part in ready
            ]  # fmt: skip
            handed_out |= {piece.path for piece in pieces}
            for piece, data in finished(workers, pieces):
                write_bytes(piece.path, data)
                print(f"{piece.id} is there", flush=True)


def _ready(job: Job, rows: Sequence[Row], handed_out: set[Path]) -> list[tuple[Row, Part]]:
    """Missing stages that can be made now, each once: rows share stages."""
    found = {
        part.path: (row, part)
        for row in rows
        for part in job.parts(row)
        if part.path not in handed_out
        and not part.path.exists()
        and all(path.exists() for path in part.needs)
    }
    return list(found.values())
