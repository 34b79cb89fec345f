"""What a table is made of: rows, and cells as plain values, whatever they were before."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..balancer.values.foreign_json import has_surrogates
from .errors import RunnerError, shown

MOST_ROWS = 200_000
"""Rows of a table: each is planned, named and checked before the first is drawn."""
MOST_COLUMNS = 1000
LONGEST_NAME = 500
"""Characters of a column's name."""
LARGEST_TABLE = 1 << 30
"""Bytes of a table's file, and of its cells: all are held in memory."""
LARGEST_CELL = 1 << 26
"""Characters; a layout with painted masks is far beyond the csv module's own limit."""
SMALLEST_WHOLE, LARGEST_WHOLE = -(2**63), 2**64 - 1
"""Whole numbers that a column of the results can hold; beyond, they are text."""
MOST_BITS = 4096
"""Larger whole numbers are refused: their digits take long to work out, and nothing counts so
far."""


@dataclass(frozen=True)
class TableRow:
    """One row: its place in the table (from 1), its cells, or what is wrong with it."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    """Column names in order, and all rows, broken ones among them.

    ``notices``: what the user should know of how the file was read. ``decimal_comma``: a number
    with one comma is a fraction, as spreadsheets write it where semicolons part the cells.
    """

    columns: list[str]
    rows: list[TableRow]
    notices: list[str] = field(default_factory=list)
    decimal_comma: bool = False


def table_of(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table from dictionaries; columns in the order of their first appearance.

    Raises ``RunnerError`` for more than ``MOST_ROWS`` rows or ``MOST_COLUMNS`` columns.
    """
    return table_from((row_of(number, row) for number, row in enumerate(rows, 1)), "The table")


def table_from(rows: Iterable[TableRow], name: str) -> Table:
    """Rows with columns of their own as a table; ``name`` is it in messages."""
    found: list[TableRow] = []
    columns: dict[str, None] = {}
    for row in rows:
        found.append(row)
        columns.update(dict.fromkeys(row.values))
        check_counts(name, len(found), len(columns))
    check_names(name, columns)
    return Table(list(columns), found)


def check_counts(name: str, rows: int, columns: int) -> None:
    """Raise ``RunnerError`` for a table that is too large."""
    if rows > MOST_ROWS:
        raise RunnerError(
            f"{name} has more than {MOST_ROWS} rows: split it into several tables."
        )
    if columns > MOST_COLUMNS:
        raise RunnerError(
            f"{name} has more than {MOST_COLUMNS} columns: keep those that fill an input or are"
            " to stand in the results."
        )


def check_names(name: str, columns: Iterable[str]) -> None:
    """Raise ``RunnerError`` for a column's name that cannot be one."""
    for column in columns:
        if len(column) > LONGEST_NAME:
            raise RunnerError(
                f"{name} has a column whose name is {len(column)} characters long"
                f" ({shown(column)}): its first line must name the columns."
            )


def row_of(number: int, values: Any) -> TableRow:
    """A row from a dictionary; what no cell can hold is its problem, the other cells stay."""
    if not isinstance(values, Mapping):
        return TableRow(number, problem=f"it is {shown(type(values).__name__)}, not a dictionary")
    cells: dict[str, Any] = {}
    problem = None
    for key, value in values.items():
        try:
            name = str(key)
            if has_surrogates(name):
                raise ValueError("has a name with half a character in it (a lone surrogate)")
            if name in cells:
                raise ValueError("is there twice")
            cells[name] = cell(value)
        except ValueError as error:
            problem = problem or f"column {shown(key)} {error}"
    return TableRow(number, cells, problem)


def cell(value: Any) -> Any:
    """``value`` as text, a number, a truth value or None.

    NaN is None, as tables with gaps have it. Lists and objects become JSON text, which is how
    ComfyUI's text inputs take them; whole numbers beyond 64 bits become text. Raises ``ValueError``
    with what the column does ('holds ...').
    """
    try:
        found = _plain(value)
    except ValueError:
        raise
    except Exception as error:  # whatever an object of the user's does when it is looked at
        said = f"holds a {type(value).__name__} that cannot be read ({type(error).__name__})"
        raise ValueError(said) from None
    if isinstance(found, str):
        if len(found) > LARGEST_CELL:
            raise ValueError(f"holds {len(found)} characters, and a cell has up to {LARGEST_CELL}")
        if has_surrogates(found):
            raise ValueError("holds half a character (a lone surrogate)")
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist") and not isinstance(value, (bytes, memoryview)):
        value = value.tolist()  # a number or array of numpy, torch
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"holds a whole number of {value.bit_length()} bits")
        return int(value) if SMALLEST_WHOLE <= value <= LARGEST_WHOLE else str(int(value))
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("holds bytes that are no UTF-8 text") from None
    if isinstance(value, (list, tuple, dict)):
        try:
            return json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("holds lists or objects that JSON cannot write") from None
    return str(value)
