"""Rows drawn in this process, one after the other, without a server."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import Stopped
from .host import GraphWorker
from .job import Outcome, Task
from .metrics import check_metric


class InProcess:
    """The ComfyUI of ``COMFYUI_PATH`` (or at ``path``) inside this process, on its device."""

    def __init__(
        self,
        path: Path | None = None,
        arguments: Sequence[str] = (),
        metrics: Sequence[str] = (),
    ) -> None:
        """``arguments``: ComfyUI's command line; ``metrics``: see ``load_metric``."""
        names = [check_metric(metric) for metric in metrics]
        self._settings: dict[str, Any] = {"path": path, "arguments": arguments, "metrics": names}
        self._worker: GraphWorker | None = None

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @property
    def worker(self) -> GraphWorker:
        """The started host."""
        if self._worker is None:
            self._worker = GraphWorker(**self._settings)
        return self._worker

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """See ``Backend``."""
        return self.worker.describe(names)

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """See ``Backend``."""
        for task in tasks:
            if stop.is_set():
                return
            try:
                yield self.worker(task)
            except Stopped:
                if stop.is_set():
                    return
                raise

    def interrupt(self) -> None:
        """See ``Backend``."""
        if self._worker is not None:
            self._worker.interrupt()
