"""What servers that draw one run's rows have in common: the rows that wait, and those finished."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RowError, one_line
from .job import DONE, Outcome, Shelf, Task
from .metrics import Metric, measure


class ServerTasks:
    """Tasks of one run on ``servers`` servers; outcomes go into ``found``."""

    def __init__(
        self,
        tasks: Sequence[Task],
        servers: int,
        metrics: Mapping[str, Metric],
        found: queue.Queue[Any],
    ) -> None:
        self.servers, self._metrics, self._found = servers, metrics, found
        self.shelf = Shelf(tasks)
        # One entry per task on the shelf. The shelf says which task, the queue when there is one.
        self.waiting: asyncio.Queue[None] = asyncio.Queue()
        for _ in tasks:
            self.waiting.put_nowait(None)
        self.last_words = ""

    def finish(self, task: Task, outcome: Outcome) -> Outcome:
        """An outcome with its pictures' hashes and metrics; runs in a thread."""
        try:
            row = {**task.values, "id": task.id, "workflow": task.graph}
            outcome.metrics = measure(self._metrics, outcome.pictures, row)
            outcome.status = DONE
        except RowError as error:
            outcome.error, outcome.again = one_line(error), error.again
        return outcome

    def tell(self, outcome: Outcome) -> None:
        """A task is finished."""
        self._found.put(outcome)
        self.waiting.task_done()

    def leave(self) -> None:
        """A task that was waited for stays for others."""
        self.waiting.put_nowait(None)
        self.waiting.task_done()

    def put_back(self, task: Task, otherwise: Outcome) -> None:
        """A task whose server died, or is odd, goes to whoever is free, or is given up."""
        if self.shelf.put_back(task):
            self.leave()
        else:
            self.tell(otherwise)
