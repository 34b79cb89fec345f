"""Tables of separated cells, as programs and spreadsheets write them."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .cells import LARGEST_CELL, Table, TableRow, check_counts, check_names
from .errors import RunnerError, shown

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may part cells: the one that stands most often in the first line, outside quotes, does."""
HEADER_CHARACTERS = 1 << 20
BROKEN_CELLS = {"#NAME?", "#VALUE!", "#REF!", "#DIV/0!", "#N/A", "#NUM!", "#NULL!"}
"""What a spreadsheet writes for a formula that it could not work out; a prompt that begins with
'=', '+' or '-' becomes one."""


def read_csv(path: Path, encoding: str) -> Table:
    """Read the table ``path``. Cells are parted by what stands most often in its first line
    (commas, semicolons or tabs), or by what a line ``sep=;`` above it names.

    Columns without a name and rows without a cell are left out. A row that cannot be read is kept
    with its ``problem``. Raises ``RunnerError`` for a first line that names no columns, and for a
    quote that is never closed.
    """
    csv.field_size_limit(LARGEST_CELL)
    with path.open(encoding=encoding, newline="") as file:
        separator, above = _separator(file)
        reader = csv.reader(file, delimiter=separator, strict=True)
        lines = _Lines(reader, above, path.name)
        names = [name.strip() for name in next(lines.records(header=True), ([], None, 0))[0]]
        check_counts(path.name, 0, sum(map(bool, names)))
        check_names(path.name, names)
        doubled = [name for name, times in Counter(names).items() if name and times > 1]
        if doubled:
            raise RunnerError(f"{path.name} has two columns {shown(doubled[0])}: rename one.")
        rows = list(lines.rows(names))
    notices = []
    if separator != ",":
        named = SEPARATORS.get(separator, shown(separator))
        notices.append(f"The cells of {path.name} are parted by {named}.")
    if lines.empty:
        notices.append(f"{lines.empty} empty rows of {path.name} are left out.")
    if lines.unnamed:
        places = ", ".join(str(index + 1) for index in sorted(lines.unnamed)[:8])
        notices.append(f"Columns of {path.name} without a name are left out: {places}.")
    return Table([name for name in names if name], rows, notices, separator == ";")


def _separator(file: IO[str]) -> tuple[str, int]:
    """What parts cells, and how many lines stand above the header; the file is left there."""
    head = file.read(HEADER_CHARACTERS)
    first = head.split("\n", 1)[0].rstrip("\r").strip('"')
    file.seek(0)
    # a spreadsheet pads this line, too
    if first[:4].lower() == "sep=" and len(first) > 4 and not first[5:].strip(first[4] + '"'):
        file.readline()
        return first[4], 1
    found: Counter[str] = Counter()
    quoted, begun = False, False
    for letter in head:
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "\r\n":
            if begun:
                break
            found.clear()
        elif not quoted and letter in SEPARATORS:
            found[letter] += 1
        begun = begun or not (letter.isspace() or letter in SEPARATORS)
    return max(SEPARATORS, key=lambda letter: found[letter]), 0


class _Lines:
    """A reader's records with the lines that they begin in. ``empty``: rows that were left out;
    ``unnamed``: places of columns that have cells and no name."""

    def __init__(self, reader: Any, above: int, name: str) -> None:
        self.reader, self.above, self.name = reader, above, name
        self.empty = 0
        self.unnamed: set[int] = set()

    def records(self, header: bool = False) -> Iterator[tuple[Sequence[str], str | None, int]]:
        """(cells, what is wrong, last line) of every record that is not empty."""
        while True:
            start = self.reader.line_num + self.above + 1
            try:
                cells = next(self.reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = self.reader.line_num + self.above
                if "unexpected end" in str(error):
                    raise RunnerError(
                        f"{self.name}: the quote that opens in the row of line {start} is never"
                        ' closed, so that all further rows are in it: close it, or write "" for a'
                        " quote in a text."
                    ) from None
                if header:
                    raise RunnerError(
                        f"{self.name}: line {line} is no CSV ({error}); it must name the columns."
                    ) from None
                yield [], f"line {line} is no CSV ({error})", line
                continue
            if any(one.strip() for one in cells):
                yield cells, None, self.reader.line_num + self.above
            elif cells and not header:
                self.empty += 1

    def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
        """All rows below the header."""
        width = max((index for index, name in enumerate(names, 1) if name), default=0)
        numbers = itertools.count(1)
        for cells, problem, line in self.records():
            number = next(numbers)
            check_counts(self.name, number, 0)
            if problem is not None:
                yield TableRow(number, problem=problem)
                continue
            beyond = any(one.strip() for one in cells[len(names) :])
            if len(cells) < width or beyond:
                named = f"line {line} has {len(cells)} cells, the header {width}"
                yield TableRow(number, problem=named)
                continue
            self.unnamed |= {
                index for index, (name, one) in enumerate(zip(names, cells, strict=False))
                if not name and one.strip()
            }  # fmt: skip
            values = {name: one for name, one in zip(names, cells, strict=False) if name}
            broken = next((name for name, one in values.items() if one in BROKEN_CELLS), None)
            if broken is not None:
                problem = (
                    f"column {shown(broken)} holds a spreadsheet's error {values[broken]}: write"
                    " the cell as text"
                )
            yield TableRow(number, values, problem)
