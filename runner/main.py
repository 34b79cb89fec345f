"""Draw every row of a table with a workflow: ``python dev.py run WORKFLOW.json --set TABLE``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cluster import Cluster, Place
from .errors import RunnerError, shown
from .host import log_to
from .job import Backend
from .local import InProcess
from .run import Summary, run
from .servers import PATIENCE_SECONDS, Servers

SHOWN_PROBLEMS = 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="dev.py run", description=__doc__)
    found.add_argument("workflow", type=Path, help="what ComfyUI's 'Export (API)' writes")
    found.add_argument("--set", type=Path, required=True, dest="table", metavar="TABLE",
                       help="rows: .csv, .jsonl or .parquet; columns are named 'node.input', by"
                       " the node's title or id")  # fmt: skip
    found.add_argument("--out", type=Path, required=True, help="folder of pictures and results;"
                       " a second start goes on with it")  # fmt: skip
    found.add_argument("--map", action="append", default=[], metavar="COLUMN=NODE.INPUT",
                       help="input that a column fills, if its name does not say it; may be"
                       " repeated, also for one column; COLUMN= for none")  # fmt: skip
    found.add_argument("--repeat", type=positive, default=1, metavar="N",
                       help="draw each row N times, with seeds that follow its own")  # fmt: skip
    found.add_argument("--limit", type=positive, metavar="N", help="the first N rows only")
    found.add_argument("--metric", action="append", default=[], metavar="MODULE:FUNCTION",
                       help="numbers of each row's pictures: a function of (pictures, row), also"
                       " as FILE.py:FUNCTION, or 'oracle' for the demo models")  # fmt: skip
    found.add_argument("--dry-run", action="store_true", help="check every row, draw none")
    found.add_argument("--retry-failed", action="store_true", help="draw failed rows again, too")
    group = found.add_argument_group("where (default: in this process)")
    group.add_argument("--server", action="append", default=[], metavar="URL",
                       help="a running ComfyUI; may be repeated")  # fmt: skip
    group.add_argument("--patience", type=seconds, default=PATIENCE_SECONDS, metavar="SECONDS",
                       help="how long to wait when no server answers")  # fmt: skip
    group.add_argument("--ray", metavar="ADDRESS",
                       help="a Ray cluster: host:6379, auto, or local (started here)")  # fmt: skip
    group.add_argument("--workers", type=positive, metavar="N",
                       help="Ray workers; default: one per graphics card")  # fmt: skip
    group.add_argument("--there-pack", type=Path, help="this pack's folder on Ray's machines")
    group.add_argument("--there-comfyui", type=Path, help="ComfyUI's folder on Ray's machines")
    group.add_argument("--host-argument", action="append", default=[], metavar="ARGUMENT",
                       help="for ComfyUI's command line (not with --server), such as"
                       " --host-argument=--lowvram")  # fmt: skip
    return found


def positive(text: str) -> int:
    """A number of things on a command line, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def seconds(text: str) -> float:
    """A time on a command line, 0 or more."""
    time = float(text)
    if not 0 <= time < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return time


def mapping_of(texts: list[str]) -> dict[str, list[str]]:
    """``--map`` arguments as ``bind`` takes them. Raises ``RunnerError``."""
    found: dict[str, list[str]] = {}
    for text in texts:
        column, sign, target = text.partition("=")
        if not sign or not column:
            raise RunnerError(f"--map {shown(text)} is not written as COLUMN=NODE.INPUT.")
        targets = found.setdefault(column, [])
        if target:
            targets.append(target)
    return found


def backend_of(choice: argparse.Namespace) -> Backend:
    """The place that the command line names. Raises ``RunnerError``."""
    if choice.server and choice.ray:
        raise RunnerError("Give --server or --ray, not both.")
    if choice.server:
        return Servers(choice.server, choice.metric, choice.patience)
    if choice.ray:
        there = {"pack": choice.there_pack} if choice.there_pack else {}
        place = Place(choice.ray, choice.workers, comfyui=choice.there_comfyui, **there)
        return Cluster(place, choice.host_argument, choice.metric)
    return InProcess(None, choice.host_argument, choice.metric)


@contextlib.contextmanager
def stopping(backend: Backend) -> Iterator[threading.Event]:
    """An event that Ctrl+C or SIGTERM sets; a second Ctrl+C ends at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        backend.interrupt()

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def report(summary: Summary, out: Path) -> int:
    """Say how the run ended; the exit code: 0 all done, 1 some failed, 130 stopped."""
    if summary.results is not None:
        print(f"{summary.done} of {summary.rows} rows are done, {summary.failed} failed:"
              f" {summary.results}")  # fmt: skip
    if summary.stopped and summary.left:
        print("Stopped. The same command goes on with the rest.")
        return 130
    if summary.failed:
        print(f"What went wrong is in the column 'error' (and in {out / 'run.log'});"
              " --retry-failed draws these rows again.")  # fmt: skip
    return 1 if summary.failed else 0


def report_check(summary: Summary) -> int:
    """Say what a dry run found; 1 if some row cannot be drawn."""
    for problem in summary.problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(summary.problems) > SHOWN_PROBLEMS:
        print(f"... and {len(summary.problems) - SHOWN_PROBLEMS} more.")
    good = summary.rows - len(summary.problems)
    print(f"{good} of {summary.rows} rows can be drawn; nothing has been drawn (dry run).")
    return 1 if summary.problems else 0


def main(argv: list[str]) -> int:
    """Run; returns the exit code, 2 for what concerns the whole run."""
    choice = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal need not have a table's letters
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    handler = None
    try:
        with backend_of(choice) as backend, stopping(backend) as stop:
            if not choice.dry_run:
                with contextlib.suppress(OSError):  # the store says it better
                    choice.out.mkdir(parents=True, exist_ok=True)
                    handler = log_to(choice.out / "run.log")
            summary = run(
                choice.table, choice.workflow, backend, choice.out,
                mapping=mapping_of(choice.map), repeat=choice.repeat, limit=choice.limit,
                retry_failed=choice.retry_failed, dry_run=choice.dry_run, stop=stop,
                tell=lambda text: print(text, flush=True),
            )  # fmt: skip
        return report_check(summary) if choice.dry_run else report(summary, choice.out)
    except RunnerError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if handler is not None:
            logging.getLogger().removeHandler(handler)
            handler.close()
