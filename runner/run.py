"""A whole run: plan, draw what is missing, keep every row, tell how it goes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import RunnerError
from .job import DONE, FAILED, Backend, Graph, Outcome
from .plan import Entry, Plan, make_plan
from .store import Store
from .table import Table, read_table, table_of
from .workflow import checked_workflow, read_workflow

Rows = Path | Table | Iterable[Mapping[str, Any]]


@dataclass
class Summary:
    """What a run did. ``rows``: all of the plan; ``done`` and ``failed``: among them, by now;
    ``drawn``: in this start. ``results``: the table, None after a dry run."""

    rows: int
    done: int = 0
    failed: int = 0
    drawn: int = 0
    stopped: bool = False
    results: Path | None = None
    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Rows that have not been tried yet."""
        return self.rows - self.done - self.failed


def run(
    rows: Rows,
    workflow: Path | Graph,
    backend: Backend,
    out: Path,
    *,
    mapping: Mapping[str, Sequence[str]] | None = None,
    repeat: int = 1,
    limit: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    stop: threading.Event | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Draw every row of a table with a workflow, and write ``out`` (see ``store.py``).

    ``rows``: a file for ``read_table``, or dictionaries, one a row. ``mapping``, ``repeat``,
    ``limit``: see ``make_plan``. Rows that ``out`` has as done are not drawn again, failed ones
    only with ``retry_failed``. ``stop``: when set, the rows under way are left. ``progress``: a
    bar with rate and remaining time. ``tell`` hears what a user should know before the start.
    Raises ``RunnerError`` for whatever concerns all rows; a row's own failure is in the results.
    """
    stop = stop or threading.Event()
    graph = read_workflow(workflow) if isinstance(workflow, Path) else workflow
    graph = checked_workflow(graph, "the workflow")
    table = _table(rows)
    info = backend.describe({node["class_type"] for node in graph.values()})
    plan = make_plan(graph, table, info, mapping, repeat, limit)
    summary = Summary(len(plan.entries), notices=list(plan.notices))
    summary.problems = [f"Row {e.task.number}: {e.problem}." for e in plan.problems]
    for notice in plan.notices:
        tell(notice)
    if dry_run:
        return summary
    with Store(out) as store:
        summary.notices += store.notices
        for notice in store.notices:
            tell(notice)
        missing = _missing(plan, store, retry_failed)
        kept = len(plan.entries) - len(missing)
        if kept:
            tell(f"{kept} of {len(plan.entries)} rows are there already.")
        try:
            _draw(missing, backend, store, stop, _bar(len(plan.entries), kept, progress), summary)
        finally:
            _count(summary, plan, store)
            summary.stopped = stop.is_set()
        summary.results = store.finish({entry.task.id for entry in plan.entries})
    return summary


def _table(rows: Rows) -> Table:
    if isinstance(rows, Path):
        return read_table(rows)
    table = rows if isinstance(rows, Table) else table_of(rows)
    if not table.rows:
        raise RunnerError("There are no rows.")
    return table


def _missing(plan: Plan, store: Store, retry_failed: bool) -> list[Entry]:
    """Rows to be drawn. Raises ``RunnerError`` if the folder has other pictures under their ids."""
    known, missing = store.known(), []
    for entry in plan.entries:
        status, digest = known.get(entry.task.id, ("", entry.digest))
        if digest != entry.digest and status == FAILED:
            status = ""  # the row, or the workflow, has been corrected
        elif digest != entry.digest:
            raise RunnerError(
                f"{store.folder} has a row '{entry.task.id}' from another workflow or with other"
                " values: name another folder, or give the row another id."
            )
        if status == DONE or (status == FAILED and not retry_failed):
            continue
        missing.append(entry)
    return missing


def _count(summary: Summary, plan: Plan, store: Store) -> None:
    known = store.known()
    states = Counter(known.get(entry.task.id, ("",))[0] for entry in plan.entries)
    summary.done, summary.failed = states[DONE], states[FAILED]


def _draw(
    missing: Sequence[Entry],
    backend: Backend,
    store: Store,
    stop: threading.Event,
    bar: Any,
    summary: Summary,
) -> None:
    entries = {entry.task.id: entry for entry in missing}
    failed = 0
    with bar:
        for entry in missing:
            if entry.problem:
                outcome = Outcome(entry.task.id, FAILED, "", error=entry.problem)
                store.keep(entry.task, outcome, entry.columns, entry.digest)
                failed += 1
                bar.update()
        tasks = [entry.task for entry in missing if not entry.problem]
        if not tasks:
            return
        for outcome in backend.results(tasks, stop):
            entry = entries.pop(outcome.id, None)
            if entry is None:
                continue  # a row that came twice: its first worker was only thought dead
            store.keep(entry.task, outcome, entry.columns, entry.digest)
            summary.drawn += 1
            failed += outcome.status == FAILED
            if failed:
                bar.set_postfix_str(f"{failed} failed", refresh=False)
            bar.update()


def _bar(total: int, kept: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=kept, unit="row", disable=not progress, dynamic_ncols=True,
        smoothing=0.05,
    )  # fmt: skip
