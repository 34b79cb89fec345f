"""Tables of rows from CSV, JSON Lines, JSON or Parquet, cell by cell as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..balancer.values.foreign_json import parse_json
from .cells import (
    LARGEST_CELL,
    LARGEST_TABLE,
    Table,
    TableRow,
    row_of,
    table_from,
    table_of,
)
from .csv_table import read_csv
from .errors import RunnerError, one_line
from .parquet_table import read_parquet

__all__ = ["Table", "TableRow", "broken_json", "read_table", "table_of"]
HEAD = 4
"""Bytes that tell UTF-8 from UTF-16."""
SEPARATED = (".csv", ".tsv", ".tab", ".txt")


def read_table(path: Path) -> Table:
    """Read ``path`` by its suffix: .csv (.tsv, .tab, .txt), .jsonl (.ndjson), .json, .parquet.

    A row that cannot be read is kept with its ``problem``. Raises ``RunnerError`` for a file that
    cannot be read at all, or is too large (see ``cells.py``).
    """
    kinds: dict[str, Any] = dict.fromkeys(SEPARATED, _csv)
    kinds |= {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json}
    kinds[".parquet"] = read_parquet
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise RunnerError(f"{path.name} is no table: give a .csv, .jsonl or .parquet file.")
    try:
        size = path.stat().st_size
        if size > LARGEST_TABLE:
            raise RunnerError(
                f"{path.name} has {size >> 20} MiB, and a table has up to {LARGEST_TABLE >> 20}:"
                " split it into several tables."
            )
        table = read(path)
    except OSError as error:
        said = error.strerror or one_line(error)
        raise RunnerError(f"The table {path} cannot be read: {said}.") from None
    except UnicodeDecodeError:
        raise RunnerError(
            f"{path.name} is not UTF-8 or UTF-16 text: save it as UTF-8 (in Excel: 'CSV UTF-8')."
        ) from None
    except RunnerError:
        raise
    except ValueError as error:  # a name that no file can have
        raise RunnerError(f"The table {path} cannot be read: {one_line(error)}.") from None
    if not table.rows:
        raise RunnerError(f"{path.name} has no rows.")
    return table


def _encoding(path: Path) -> str:
    """UTF-8, or the UTF-16 that spreadsheets and shells write, by the file's first bytes."""
    with path.open("rb") as file:
        return json.detect_encoding(file.read(HEAD))


def _csv(path: Path) -> Table:
    # a byte order mark, if there is one, belongs to no cell
    encoding = _encoding(path)
    return read_csv(path, "utf-8-sig" if encoding == "utf-8" else encoding)


def broken_json(error: ValueError) -> str:
    """What ``parse_json`` found, as the end of a sentence about a line or a file."""
    said = str(error)
    reason = said.removeprefix("it is no JSON: ")
    if reason != said or said.startswith("it ends too early"):
        return f"is no JSON: {reason}"
    return f"cannot be read: {said}"


def _lines(file: IO[Any]) -> Iterator[Any]:
    """Lines of a file; of one that is too long only so much that it shows."""
    while line := file.readline(LARGEST_CELL + 2):
        yield line
        rest = line
        while len(rest) > LARGEST_CELL and rest[-1:] not in ("\n", b"\n"):
            rest = file.readline(LARGEST_CELL + 2)


def _json_lines(path: Path) -> Table:
    encoding = _encoding(path)
    # bytes, where that is possible: a line that is no UTF-8 is that line's fault alone
    plain = encoding.startswith("utf-8")
    with path.open("rb") if plain else path.open(encoding=encoding) as file:
        return table_from(_json_rows(_lines(file)), path.name)


def _json_rows(lines: Iterator[Any]) -> Iterator[TableRow]:
    number = 0
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        number += 1
        try:
            value = parse_json(line, longest=LARGEST_CELL, finite=False)
        except ValueError as error:
            yield TableRow(number, problem=f"line {line_number} {broken_json(error)}")
            continue
        if isinstance(value, dict):
            yield row_of(number, value)
        else:
            yield TableRow(number, problem=f"line {line_number} is no JSON object")


def _json(path: Path) -> Table:
    try:
        value = parse_json(path.read_bytes(), finite=False)
    except ValueError as error:
        raise RunnerError(
            f"{path.name} {broken_json(error)}; give a list of objects, or one object a line in a"
            " .jsonl file."
        ) from None
    if not isinstance(value, list):
        raise RunnerError(
            f"{path.name} is no table: give a list of objects, one a row, or a .csv, .jsonl or"
            " .parquet file."
        )
    rows = (
        row_of(number, one) if isinstance(one, dict)
        else TableRow(number, problem=f"entry {number} is no object")
        for number, one in enumerate(value, 1)
    )  # fmt: skip
    return table_from(rows, path.name)
