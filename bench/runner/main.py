"""The runner's demonstrations and figures: ``python dev.py bench runner``.

200 rows in this process, by two servers on the loopback interface and by two local Ray workers
give the same pictures; workers, a server and the driver itself are killed in the middle; a disk
fills up; overhead and scaling are measured in processor time and by the clock. Takes half an hour
to an hour on two cores. Writes ``bench/results/runner.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...runner.cluster import Cluster, Place
from ...runner.job import Outcome
from ...runner.local import InProcess
from ...runner.servers import Servers
from .. import RESULTS, ROOT
from ..report import commit, write_whole
from .demonstration import METRIC, QUICK, STEPS, Demonstration, Only, Size, whole
from .failures import full_disk, killed_driver, mistakes
from .timing import overhead, scaling


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


def with_servers(demo: Demonstration, stages: Stages) -> None:
    """Two servers on the loopback interface."""
    from live_server import LiveServer

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


def main(argv: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="bench runner", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "runner.json")
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
