"""What the runner's demonstrations have in common: rows, folders, and what a run has to show."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runner.best import read_results
from ...runner.cluster import Cluster
from ...runner.job import Backend, Graph, Outcome, Task
from ...runner.local import InProcess
from ...runner.run import Summary, run
from .. import ROOT
from .rows import bench_rows, demo_graph

SAVED, STEPS = "spatial", 2
"""The demonstrations' picture, of GLIGEN and KSampler, and its steps: as cheap as can be, so that
whatever the runner adds weighs most. Overhead is measured on RealCompo's own, at 30 steps."""
METRIC = "oracle"


@dataclass(frozen=True)
class Size:
    """How much is drawn: rows of a demonstration, of which one is killed after some; rows for
    the overhead; blocks of rows for the scaling."""

    rows: int = 200
    kill_after: int = 60
    overhead_rows: int = 8
    blocks: int = 4
    block_rows: int = 16


QUICK = Size(12, 4, 2, 1, 4)


class Watched:
    """A backend that calls ``at(number of outcomes, outcome)`` and keeps when each one came."""

    def __init__(self, inner: Backend, at: Callable[[int, Outcome], None] | None = None) -> None:
        self.inner, self.at = inner, at
        self.began, self.times = 0.0, [0.0]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # the inner one outlives a run

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """See ``Backend``."""
        return self.inner.describe(names)

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """See ``Backend``."""
        self.began, self.times = time.monotonic(), []
        for number, outcome in enumerate(self.inner.results(tasks, stop), 1):
            self.times.append(time.monotonic())
            if self.at is not None:
                self.at(number, outcome)
            yield outcome

    def interrupt(self) -> None:
        """See ``Backend``."""
        self.inner.interrupt()

    @property
    def seconds(self) -> float:
        """From the first request to the last outcome."""
        return self.times[-1] - self.began


class Only(Watched):
    """A cluster of which one worker is used."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.cluster = cluster

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """See ``Backend``."""
        for _task, outcome, problem in self.cluster.workers.results(tasks, stop, most=1):
            assert problem is None, problem
            yield outcome


def pixels(out: Path) -> dict[str, list[str]]:
    """Hashes of every row's pictures."""
    return {row["id"]: row["pixels_sha256"] for row in read_results(out)}


def complete(out: Path, count: int) -> dict[str, Any]:
    """What shows that a table has every row once and every picture."""
    rows = read_results(out)
    names = Counter(row["id"] for row in rows)
    files = [image for row in rows for image in row["images"]]
    return {
        "rows": len(rows),
        "missing": count - len(names),
        "twice": sum(times > 1 for times in names.values()),
        "failed": sum(row["status"] != "done" for row in rows),
        "pictures_missing": sum(not (out / image).is_file() for image in files),
        "pictures_beyond": len(list((out / "images").iterdir())) - len(files),
        "rows_per_worker": sorted(Counter(row["worker"] for row in rows).values()),
    }


class Demonstration:
    """The places, the rows, and the folder everything goes into."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size, self.rows = folder, size, bench_rows(size.rows)
        self.graph: Graph = {}
        self.workflow, self.table = folder / "workflow.json", folder / "rows.jsonl"

    def out(self, name: str) -> Path:
        """A run's folder, empty."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def write(self, local: InProcess) -> None:
        """Workflow and table as files, for runs by the command line."""
        self.graph = demo_graph(local, SAVED, STEPS)
        self.workflow.write_text(json.dumps(self.graph, indent=1), encoding="utf-8")
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        self.table.write_text(lines, encoding="utf-8")

    def command(self, out: Path, *more: str) -> list[str]:
        """The runner's command line."""
        run_module = [sys.executable, str(ROOT / "tools" / "run.py"), "runner.main"]
        return [*run_module, str(self.workflow), "--set", str(self.table), "--out", str(out), *more]

    def draw(self, backend: Backend, out: Path, rows: list[dict[str, Any]] | None = None,
             **more: Any) -> Summary:  # fmt: skip
        """A run in this process' driver."""
        return run(rows or self.rows, self.graph, backend, out, progress=False, **more)


def whole(
    demo: Demonstration,
    backend: Backend,
    name: str,
    at: Callable[[int, Outcome], None] | None = None,
) -> dict[str, Any]:
    """All rows by ``backend``; whether the table is complete, the pictures those of stage 'a'."""
    watched, out = Watched(backend, at), demo.out(name)
    start = time.process_time()
    demo.draw(watched, out)
    return {
        **complete(out, len(demo.rows)), "seconds": watched.seconds,
        "driver_cpu_seconds_per_row": (time.process_time() - start) / len(demo.rows),
        "same_pictures": pixels(out) == pixels(demo.folder / "a"),
    }  # fmt: skip
