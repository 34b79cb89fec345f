"""What travels between the run and the places that draw: tasks, outcomes, and who takes them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Graph = dict[str, Any]
"""An API-format workflow: ``{node id: {"class_type", "inputs", "_meta"}}``."""

DONE, FAILED = "done", "failed"
MOST_DEATHS = 3
"""A row whose worker died this often under it is recorded as failed: it may be what kills them."""


@dataclass(frozen=True)
class Task:
    """One row, filled in. ``key`` names the models that it needs: rows of one key are kept
    together. ``values`` are the row's cells; ``number`` its place in the table, from 1."""

    id: str
    number: int
    graph: Graph
    values: dict[str, Any]
    key: str = ""


@dataclass(frozen=True)
class Picture:
    """A file that a row made, whole: the node that saved it, its suffix ('.png') and its bytes.

    ``digest``: SHA-256 of the decoded pixels, '' for what is no picture (a video, a latent).
    """

    node: str
    suffix: str
    data: bytes
    digest: str


@dataclass
class Outcome:
    """What came of one task. ``shown``: what nodes showed beside files, ``{node: {key: [...]}}``.

    ``metrics``: named numbers, one for the row or a list with one per picture. ``seconds`` of the
    clock from the row's start to its last picture. ``again``: it failed by what carried its
    pictures, not by the row, and the next start draws it again.
    """

    id: str
    status: str
    worker: str
    seconds: float = 0.0
    error: str | None = None
    pictures: list[Picture] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | list[float]] = field(default_factory=dict)
    again: bool = False


class Backend(Protocol):
    """A place that draws rows; a context manager whose end frees whatever it holds."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, *_: object) -> None: ...

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """Descriptions of node classes as ``GET /object_info`` gives them; unknown ones are left
        out. Raises ``RunnerError`` if the place cannot be reached or started."""
        ...

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """Outcomes as they come, one per task, until ``stop`` is set. Raises ``RunnerError`` when
        no further row can be drawn at all."""
        ...

    def interrupt(self) -> None:
        """Leave off with the rows under way, from any thread; ``stop`` has been set."""
        ...


class Shelf:
    """Tasks that wait, by the models they need. A worker goes on with its models while there are
    rows for them, so that models are loaded as seldom as can be."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self._groups: dict[str, deque[Any]] = {}
        self._on: Counter[str] = Counter()
        self._at: dict[object, str] = {}
        self._deaths: Counter[str] = Counter()
        for task in tasks:
            self._groups.setdefault(task.key, deque()).append(task)

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def take(self, worker: object) -> Any:
        """The next task for ``worker``, or None. Without rows for the models that it holds: of
        those that have most rows left for each worker at them."""
        now = self._at.get(worker)
        if now is None or not self._groups.get(now):
            waiting = [key for key, group in self._groups.items() if group]
            if not waiting:
                return None
            self.leave(worker)
            now = max(waiting, key=lambda key: len(self._groups[key]) / (1 + self._on[key]))
            self._at[worker] = now
            self._on[now] += 1
        return self._groups[now].popleft()

    def leave(self, worker: object) -> None:
        """``worker`` holds no models any more."""
        before = self._at.pop(worker, None)
        if before is not None:
            self._on[before] -= 1

    def put_back(self, task: Any) -> bool:
        """Take back a task whose worker died; False if that has happened too often."""
        self._deaths[task.id] += 1
        if self._deaths[task.id] >= MOST_DEATHS:
            return False
        self._groups.setdefault(task.key, deque()).appendleft(task)
        return True
