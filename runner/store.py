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
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .columns import as_schema, table_of, unified, written
from .errors import OutOfSpace, RunnerError, full_disk, one_line
from .job import DONE, FAILED, Outcome, Task
from .pictures import PICTURES
from .records import LONGEST_LINE, OLD, read_part, read_record

JOURNAL, PARTS, IMAGES, RESULTS = "journal.jsonl", "parts", "images", "results.parquet"
PART_ROWS = 500
"""Rows per piece of the table: at most so many are in the journal."""
PART = re.compile(r"part-(\d{6,9})\.parquet")
LARGEST_SHOWN = 1 << 24
"""Characters of what a row's nodes showed; more is left out of the results."""
SORTED_ROWS = 100_000
TOO_LONG = f"its cells and workflow take more than {LONGEST_LINE >> 20} MiB: use smaller cells"
COLUMNS = (
    "id", "row", "group", "repeat", "status", "error", "images", "pixels_sha256", "seconds",
    "worker", "finished", "shown", "workflow", "workflow_hash", "again",
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
        self.notices: list[str] = []
        """What a user should know of the folder as it was found."""

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
            for row in read_part(part, OLD).to_pylist():
                self._status[row["id"]] = self._known(row)
        path = self.folder / JOURNAL
        whole = self._read_journal(path) if path.exists() else 0
        self._journal = path.open("ab")
        self._journal.truncate(whole)

    def _read_journal(self, path: Path) -> int:
        """Take up the journal's records; gives the bytes up to the end of its last whole line.

        What follows was being written when the process died. A line that is no record is left out:
        its row is drawn again.
        """
        whole, broken = 0, []
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    break
                whole += len(line)
                try:
                    record = read_record(line)
                except ValueError as error:
                    broken.append(f"line {number} ({one_line(error)})")
                    continue
                self._recent.append(record)
                self._status[record["id"]] = self._known(record)
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            self.notices.append(
                f"{path.name}: {broken[0]}{more} is no record of a row and is left out; what was"
                " recorded there is drawn again."
            )
        return whole

    def _known(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """(status, hash of the workflow); a row is 'lost' whose pictures are gone or were never
        whole, or that failed by no fault of its own."""
        images, digests = record["images"] or (), record.get("pixels_sha256") or ()
        there = all((self.folder / image).is_file() for image in images)
        hollow = any(
            not digest and Path(image).suffix in PICTURES
            for image, digest in zip(images, digests, strict=False)
        )
        lost = record.get("again") or (record["status"] == DONE and (hollow or not there))
        return "lost" if lost else record["status"], record["workflow_hash"]

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
                "id": task.id, "row": task.number,
                **{written(name): written(value) for name, value in columns.items()},
                "status": outcome.status, "error": written(outcome.error), "images": images,
                "pixels_sha256": [picture.digest for picture in outcome.pictures],
                "seconds": round(outcome.seconds, 3), "worker": written(outcome.worker),
                "finished": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
                **{written(f"metric.{n}"): written(v) for n, v in outcome.metrics.items()},
                "shown": _shown(outcome.shown),
                "workflow": json.dumps(task.graph) if task.graph else None,
                "workflow_hash": digest, "again": outcome.again,
            }  # fmt: skip
            if not self._append(record):
                record |= {"status": FAILED, "workflow": None, "shown": None, "images": [],
                           "pixels_sha256": [], "again": False, "error": TOO_LONG}  # fmt: skip
                record = {name: value for name, value in record.items() if name in COLUMNS}
                self._append(record)
        self._recent.append(record)
        # to be drawn again at the next start, not at this one
        self._status[task.id] = record["status"], digest
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

    def _append(self, record: Mapping[str, Any]) -> bool:
        """Add a line to the journal; False if it would be longer than one is read."""
        line = json.dumps(record).encode() + b"\n"
        if len(line) > LONGEST_LINE:
            return False
        start = self._journal.tell()
        try:
            self._journal.write(line)
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError:
            # what is in the buffer would be written again when the file is closed
            self._journal.detach().close()
            self._journal = (self.folder / JOURNAL).open("ab")
            self._journal.truncate(start)
            raise
        return True

    def _parts(self) -> list[Path]:
        found = (self.folder / PARTS).glob("part-*.parquet")
        return sorted(part for part in found if PART.fullmatch(part.name))

    def _new_part(self) -> None:
        """Move the journal's rows into a piece of the table."""
        if not self._recent:
            return
        import pyarrow.parquet

        parts = self._parts()
        number = max((int(part.stem.split("-")[1]) for part in parts), default=0) + 1
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
            filled = read_part(part, ["id", "workflow"])
            names = filled.column("id").to_pylist()
            for place, there in enumerate(filled.column("workflow").is_valid().to_pylist()):
                name = names[place]
                last[name] = (index, place) if there or name in planned else (-1, -1)
        try:
            schema = unified(parts, read_part)
            kept = []
            for index, part in enumerate(parts):
                table = as_schema(read_part(part), schema)
                names = table.column("id").to_pylist()
                mask = [last[name] == (index, place) for place, name in enumerate(names)]
                kept.append(table.filter(pyarrow.array(mask, pyarrow.bool_())))
            # workflows are most of a table: beyond this they would not fit beside each other
            if sum(table.num_rows for table in kept) <= SORTED_ROWS and kept:
                kept = [pyarrow.concat_tables(kept).sort_by([("row", "ascending"),
                                                             ("repeat", "ascending")])]  # fmt: skip
        except pyarrow.ArrowException as error:
            raise RunnerError(
                f"The pieces in {self.folder / PARTS} do not fit together ({one_line(error)}): one"
                " of them is damaged; remove it, and its rows are drawn again."
            ) from None
        path = self.folder / RESULTS
        with self._space():
            temporary = path.with_suffix(".part")
            with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for table in kept:
                    writer.write_table(table, row_group_size=PART_ROWS)
            os.replace(temporary, path)
        return path


def _shown(shown: Mapping[str, Any]) -> str | None:
    text = json.dumps(shown, default=str) if shown else None
    if text is not None and len(text) > LARGEST_SHOWN:
        return json.dumps({"left out": f"{len(text)} characters"})
    return text


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
