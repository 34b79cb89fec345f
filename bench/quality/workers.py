"""Rows of the quality table drawn by Ray workers, a whole row at a time.

A row of the table is 256 scenes in batches of 32: cut into single pictures it would take many
times as long, so the unit of work is the row. A worker keeps the pairs of models that it has
loaded, and rows of one pair stay with one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..workers import Crew, Piece, finished, start_worker

if TYPE_CHECKING:
    from ..rows import Row
    from .job import Job

FACTORY = "bench.quality.workers:row_worker"
Answer = tuple[Any, dict[str, float]]
"""A row's pictures as bytes (N, 3, 128, 128) and what they cost."""


def row_worker(
    scenes: int, steps: int, schedule_scenes: int, threads: int, arguments: Sequence[str]
) -> Callable[[Piece], Answer]:
    """What a worker does with a piece: draw the row of that name. ``arguments``: ComfyUI's."""
    start_worker(threads, arguments)
    from ..rows import known_rows
    from .job import Studios, as_bytes, costs_of, job_of

    studios = Studios(job_of(scenes, steps, schedule_scenes))
    rows = {row.method: row for row in known_rows(steps)}

    def draw(piece: Piece) -> Answer:
        drawn = studios.draw(rows[piece.id])
        return as_bytes(drawn), costs_of(drawn)

    return draw


def make_rows_on(job: Job, rows: Sequence[Row], crew: Crew) -> None:
    """Every row that is not there yet and that no other process is at, drawn by workers and judged.

    Raises ``RunnerError`` at the first that fails; the others' files are there by then.
    """
    from .job import from_bytes, save_drawn
    from .scores import print_row, scored

    job.folder.mkdir(parents=True, exist_ok=True)
    missing = {row.method: row for row in rows if not job.drawn(row).exists()}
    pieces = [
        Piece(row.method, f"{row.style} {row.control} {row.regions}", job.drawn(row))
        for row in missing.values()
    ]
    settings = {
        "scenes": len(job.scenes), "steps": job.steps, "schedule_scenes": job.schedule_scenes,
    }  # fmt: skip
    with crew.workers(FACTORY, settings) as workers:
        for piece, answer in finished(workers, pieces):
            save_drawn(piece.path, from_bytes(*answer))
            print_row(scored(job, missing[piece.id]))
