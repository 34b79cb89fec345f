"""The folder of a run: pictures, a results table, and what makes a second start go on.

``images/`` has the pictures, ``parts/`` the results table in pieces that can be read at any time,
``journal.jsonl`` the newest rows that are in no piece yet, ``results.parquet`` the whole table as
of the last end. A file is written under another name and then renamed, a line of the journal is on
the disk before the next row counts: a process that dies anywhere leaves nothing half.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import OutOfSpace, RunnerError, full_disk, one_line
from .job import DONE, Outcome, Task

JOURNAL, PARTS, IMAGES, RESULTS = "journal.jsonl", "parts", "images", "results.parquet"
PART_ROWS = 500
"""Rows per piece of the table: at most so many are in the journal."""
SORTED_ROWS = 100_000
COLUMNS = (
    "id", "row", "group", "repeat", "status", "error", "images", "pixels_sha256", "seconds",
    "worker", "finished", "shown", "workflow",
)  # fmt: skip
"""The run's own columns; metrics are 'metric.<name>', the others are the user's."""


class Store:
    """A run's folder, held by one process at a time. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Any = None
        self._journal: Any = None
        self._recent: list[dict[str, Any]] = []
        self._status: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Store:
        import filelock

        with self._space():
            (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
            (self.folder / PARTS).mkdir(exist_ok=True)
            self._lock = filelock.FileLock(self.folder / "lock", timeout=0)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise RunnerError(
                    f"Another run is writing to {self.folder}: wait for its end, or name another"
                    " folder."
                ) from None
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        self._lock.release()

    def _space(self) -> _Space:
        return _Space(self.folder)

    def _open(self) -> None:
        for leftover in [*self.folder.glob("*.part"), *self.folder.glob("*/*.part")]:
            leftover.unlink()
        for part in self._parts():
            for row in _read(part, ["id", "status", "images", "workflow_hash"]):
                self._status[row["id"]] = self._known(row)
        path = self.folder / JOURNAL
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    record = json.loads(line)
                except ValueError:
                    break  # the line that was being written when the process died
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._recent.append(record)
                self._status[record["id"]] = self._known(record)
        self._journal = path.open("ab")
        self._journal.truncate(whole)

    def _known(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """(status, hash of the workflow); a row whose pictures are gone is 'lost'."""
        there = all((self.folder / image).is_file() for image in record["images"] or ())
        status = record["status"] if there or record["status"] != DONE else "lost"
        return status, record["workflow_hash"]

    def known(self) -> dict[str, tuple[str, str]]:
        """Rows of earlier starts: ``{id: ('done', 'failed' or 'lost', hash of its workflow)}``."""
        return dict(self._status)

    def keep(self, task: Task, outcome: Outcome, columns: Mapping[str, Any], digest: str) -> None:
        """Write a row's pictures, then its line. ``columns``: the user's and 'group', 'repeat'.

        Raises ``OutOfSpace``; the row does not count then.
        """
        with self._space():
            images = [
                self._write_image(f"{task.id}_{number}{picture.suffix}", picture.data)
                for number, picture in enumerate(outcome.pictures)
            ]
            record: dict[str, Any] = {
                "id": task.id, "row": task.number, **columns,
                "status": outcome.status, "error": outcome.error, "images": images,
                "pixels_sha256": [picture.digest for picture in outcome.pictures],
                "seconds": round(outcome.seconds, 3), "worker": outcome.worker,
                "finished": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
                **{f"metric.{name}": value for name, value in outcome.metrics.items()},
                "shown": json.dumps(outcome.shown, default=str) if outcome.shown else None,
                "workflow": json.dumps(task.graph) if task.graph else None,
                "workflow_hash": digest,
            }  # fmt: skip
            self._append(record)
        self._recent.append(record)
        self._status[task.id] = outcome.status, digest
        if len(self._recent) >= PART_ROWS:
            self._new_part()

    def _write_image(self, name: str, data: bytes) -> str:
        path = self.folder / IMAGES / name
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(data)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)
        return f"{IMAGES}/{name}"

    def _append(self, record: Mapping[str, Any]) -> None:
        start = self._journal.tell()
        try:
            self._journal.write(json.dumps(record).encode() + b"\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError:
            # what is in the buffer would be written again when the file is closed
            self._journal.detach().close()
            self._journal = (self.folder / JOURNAL).open("ab")
            self._journal.truncate(start)
            raise

    def _parts(self) -> list[Path]:
        return sorted((self.folder / PARTS).glob("part-*.parquet"))

    def _new_part(self) -> None:
        """Move the journal's rows into a piece of the table."""
        if not self._recent:
            return
        import pyarrow.parquet

        parts = self._parts()
        number = int(parts[-1].stem.split("-")[1]) + 1 if parts else 1
        path = self.folder / PARTS / f"part-{number:06}.parquet"
        with self._space():
            part = path.with_suffix(".part")
            pyarrow.parquet.write_table(table_of(self._recent), part, compression="zstd")
            os.replace(part, path)
            self._journal.seek(0)
            self._journal.truncate()
        self._recent.clear()

    def finish(self, planned: Collection[str]) -> Path:
        """Write ``results.parquet``: every row once, as of its last try, in the table's order (up
        to ``SORTED_ROWS`` rows; beyond, as they were drawn).

        A row that could not even be filled, and is not among ``planned`` any more, has been
        corrected since and is left out.
        """
        import pyarrow
        import pyarrow.parquet

        self._new_part()
        last: dict[str, tuple[int, int]] = {}
        parts = self._parts()
        for index, part in enumerate(parts):
            filled = _column(part, "workflow")
            for place, row in enumerate(_read(part, ["id"])):
                last[row["id"]] = (index, place)
                if not filled[place] and row["id"] not in planned:
                    last[row["id"]] = (-1, -1)
        schema = unified([pyarrow.parquet.read_schema(part) for part in parts])
        kept = []
        for index, part in enumerate(parts):
            table = as_schema(pyarrow.parquet.read_table(part), schema)
            names = table.column("id").to_pylist()
            mask = [last[name] == (index, place) for place, name in enumerate(names)]
            kept.append(table.filter(pyarrow.array(mask, pyarrow.bool_())))
        # workflows are most of a table: beyond this they would not fit beside each other
        if sum(table.num_rows for table in kept) <= SORTED_ROWS and kept:
            kept = [pyarrow.concat_tables(kept).sort_by([("row", "ascending"),
                                                         ("repeat", "ascending")])]  # fmt: skip
        path = self.folder / RESULTS
        with self._space():
            temporary = path.with_suffix(".part")
            with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for table in kept:
                    writer.write_table(table, row_group_size=PART_ROWS)
            os.replace(temporary, path)
        return path


class _Space:
    """Turns 'no space left' of the folder into the run's own error; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if full_disk(str(error)):
            raise OutOfSpace(
                f"The disk of {self.folder} is full: free some space, then run the same command"
                " again; what is finished stays."
            ) from None
        said = error.strerror or one_line(error)
        raise RunnerError(f"{self.folder} cannot be written to: {said}.") from None


def _read(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    try:
        yield from pyarrow.parquet.read_table(path, columns=list(columns)).to_pylist()
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise RunnerError(
            f"{path} is damaged ({one_line(error)}): remove it, and its rows are drawn again."
        ) from None


def _column(path: Path, name: str) -> list[bool]:
    """Which rows have something in a column."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=[name]).column(name).is_valid().to_pylist()


def table_of(records: Sequence[Mapping[str, Any]]) -> Any:
    """Records as an Arrow table: own columns first; a column of several types becomes text."""
    import pyarrow

    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            columns[name] = pyarrow.array([_as_text(value) for value in values])
    for name, kind in _own_types().items():
        if name in columns:
            columns[name] = columns[name].cast(kind)
    return pyarrow.table(columns)


def _own_types() -> dict[str, Any]:
    """Types that a part must not guess from its own rows: a piece without an error has none."""
    import pyarrow

    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    return {
        "error": text, "images": texts, "pixels_sha256": texts, "shown": text, "workflow": text,
        "group": text, "seconds": pyarrow.float64(),
    }  # fmt: skip


def unified(schemas: Iterable[Any]) -> Any:
    """One schema for all pieces: whole numbers widen to fractions, what else differs is text."""
    import pyarrow

    kinds: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            before = kinds.get(field.name)
            if before is None or pyarrow.types.is_null(before):
                kinds[field.name] = field.type
            elif before != field.type and not pyarrow.types.is_null(field.type):
                kinds[field.name] = _common(before, field.type)
    return pyarrow.schema([pyarrow.field(name, kind) for name, kind in kinds.items()])


def _common(one: Any, other: Any) -> Any:
    import pyarrow

    pair = pyarrow.schema([("x", one)]), pyarrow.schema([("x", other)])
    try:
        return pyarrow.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
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
            columns.append(pyarrow.array([_as_text(value) for value in values], field.type))
        else:
            columns.append(table.column(field.name).cast(field.type))
    return pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)
