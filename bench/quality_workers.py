"""Rows of the quality table drawn by Ray workers, a whole row at a time.

A row of the table is 256 scenes in batches of 32: cut into single pictures it would take many
times as long, so the unit of work is the row. A worker keeps the pairs of models that it has
loaded, and rows of one pair stay with one worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runner.cluster import Place, Workers
from ..runner.errors import RunnerError

if TYPE_CHECKING:
    from .pictures import Drawn
    from .quality import Job
    from .rows import Row

FACTORY = "bench.quality_workers:row_worker"
Answer = tuple[Any, dict[str, float]]
"""A row's pictures as bytes (N, 3, 128, 128) and what they cost."""


@dataclass(frozen=True)
class RowTask:
    """A row of the table; ``key``: the models that it needs."""

    id: str
    key: str


def row_worker(
    scenes: int, steps: int, schedule_scenes: int, threads: int, arguments: Sequence[str]
) -> Callable[[RowTask], Answer]:
    """What a worker does with a task: draw the row of that name. ``arguments``: ComfyUI's."""
    import hostpack  # pyright: ignore[reportMissingImports]

    path = hostpack.host_path()
    if path is None:
        raise RunnerError("There is no ComfyUI here: set COMFYUI_PATH to its folder.")
    hostpack.start_host(path, tuple(arguments))
    import torch

    from .quality import Studios, as_bytes, costs_of, job_of
    from .rows import known_rows

    torch.set_num_threads(threads)
    studios = Studios(job_of(scenes, steps, schedule_scenes))
    rows = {row.method: row for row in known_rows(steps)}

    def draw(task: RowTask) -> Answer:
        drawn = studios.draw(rows[task.id])
        return as_bytes(drawn), costs_of(drawn)

    return draw


def drawn_by_workers(
    job: Job, rows: Sequence[Row], place: Place, threads: int, arguments: Sequence[str]
) -> Iterator[tuple[Row, Drawn]]:
    """Every row with what was drawn for it, as they come. ``arguments``: ComfyUI's.

    Raises ``RunnerError`` at the first that fails; the others' files are there by then.
    """
    from .quality import from_bytes

    settings = {
        "scenes": len(job.scenes), "steps": job.steps, "schedule_scenes": job.schedule_scenes,
        "threads": threads, "arguments": tuple(arguments),
    }  # fmt: skip
    named = {row.method: row for row in rows}
    tasks = [RowTask(row.method, f"{row.style} {row.control} {row.regions}") for row in rows]
    with Workers(place, FACTORY, settings) as workers:
        for task, answer, problem in workers.results(tasks, threading.Event()):
            if problem is not None:
                raise RunnerError(f"Row {task.id} cannot be drawn: {problem}.")
            yield named[task.id], from_bytes(*answer)
