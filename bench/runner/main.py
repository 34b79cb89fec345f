"""The runner's demonstrations and figures: ``python dev.py bench runner``.

200 rows in this process, by two servers on the loopback interface and by two local Ray workers
give the same pictures; workers, a server and the driver itself are killed in the middle; a disk
fills up; overhead and scaling are measured in processor time and by the clock. Takes half an hour
to an hour on two cores. Writes ``bench/results/runner.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runner import host as runner_host
from ...runner.best import read_results
from ...runner.cluster import Cluster, Place
from ...runner.job import Backend, Graph, Outcome, Task
from ...runner.local import InProcess
from ...runner.plan import make_plan
from ...runner.run import Summary, run
from ...runner.servers import Servers
from ...runner.table import table_of
from ..report import commit, write_whole
from .rows import SAMPLER, bench_rows, demo_graph

ROOT = Path(__file__).resolve().parents[2]
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
        return self.inner.describe(names)

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        self.began, self.times = time.monotonic(), []
        for number, outcome in enumerate(self.inner.results(tasks, stop), 1):
            self.times.append(time.monotonic())
            if self.at is not None:
                self.at(number, outcome)
            yield outcome

    def interrupt(self) -> None:
        self.inner.interrupt()

    @property
    def seconds(self) -> float:
        """From the first request to the last outcome."""
        return self.times[-1] - self.began


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


def overhead(local: InProcess, rows: int) -> dict[str, Any]:
    """Processor time of a row beyond the sampler's own, at the demo's 30 steps.

    The sampler is timed inside the row that it belongs to: on a busy machine two calls of one
    function differ by a tenth, more than what is looked for.
    """
    graph = demo_graph(local, "realcompo", 30)
    table = table_of([{f"{SAMPLER}.seed": seed} for seed in range(rows + 1)])
    plan = make_plan(graph, table, local.describe({n["class_type"] for n in graph.values()}))
    spent: Counter[str] = Counter()
    host: Any = local.worker._host
    with contextlib.ExitStack() as stack:
        for name in {node["class_type"] for node in graph.values()}:
            kind = host._nodes.node_class(name)
            stack.enter_context(_timed(kind, kind.FUNCTION, spent, name))
        stack.enter_context(_timed(runner_host, "measure", spent, METRIC))
        first, *tasks = [entry.task for entry in plan.entries]
        local.worker(first)
        shares, parts = [], Counter()
        for task in tasks:
            spent.clear()
            start = time.process_time()
            outcome = local.worker(task)
            spent["row"] = time.process_time() - start
            assert outcome.status == "done", outcome.error
            shares.append(spent["row"] / spent["RealCompoDualSampler"] - 1)
            parts.update(spent)
    known = sum(value for name, value in parts.items() if name != "row")
    return {
        "rows": rows, "steps": 30,
        "overhead": statistics.median(shares), "overhead_range": [min(shares), max(shares)],
        "cpu_seconds_per_row": {
            **{name: value / rows for name, value in parts.most_common()},
            "host_and_runner": (parts["row"] - known) / rows,
        },
    }  # fmt: skip


@contextlib.contextmanager
def _timed(owner: Any, name: str, spent: Counter[str], label: str) -> Iterator[None]:
    """Processor time of a function goes to ``spent[label]``."""
    original = getattr(owner, name)

    def timed(*arguments: Any, **more: Any) -> Any:
        start = time.process_time()
        try:
            return original(*arguments, **more)
        finally:
            spent[label] += time.process_time() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


def cpu_seconds(pids: Iterable[int | None]) -> float:
    """Processor time that processes have used."""
    import psutil

    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def scaling(
    demo: Demonstration,
    name: str,
    one: Backend,
    two: Backend,
    pids: Callable[[], Sequence[int | None]],
) -> dict[str, Any]:
    """Blocks of rows by one worker and by two, in turns: rate by the clock, and processor time."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    driver: list[float] = []
    for block in range(demo.size.blocks):
        rows = [row for row in demo.rows if row["Realism model.style"] == "realistic"]
        rows = [{**row, "seed": 1000 * block + n}
                for n, row in enumerate(rows[: demo.size.block_rows])]  # fmt: skip
        for workers, backend in ((1, one), (2, two)) if block % 2 == 0 else ((2, two), (1, one)):
            watched = Watched(backend)
            before, own = cpu_seconds(pids()), time.process_time()
            demo.draw(watched, demo.out(f"{name}-block"), rows)
            cpu[workers].append((cpu_seconds(pids()) - before) / len(rows))
            driver.append((time.process_time() - own) / len(rows))
            # the first row is warm-up: nobody has loaded models in the first block
            rates[workers].append((len(rows) - 1) / (watched.times[-1] - watched.times[0]))
    ratios = [b / a for a, b in zip(rates[1], rates[2], strict=True)]
    return {
        "blocks": demo.size.blocks, "rows_per_block": demo.size.block_rows, "steps": STEPS,
        "rows_per_second": {str(key): statistics.median(value) for key, value in rates.items()},
        "ratio": statistics.median(ratios), "ratios": ratios,
        "worker_cpu_seconds_per_row": {str(k): statistics.median(v) for k, v in cpu.items()},
        "driver_cpu_seconds_per_row": statistics.median(driver),
    }  # fmt: skip


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


