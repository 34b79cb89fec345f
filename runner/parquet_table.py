"""Tables in Parquet files, whose few bytes may stand for very many: measured before they are made.

A file says itself how many rows, values and bytes are in it. Texts that repeat are kept once in
it, and are read so: what a row's cells would take is added up before they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cells import LARGEST_TABLE, MOST_ROWS, Table, TableRow, check_counts, row_of, table_from
from .errors import RunnerError, one_line, shown

BATCH_ROWS = 256
MOST_VALUES = 1 << 25
"""Values of all columns, entries of lists among them."""


def read_parquet(path: Path) -> Table:
    """Read the table ``path``. Raises ``RunnerError`` for a file that is none, or too large."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = file.metadata
            _check(about, file.schema_arrow, path.name)
            places = range(about.num_columns)
            # also in lists and structures
            texts = [about.schema.column(index).path for index in places
                     if about.schema.column(index).physical_type == "BYTE_ARRAY"]  # fmt: skip
            names = file.schema_arrow.names
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            table = table_from(_rows(file, path.name), path.name)
    except (RunnerError, OSError) as error:
        if isinstance(error, RunnerError) or error.errno is not None:
            raise
        raise _none(path, error) from None
    except Exception as error:  # of many kinds, by which byte is wrong
        raise _none(path, error) from None
    return Table(names, table.rows)


def _none(path: Path, error: Exception) -> RunnerError:
    return RunnerError(f"{path.name} is no Parquet file that can be read: {one_line(error)}.")


def _check(about: Any, schema: Any, name: str) -> None:
    """Raise ``RunnerError`` if the file's own description says that it is too large."""
    import pyarrow

    names = schema.names
    if about.num_rows > MOST_ROWS:
        raise RunnerError(
            f"{name} has {about.num_rows} rows, and a table has up to {MOST_ROWS}: split it into"
            " several tables."
        )
    check_counts(name, 0, max(len(names), about.num_columns))
    doubled = next((one for index, one in enumerate(names) if one in names[:index]), None)
    if doubled is not None:
        raise RunnerError(f"{name} has two columns {shown(doubled)}: rename one.")
    groups = [about.row_group(index) for index in range(about.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    values = about.num_rows * len(names)
    if any(pyarrow.types.is_nested(kind) for kind in schema.types):
        # only then: of a damaged file, a column's description ends the process
        values = sum(
            group.column(index).num_values
            for group in groups for index in range(group.num_columns)
        )  # fmt: skip
    if size > LARGEST_TABLE or values > MOST_VALUES:
        raise _too_large(name, max(size, values * 8))


def _too_large(name: str, size: int) -> RunnerError:
    return RunnerError(
        f"The cells of {name} take {max(size >> 20, 1)} MiB or more, and up to"
        f" {LARGEST_TABLE >> 20} MiB in {MOST_VALUES} values are read: split it into several"
        " tables."
    )


def _rows(file: Any, name: str) -> Iterator[TableRow]:
    number, size = 0, 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        size += sum(_weight(column) for column in batch.columns)
        if size > LARGEST_TABLE:
            raise _too_large(name, size)
        names = batch.schema.names
        for values in zip(*(_values(column) for column in batch.columns), strict=True):
            number += 1
            yield row_of(number, dict(zip(names, values, strict=True)))


def _weight(array: Any) -> int:
    """Bytes that the cells of an array take when each has its own text."""
    import pyarrow
    import pyarrow.compute

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths: Any = pyarrow.compute.binary_length(array.dictionary)  # pyright: ignore
        taken = lengths.take(array.indices)
        return int(pyarrow.compute.sum(taken).as_py() or 0)  # pyright: ignore
    if pyarrow.types.is_struct(kind):
        return sum(_weight(array.field(index)) for index in range(kind.num_fields))
    if isinstance(array, (pyarrow.ListArray, pyarrow.LargeListArray, pyarrow.MapArray)):
        return _weight(array.flatten()) if not isinstance(array, pyarrow.MapArray) else (
            _weight(array.keys) + _weight(array.items)
        )  # fmt: skip
    return int(array.nbytes)


def _values(array: Any) -> list[Any]:
    """Cells as Python values; texts that repeat are one object."""
    import pyarrow

    if not pyarrow.types.is_dictionary(array.type):
        return array.to_pylist()
    indices = array.indices.to_pylist()
    made = {index: array.dictionary[index].as_py() for index in set(indices) - {None}}
    return [made.get(index) for index in indices]
