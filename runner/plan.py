"""From a table to tasks: every row filled, checked, named, and sorted by the models it needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cells import MOST_ROWS
from .errors import RowError, RunnerError, shown
from .job import Graph, Task
from .seeds import SEEDS, next_seeds, seed_inputs
from .store import COLUMNS
from .table import Table, TableRow
from .workflow import (
    Binding,
    bind,
    changed,
    check_classes,
    fill,
    graph_hash,
    model_key,
    with_prefix,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Entry:
    """One picture row of the plan: its task, the hash of its filled workflow, its columns; or,
    with ``problem``, why it cannot be drawn."""

    task: Task
    digest: str
    columns: dict[str, Any]
    problem: str | None = None


@dataclass
class Plan:
    """All rows, those of the same models together, and what the user should know beforehand."""

    entries: list[Entry]
    binding: Binding
    notices: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[Entry]:
        """Rows that cannot be drawn."""
        return [entry for entry in self.entries if entry.problem]


def make_plan(
    graph: Graph,
    table: Table,
    info: Mapping[str, Any],
    mapping: Mapping[str, Sequence[str]] | None = None,
    repeat: int = 1,
    limit: int | None = None,
) -> Plan:
    """Fill and check every row. ``repeat``: draw each row so often, with the seeds that follow.

    A row that cannot be filled stays in the plan with its problem. Raises ``RunnerError`` for what
    concerns all rows.
    """
    check_classes(graph, info)
    binding = _bound(graph, table, info, mapping)
    rows = table.rows[:limit]
    if repeat > 1:
        _check_repeat(graph, binding, len(rows), repeat)
    filling = _Filling(graph, binding, info, repeat, table.decimal_comma)
    entries = [
        filling.entry(row, number)
        for row in rows
        for number in range(repeat if row.problem is None else 1)
    ]
    plan = Plan(entries, binding, list(table.notices))
    _once_each(plan)
    plan.entries = _sorted(plan.entries)
    plan.notices += _notices(binding)
    return plan


def _bound(
    graph: Graph,
    table: Table,
    info: Mapping[str, Any],
    mapping: Mapping[str, Sequence[str]] | None,
) -> Binding:
    """Which columns fill which inputs. Raises ``RunnerError`` if none does, or one is taken."""
    clash = [n for n in table.columns if n in COLUMNS[1:] or n.startswith("metric.")]
    if clash:
        raise RunnerError(
            f"The results have a column {shown(clash[0])} of their own: rename yours."
        )
    binding = bind(graph, table.columns, info, mapping)
    if not binding.columns:
        some = ", ".join(shown(name) for name in table.columns[:8])
        raise RunnerError(
            f"No column of the table fills an input (it has: {some}): name columns 'node.input',"
            " or use --map."
        )
    return binding


def _check_repeat(graph: Graph, binding: Binding, rows: int, repeat: int) -> None:
    """Raise ``RunnerError`` where rows cannot be drawn ``repeat`` times each."""
    filled = [target for targets in binding.columns.values() for target in targets]
    if not seed_inputs(graph, filled):
        raise RunnerError("The workflow has no seed to go on from, so --repeat has no use.")
    if rows * repeat > MOST_ROWS:
        raise RunnerError(
            f"{rows} rows, {repeat} times each, are more than {MOST_ROWS}: draw them in"
            " several runs, with --repeat or --limit smaller."
        )


def _notices(binding: Binding) -> list[str]:
    """What the user should know of the columns: those that fill nothing, and the seed's ways."""
    found = []
    fillers = [name for name in binding.labels if name != "id"]
    if fillers:
        found.append(f"Columns that fill no input, kept as labels: {', '.join(fillers)}.")
    linked = [one for one in binding.columns.get("seed", ()) if one.input not in SEEDS]
    if linked:
        names = " and ".join(f"{one.node}.{one.input}" for one in linked)
        found.append(f"Column 'seed' fills {names}, to which the seed is linked.")
    return found


@dataclass(frozen=True)
class _Filling:
    """What all rows are filled with alike."""

    graph: Graph
    binding: Binding
    info: Mapping[str, Any]
    repeat: int
    decimal_comma: bool

    def entry(self, row: TableRow, number: int) -> Entry:
        """A row's ``number``-th picture row, with its problem if it has one."""
        binding, info = self.binding, self.info
        name = row.values.get("id")
        try:
            if row.problem is not None:
                raise RowError(row.problem)
            filled = fill(self.graph, binding, row.values, info, self.decimal_comma)
            group = _name(name) if "id" in row.values else graph_hash(filled)
            if number:
                given = {target for targets in binding.columns.values() for target in targets}
                filled = changed(filled, next_seeds(filled, number, info, given))
            digest = graph_hash(filled)
            base = f"{group}-{number}" if self.repeat > 1 else group
            own = base if "id" in row.values else digest
        except RowError as error:
            return _broken(row, binding, str(error))
        named = with_prefix(filled, own, info)
        task = Task(own, row.number, named, row.values, model_key(filled, info))
        cells = {key: value for key, value in row.values.items() if key != "id"}
        # as the workflow has them: a CSV file's numbers are text, a repeated row has its own seed
        for column, targets in binding.columns.items():
            cells[column] = filled[targets[0].node]["inputs"][targets[0].input]
        return Entry(task, digest, {"group": group, "repeat": number, **cells})


def _broken(row: TableRow, binding: Binding, problem: str) -> Entry:
    """A row that cannot be drawn, named by its id or, without a usable one, after its place and
    cells. Of these only labels are kept: one 'x' would make a column of numbers text."""
    about = hashlib.sha256(repr((row.number, row.problem, row.values)).encode()).hexdigest()[:12]
    name = str(row.values.get("id") or "")
    name = name if NAME.fullmatch(name) else f"row-{row.number}-{about}"
    labels = {key: row.values[key] for key in binding.labels if key in row.values and key != "id"}
    columns = {"group": name, "repeat": 0, **labels}
    return Entry(Task(name, row.number, {}, row.values), about, columns, problem)


def _name(value: Any) -> str:
    text = "" if value is None else str(value)
    if not NAME.fullmatch(text):
        raise RowError(
            f"the id {shown(text)} cannot be a file name: use up to 100 letters, digits, '-', '_'"
            " and '.'"
        )
    return text


def _once_each(plan: Plan) -> None:
    """A row that another equals is drawn once; one id for two workflows is a mistake."""
    first: dict[str, Entry] = {}
    doubled: list[tuple[Entry, Entry]] = []
    kept = []
    for entry in plan.entries:
        before = first.setdefault(entry.task.id, entry)
        if before is entry:
            kept.append(entry)
        elif before.digest != entry.digest:
            raise RunnerError(
                f"Rows {before.task.number} and {entry.task.number} have the same id"
                f" '{entry.task.id}' and differ: ids must be unique."
            )
        else:
            doubled.append((before, entry))
    if doubled:
        before, entry = doubled[0]
        plan.notices.append(
            f"{len(doubled)} rows equal an earlier one in all that they fill, and are left out"
            f" (row {entry.task.number} equals row {before.task.number}); different seeds make"
            " different pictures."
        )
    plan.entries = kept


def _sorted(entries: list[Entry]) -> list[Entry]:
    """Rows of the same models together, in the order in which the table first asks for them."""
    order: dict[str, int] = {}
    for entry in entries:
        order.setdefault(entry.task.key, len(order))
    return sorted(entries, key=lambda entry: order[entry.task.key])
