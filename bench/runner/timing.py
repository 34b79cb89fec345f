"""What the runner costs: a row's overhead, and the rates of one worker and of two."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ...runner import host as runner_host
from ...runner.job import Backend
from ...runner.local import InProcess
from ...runner.plan import make_plan
from ...runner.table import table_of
from .demonstration import METRIC, STEPS, Demonstration, Watched
from .rows import SAMPLER, demo_graph


def overhead(local: InProcess, rows: int) -> dict[str, Any]:
    """Processor time of a row beyond the sampler's own, at the demo's 30 steps.

    The sampler is timed inside the row that it belongs to: on a busy machine two calls of one
    function differ by a tenth, more than what is looked for.
    """
    graph = demo_graph(local, "realcompo", 30)
    table = table_of([{f"{SAMPLER}.seed": seed} for seed in range(rows + 1)])
    plan = make_plan(graph, table, local.describe({n["class_type"] for n in graph.values()}))
    spent: dict[str, float] = defaultdict(float)
    host: Any = local.worker._host
    with contextlib.ExitStack() as stack:
        for name in {node["class_type"] for node in graph.values()}:
            kind = host._nodes.node_class(name)
            stack.enter_context(_timed(kind, kind.FUNCTION, spent, name))
        stack.enter_context(_timed(runner_host, "measure", spent, METRIC))
        first, *tasks = [entry.task for entry in plan.entries]
        local.worker(first)
        shares: list[float] = []
        parts: dict[str, float] = defaultdict(float)
        for task in tasks:
            spent.clear()
            start = time.process_time()
            outcome = local.worker(task)
            spent["row"] = time.process_time() - start
            assert outcome.status == "done", outcome.error
            shares.append(spent["row"] / spent["RealCompoDualSampler"] - 1)
            for name, seconds in spent.items():
                parts[name] += seconds
    known = sum(value for name, value in parts.items() if name != "row")
    largest = sorted(parts.items(), key=lambda part: part[1], reverse=True)
    return {
        "rows": rows, "steps": 30,
        "overhead": statistics.median(shares), "overhead_range": [min(shares), max(shares)],
        "cpu_seconds_per_row": {
            **{name: value / rows for name, value in largest},
            "host_and_runner": (parts["row"] - known) / rows,
        },
    }  # fmt: skip


@contextlib.contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], label: str) -> Iterator[None]:
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
