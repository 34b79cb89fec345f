"""What a run's folder has of earlier starts: lines of its journal, pieces of its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..balancer.values.foreign_json import parse_json
from .errors import RunnerError, one_line
from .job import DONE, FAILED

DEEPEST = 64
LONGEST_LINE = 1 << 28
"""Characters of a record, whose workflow may hold painted masks."""
OLD = ("id", "status", "images", "workflow_hash", "pixels_sha256", "again")
"""What a new start asks of a row; folders of earlier releases do not have the last."""
LATER = {"again"}
NEVER_EMPTY = {"id", "status", "workflow_hash"}

_TEXT, _MAYBE = (str,), (str, type(None))
KINDS: dict[str, tuple[type, ...]] = {
    "id": _TEXT, "row": (int,), "group": _TEXT, "repeat": (int,), "status": _TEXT,
    "error": _MAYBE, "images": (list,), "pixels_sha256": (list,), "seconds": (int, float),
    "worker": _TEXT, "finished": _TEXT, "shown": _MAYBE, "workflow": _MAYBE,
    "workflow_hash": _TEXT, "again": (bool,),
}  # fmt: skip
"""Columns of the run's own, and what each holds."""


def read_record(line: bytes) -> dict[str, Any]:
    """A record from a line of the journal. Raises ``ValueError`` for what is none."""
    value = parse_json(line, longest=LONGEST_LINE, deepest=DEEPEST, finite=False)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    for name, kinds in KINDS.items():
        if name not in value and name in LATER:
            continue
        held = value.get(name)
        if not isinstance(held, kinds) or (isinstance(held, bool) and bool not in kinds):
            raise ValueError(f"it has no '{name}' as a record has it")
    lists = (*value["images"], *value["pixels_sha256"])
    if value["status"] not in (DONE, FAILED) or not all(isinstance(one, str) for one in lists):
        raise ValueError("it has no 'status' or 'images' as a record has it")
    if any("\0" in one for one in lists):
        raise ValueError("it names a picture that no file can be")
    return value


def read_part(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A piece of the table as an Arrow table, with all ``columns`` if it is to have some.

    Raises ``RunnerError`` for a file that is damaged.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            missing = [name for name in columns or KINDS if name not in there | LATER]
            if missing:
                raise ValueError(f"it has no column '{missing[0]}'")
            wanted = [name for name in columns if name in there] if columns else None
            table = file.read(columns=wanted)
        table.validate(full=True)
        for name in NEVER_EMPTY.intersection(table.column_names):
            if table.column(name).null_count or not pyarrow.types.is_string(
                table.schema.field(name).type
            ):
                raise ValueError(f"it has rows without '{name}'")
        return table
    except Exception as error:  # of many kinds, by which byte is wrong
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RunnerError(
            f"{path} is damaged ({one_line(error)}): remove it, and its rows are drawn again."
        ) from None
