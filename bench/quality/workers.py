"""Rows of the quality table drawn by Ray workers, a whole row at a time.

A row of the table is 256 scenes in batches of 32: cut into single pictures it would take many
times as long, so the unit of work is the row. A worker keeps the pairs of models that it has
loaded, and rows of one pair stay with one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...runner.cluster import Place, Workers
from ..workers import Piece, finished, start_worker

if TYPE_CHECKING:
    from ..pictures import Drawn
    from ..rows import Row
    from .main import Job

FACTORY = "bench.quality.workers:row_worker"
Answer = tuple[Any, dict[str, float]]
"""A row's pictures as bytes (N, 3, 128, 128) and what they cost."""


def row_worker(
    scenes: int, steps: int, schedule_scenes: int, threads: int, arguments: Sequence[str]
) -> Callable[[Piece], Answer]:
    """What a worker does with a piece: draw the row of that name. ``arguments``: ComfyUI's."""
    start_worker(threads, arguments)
    from ..rows import known_rows
    from .main import Studios, as_bytes, costs_of, job_of

    studios = Studios(job_of(scenes, steps, schedule_scenes))
    rows = {row.method: row for row in known_rows(steps)}

    def draw(piece: Piece) -> Answer:
        drawn = studios.draw(rows[piece.id])
        return as_bytes(drawn), costs_of(drawn)

    return draw


def drawn_by_workers(
    job: Job, rows: Sequence[Row], place: Place, threads: int, arguments: Sequence[str]
) -> Iterator[tuple[Row, Drawn]]:
    """Every row that no other process is at with what was drawn for it, as they come.

    ``arguments``: ComfyUI's. Raises ``RunnerError`` at the first that fails; the others' files are
    there by then.
    """
    from .main import from_bytes

    settings = {
        "scenes": len(job.scenes), "steps": job.steps, "schedule_scenes": job.schedule_scenes,
        "threads": threads, "arguments": tuple(arguments),
    }  # fmt: skip
    named = {row.method: row for row in rows}
    pieces = [
        Piece(row.method, f"{row.style} {row.control} {row.regions}", job.drawn(row))
        for row in rows
    ]
    with Workers(place, FACTORY, settings) as workers:
        for piece, answer in finished(workers, pieces):
            yield named[piece.id], from_bytes(*answer)
