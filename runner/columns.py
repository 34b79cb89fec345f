"""Columns of the results table, whatever their values are: numbers where all of them are, else
text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .cells import LARGEST_WHOLE, SMALLEST_WHOLE
from .errors import tidy


def written(value: Any) -> Any:
    """``value`` as the journal and a column can hold it: text without half characters, a number, a
    truth value, None, or a list of these; whole numbers beyond 64 bits, and all else, as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int) and not isinstance(value, bool):
        return value if SMALLEST_WHOLE <= value <= LARGEST_WHOLE else tidy(value, 2000)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [written(one) for one in value]
    return written(as_text(value))


def as_text(value: Any) -> str | None:
    """A cell as text, as JSON has it; None stays."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return tidy(value, 2000)


def table_of(records: Sequence[Mapping[str, Any]]) -> Any:
    """Records as an Arrow table: a column of several types becomes text.

    Own columns have the types of ``own_types``.
    """
    import pyarrow

    names = list(dict.fromkeys(name for record in records for name in record))
    kinds = own_types()
    columns = {}
    for name in names:
        values = [written(record.get(name)) for record in records]
        columns[name] = _column(values) if name not in kinds else _own(values, kinds[name])
    return pyarrow.table(columns)


def _own(values: Sequence[Any], kind: Any) -> Any:
    import pyarrow

    return pyarrow.array(values, kind)


def _column(values: Sequence[Any]) -> Any:
    """An array of the values' own kind, of texts where they have none in common."""
    import pyarrow

    errors = (pyarrow.ArrowException, OverflowError, ValueError, TypeError)
    for kind in (None, pyarrow.uint64()):  # seeds go up to 2^64 - 1
        if kind is not None and any(isinstance(value, (bool, float)) for value in values):
            break
        try:
            found = pyarrow.array(values, kind)
        except errors:
            continue
        if _kept(found.type):
            return found
    return pyarrow.array([as_text(value) for value in values], pyarrow.string())


def _kept(kind: Any) -> bool:
    """Is an array's type one that the table has?"""
    import pyarrow

    types = pyarrow.types
    if types.is_list(kind):
        return _kept(kind.value_type) and not types.is_list(kind.value_type)
    return any(
        check(kind)
        for check in (types.is_null, types.is_boolean, types.is_integer, types.is_floating,
                      types.is_string)
    )  # fmt: skip


def own_types() -> dict[str, Any]:
    """Types that a part must not guess from its own rows: a piece without an error has none."""
    import pyarrow

    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    return {
        "id": text, "status": text, "worker": text, "finished": text, "workflow_hash": text,
        "error": text, "images": texts, "pixels_sha256": texts, "shown": text, "workflow": text,
        "group": text, "seconds": pyarrow.float64(), "again": pyarrow.bool_(),
    }  # fmt: skip


def unified(parts: Sequence[Any], read: Callable[[Any, Sequence[str]], Any]) -> Any:
    """One schema for all pieces: numbers widen as far as no value changes, what else differs is
    text. ``read(part, columns)`` gives a piece's columns."""
    import pyarrow.parquet

    kinds: dict[str, dict[Any, None]] = {}
    where: dict[str, list[Any]] = {}
    for part in parts:
        for field in pyarrow.parquet.read_schema(part):
            kinds.setdefault(field.name, {})
            if not pyarrow.types.is_null(field.type):
                kinds[field.name][field.type] = None
                where.setdefault(field.name, []).append(part)
    fields = []
    for name, found in kinds.items():
        kind = next(iter(found), pyarrow.null())
        if len(found) > 1:
            columns = [read(part, [name]).column(name) for part in where[name]]
            kind = _common(list(found), columns)
        fields.append(pyarrow.field(name, kind))
    return pyarrow.schema(fields)


def _common(kinds: Sequence[Any], columns: Iterable[Any]) -> Any:
    """A type that holds every value of the columns as it is."""
    import pyarrow

    columns = list(columns)
    pairs = [pyarrow.schema([("x", kind)]) for kind in kinds]
    candidates = []
    try:
        merged = pyarrow.unify_schemas(pairs, promote_options="permissive")
        candidates.append(merged.field("x").type)
    except pyarrow.ArrowException:
        pass
    if all(pyarrow.types.is_integer(kind) for kind in kinds):
        candidates = [pyarrow.int64(), pyarrow.uint64()]
    for kind in candidates:
        try:
            for column in columns:
                column.cast(kind)
        except pyarrow.ArrowException:
            continue
        return kind
    return pyarrow.string()


def as_schema(table: Any, schema: Any) -> Any:
    """``table`` with the schema's columns, cast to their types."""
    import pyarrow

    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pyarrow.nulls(table.num_rows, field.type))
        elif pyarrow.types.is_string(field.type):
            values = table.column(field.name).to_pylist()
            columns.append(pyarrow.array([as_text(value) for value in values], field.type))
        else:
            columns.append(table.column(field.name).cast(field.type))
    return pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
