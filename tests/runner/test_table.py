"""Tables are read cell by cell; a broken row is kept as one, a broken file refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
from realcompo.runner.errors import RunnerError
from realcompo.runner.table import read_table, table_of


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding, newline="")
    return path


def test_csv_with_quotes_line_breaks_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = 'seed,4.text\r\n1,"a, b\nc ""d"""\r\n\r\n2,\r\n'
    table = read_table(write(tmp_path / "t.csv", text, "utf-8-sig"))
    assert table.columns == ["seed", "4.text"]
    assert [row.values for row in table.rows] == [
        {"seed": "1", "4.text": 'a, b\nc "d"'}, {"seed": "2", "4.text": ""}
    ]  # fmt: skip
    assert [row.number for row in table.rows] == [1, 2]


def test_a_csv_row_of_another_length_is_kept_with_its_line(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n"))
    assert [row.problem for row in table.rows] == [
        None, "line 3 has 1 cells, the header 2", "line 4 has 3 cells, the header 2", None
    ]  # fmt: skip
    assert table.rows[3].values == {"a": "7", "b": "8"}


def test_a_cell_may_be_larger_than_the_csv_modules_limit(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "a\n" + "x" * 200_000 + "\n"))
    assert len(table.rows[0].values["a"]) == 200_000


def test_json_lines(tmp_path: Path) -> None:
    lines = '{"seed": 1, "layout": {"regions": [1]}}\n\n{"seed": 2.5, "x": null}\n[1]\n{"seed": \n'
    table = read_table(write(tmp_path / "t.jsonl", lines))
    assert table.columns == ["seed", "layout", "x"]
    assert table.rows[0].values == {"seed": 1, "layout": '{"regions": [1]}'}
    assert table.rows[1].values == {"seed": 2.5, "x": None}
    assert table.rows[2].problem == "line 4 is no JSON object"
    assert table.rows[3].problem is not None and "line 5 is no JSON" in table.rows[3].problem


def test_parquet_keeps_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    day = datetime.date(2026, 11, 22)
    value = {"n": [1, None], "t": ["a", "b"], "l": [[1, 2], []], "d": [day, day]}
    parquet.write_table(pyarrow.table(value), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.rows[0].values == {"n": 1, "t": "a", "l": "[1, 2]", "d": "2026-11-22"}
    assert table.rows[1].values["n"] is None


def test_dictionaries_are_a_table_too() -> None:
    table = table_of([{"a": np.int64(3)}, {"a": 4, "b": {"x": 1}}])
    assert table.columns == ["a", "b"]
    assert type(table.rows[0].values["a"]) is int and table.rows[1].values["b"] == '{"x": 1}'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"a,a\n1,2\n", "two columns 'a'"),
        ("t.csv", b"a\n\xff\xfe\n", "not UTF-8"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.xlsx", b"", "give a .csv"),
        ("t.parquet", b"PAR1 nonsense", "no Parquet file"),
        (None, b"", "cannot be read: No such file"),
    ],
)
def test_a_broken_file_gives_one_sentence(
    name: str | None, content: bytes, words: str, tmp_path: Path
) -> None:
    if name == "t.parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / (name or "gone.csv")
    if name is not None:
        path.write_bytes(content)
    with pytest.raises(RunnerError, match=words) as refusal:
        read_table(path)
    assert "\n" not in str(refusal.value)