class Stages:
    """Figures by stage, kept in a file: a stopped bench goes on with the next stage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        self.found: dict[str, Any] = json.loads(text)

    def do(self, name: str, make: Callable[[], Any]) -> None:
        """Make a stage's figures unless they are there."""
        if name not in self.found:
            self.found[name] = make()
            write_whole(self.path, json.dumps(self.found, indent=1))
            print(name, json.dumps(self.found[name]), flush=True)

    def open(self, *names: str) -> bool:
        """Is one of these stages still to be done?"""
        return any(name not in self.found for name in names)


def demonstrate(folder: Path, size: Size, again: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that is not done yet, and what shall be done ``again``; returns the figures."""
    demo, stages = Demonstration(folder, size), Stages(folder / "stages.json")
    for name in again:
        stages.found.pop(name, None)
    with InProcess(metrics=[METRIC]) as local:
        demo.write(local)
        stages.do("in_process", lambda: whole(demo, local, "a"))
        stages.do("overhead_in_process", lambda: overhead(local, size.overhead_rows))
    with_servers(demo, stages)
    with_ray(demo, stages)
    stages.do("killed_driver", lambda: killed_driver(demo))
    stages.do("full_disk", lambda: full_disk(demo))
    stages.do("mistakes", lambda: mistakes(demo))
    return stages.found


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


def with_servers(demo: Demonstration, stages: Stages) -> None:
    """Two servers on the loopback interface."""
    from live_server import LiveServer  # pyright: ignore[reportMissingImports]

    if not stages.open("two_servers", "scaling_servers", "killed_server"):
        return
    host, python = Path(os.environ["COMFYUI_PATH"]), Path(sys.executable)

    def server(name: str) -> Any:
        return LiveServer(host, python, dict(os.environ), demo.folder / name)

    with server("server-1") as first, server("server-2") as second:
        both, alone = Servers([first.url, second.url], [METRIC]), Servers([first.url], [METRIC])
        pids = [first.pid, second.pid]
        stages.do("two_servers", lambda: whole(demo, both, "b"))
        stages.do("scaling_servers", lambda: scaling(demo, "servers", alone, both, lambda: pids))

        def kill(number: int, outcome: Outcome) -> None:
            if number == demo.size.kill_after:
                second.kill()

        stages.do("killed_server", lambda: whole(demo, both, "b-killed", kill))


def with_ray(demo: Demonstration, stages: Stages) -> None:
    """Two workers of a Ray that is started here."""
    if not stages.open("two_ray_workers", "scaling_ray", "killed_ray_worker"):
        return
    with Cluster(Place("local", 2), metrics=[METRIC]) as cluster:
        stages.do("two_ray_workers", lambda: whole(demo, cluster, "c"))
        alone = Only(cluster)
        stages.do("scaling_ray", lambda: scaling(demo, "ray", alone, cluster, cluster.workers.pids))

        def kill(number: int, outcome: Outcome) -> None:
            if number == demo.size.kill_after:
                os.kill(int(outcome.worker.rpartition(":")[2]), signal.SIGKILL)

        stages.do("killed_ray_worker", lambda: whole(demo, cluster, "c-killed", kill))


class Only(Watched):
    """A cluster of which one worker is used."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.cluster = cluster

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        for _task, outcome, problem in self.cluster.workers.results(tasks, stop, most=1):
            assert problem is None, problem
            yield outcome


def main(argv: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="bench runner", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "runner.json")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench-runner")
    parser.add_argument("--again", nargs="+", default=[], metavar="STAGE",
                        help="measure these anew, such as scaling_servers")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few rows of each, into --work")
    choice = parser.parse_args(argv)
    choice.work.mkdir(parents=True, exist_ok=True)
    loads = [os.getloadavg()]
    size = QUICK if choice.quick else Size()
    if choice.quick and choice.out == parser.get_default("out"):
        choice.out = choice.work / "runner.json"
    figures = demonstrate(choice.work, size, choice.again)
    loads.append(os.getloadavg())
    document = {
        "command": "python dev.py bench runner", "commit": commit(),
        "machine": {"cpus": os.cpu_count(), "system": platform.system(),
                    "threads_per_worker": os.environ.get("OMP_NUM_THREADS"),
                    "load_average_before_and_after": loads},
        "rows": size.rows, "steps": STEPS, "figures": figures,
    }  # fmt: skip
    write_whole(choice.out, json.dumps(document, indent=1) + "\n")
    print(f"Figures are in {choice.out}")
    return 0
