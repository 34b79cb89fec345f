"""Tables of rows from CSV, JSON Lines or Parquet, cell by cell as plain values."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import RunnerError, one_line

LARGEST_CELL = 1 << 26
"""Characters; a layout with painted masks is far beyond the csv module's own limit."""


@dataclass(frozen=True)
class TableRow:
    """One row: its place in the table (from 1), its cells, or what is wrong with it."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    """Column names in order, and all rows, broken ones among them."""

    columns: list[str]
    rows: list[TableRow]


def read_table(path: Path) -> Table:
    """Read ``path`` by its suffix: .csv, .jsonl (or .ndjson), .parquet.

    A row that cannot be read is kept with its ``problem``. Raises ``RunnerError`` for a file that
    cannot be read at all.
    """
    kinds = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise RunnerError(f"{path.name} is no table: give a .csv, .jsonl or .parquet file.")
    try:
        table = read(path)
    except OSError as error:
        said = error.strerror or one_line(error)
        raise RunnerError(f"The table {path} cannot be read: {said}.") from None
    except UnicodeDecodeError:
        raise RunnerError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from None
    if not table.rows:
        raise RunnerError(f"{path.name} has no rows.")
    return table


def table_of(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table from dictionaries; columns in the order of their first appearance."""
    found = [TableRow(number, _plain(row)) for number, row in enumerate(rows, 1)]
    return Table(_columns(found), found)


def _columns(rows: Iterable[TableRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _csv(path: Path) -> Table:
    csv.field_size_limit(LARGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise RunnerError(f"{path.name} has two columns '{doubled[0]}': rename one.")
        return Table(header, list(_csv_rows(reader, header)))


def _csv_rows(reader: Any, header: list[str]) -> Iterator[TableRow]:
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield TableRow(number, problem=f"line {reader.line_num} is no CSV ({error})")
            continue
        if not cells:
            continue  # a blank line
        number += 1
        if len(cells) != len(header):
            problem = f"line {reader.line_num} has {len(cells)} cells, the header {len(header)}"
            yield TableRow(number, problem=problem)
        else:
            yield TableRow(number, dict(zip(header, cells, strict=True)))


def _json_lines(path: Path) -> Table:
    rows: list[TableRow] = []
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"line {line_number} is no JSON ({error.msg}, column {error.colno})"
                rows.append(TableRow(len(rows) + 1, problem=problem))
                continue
            if isinstance(value, dict):
                rows.append(TableRow(len(rows) + 1, _plain(value)))
            else:
                problem = f"line {line_number} is no JSON object"
                rows.append(TableRow(len(rows) + 1, problem=problem))
    return Table(_columns(rows), rows)


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise RunnerError(f"{path.name} is no Parquet file: {one_line(error)}.") from None
    rows = [TableRow(n, _plain(values)) for n, values in enumerate(table.to_pylist(), 1)]
    return Table(list(table.column_names), rows)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Cells as text, numbers, truth values or None; lists and objects as JSON text, which is how
    ComfyUI's text inputs take them."""
    return {str(name): _cell(value) for name, value in values.items()}


def _cell(value: Any) -> Any:
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy number
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
