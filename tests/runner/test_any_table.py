"""Tables as spreadsheets and scripts write them, values of any kind, journals of any content."""

from __future__ import annotations

import copy
import datetime
import json
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pyarrow = pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

import pyarrow.parquet as parquet  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from realcompo.runner import cells, parquet_table  # noqa: E402
from realcompo.runner import store as storing  # noqa: E402
from realcompo.runner import table as tables  # noqa: E402
from realcompo.runner.best import best_of  # noqa: E402
from realcompo.runner.columns import table_of as arrow_table  # noqa: E402
from realcompo.runner.errors import RowError, RunnerError, one_line, shown, tidy  # noqa: E402
from realcompo.runner.job import FAILED, Outcome, Picture  # noqa: E402
from realcompo.runner.metrics import measure, regions_of  # noqa: E402
from realcompo.runner.plan import make_plan  # noqa: E402
from realcompo.runner.run import Summary, run  # noqa: E402
from realcompo.runner.shown import files_of, plain, read_file  # noqa: E402
from realcompo.runner.table import read_table, table_of  # noqa: E402
from realcompo.runner.values import coerce  # noqa: E402
from realcompo.runner.workflow import bind, checked_workflow, read_workflow  # noqa: E402

from .rows import INFO, Killed, Painter, graph  # noqa: E402


def go(out: Path, rows: Any, **more: Any) -> Summary:
    return run(rows, graph(), more.pop("place", Painter()), out, progress=False, **more)


def results(out: Path) -> list[dict[str, Any]]:
    return parquet.read_table(out / "results.parquet").to_pylist()


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


ROWS = [{"id": "a", "Positive.text": "a cat", "seed": "1"},
        {"id": "b", "Positive.text": "two; dogs", "seed": "2"}]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('id;Positive.text;seed\r\na;a cat;1\r\nb;"two; dogs";2\r\n', "utf-8"),
        ('id;Positive.text;seed\r\na;a cat;1\r\nb;"two; dogs";2\r\n', "utf-8-sig"),
        ("id\tPositive.text\tseed\r\na\ta cat\t1\r\nb\ttwo; dogs\t2\r\n", "utf-16"),
        ("id\tPositive.text\tseed\r\na\ta cat\t1\r\nb\ttwo; dogs\t2\r\n", "utf-16-le"),
        ('sep=;\r\nid;Positive.text;seed\r\na;a cat;1\r\nb;"two; dogs";2\r\n', "utf-8-sig"),
        ('"sep=|"\nid|Positive.text|seed\na|a cat|1\nb|two; dogs|2\n', "utf-8"),
        ("\nid,Positive.text,seed,,\n,,,,\na,a cat,1,,\n , ,,,\nb,two; dogs,2,,\n,,,,\n", "utf-8"),
        ('id;Positive.text;seed;;\r\na;a cat;1;;\r\nb;"two; dogs";2;;\r\n;;;;\r\n', "cp1252"),
        ('"id" ; "Positive.text";seed\na;a cat;1\nb;"two; dogs";2'.replace(' ; "', ';"'), "utf-8"),
    ],
)
def test_a_spreadsheets_table_is_read_as_it_is_meant(
    text: str, encoding: str, tmp_path: Path
) -> None:
    table = read_table(write(tmp_path / "t.csv", text, encoding))
    assert table.columns == ["id", "Positive.text", "seed"]
    assert [row.values for row in table.rows] == ROWS
    assert not any(row.problem for row in table.rows)
    summary = go(tmp_path / "out", tmp_path / "t.csv")
    assert summary.done == 2
    if ";" in text.split("\n")[1]:
        assert any("parted by semicolons" in notice for notice in summary.notices)


def test_what_is_left_out_of_a_table_is_told(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", ",seed,,4.text\n0,1,,x\n,,,\n1,2,,y\n"))
    assert table.columns == ["seed", "4.text"] and len(table.rows) == 2
    assert table.notices == [
        "1 empty rows of t.csv are left out.", "Columns of t.csv without a name are left out: 1."
    ]  # fmt: skip
    table = read_table(write(tmp_path / "t.tsv", 'seed\t4.text\n1\t"two\nlines"\n2\t#NAME?\n'))
    assert table.rows[0].values["4.text"] == "two\nlines"
    assert table.rows[1].problem and "a spreadsheet's error #NAME?" in table.rows[1].problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a,b\n1,"x\n2,y\n3,z\n', "the quote that opens in the row of line 2 is never closed"),
        ("a;b;a\n1;2;3\n", "two columns 'a'"),
        ("x" * 600 + "\n1\n", "name is 600 characters long"),
        (",".join(f"c{n}" for n in range(1001)) + "\n", "more than 1000 columns"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=words) as refusal:
        read_table(write(tmp_path / "t.csv", text))
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 400


def test_a_decimal_comma_is_one_where_semicolons_part_the_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "8.cfg;seed\n3,5;1\n-0,5;2\n1.234,5;3\n2;1,23457E+14\n")
    plan = make_plan(graph(), read_table(path), INFO)
    problems = {entry.task.number: entry.problem for entry in plan.entries}
    assert plan.entries[0].task.graph["8"]["inputs"]["cfg"] == 3.5
    assert problems[2] == "column '8.cfg': -0.5 is not in 0.0 to 30.0"
    assert problems[3] and "'1.234,5' is no number" in problems[3]
    assert problems[4] and "'1.23457E+14' is a rounded number" in problems[4]
    with pytest.raises(RowError, match="'3,5' is no number"):
        coerce("3,5", ("FLOAT", {}), None)


SEED = ("INT", {"min": 0, "max": 2**64 - 1})


@pytest.mark.parametrize(
    ("given", "seed"),
    [
        (912345678901234567.0, None), ("912345678901234567.0", None), ("1.23457E+14", None),
        (1e300, None), ("1e400", None), ("9" * 5000, None), (2**53 + 2.0, None), (0.5, None),
        (np.float64(2**60), None), (float("inf"), None), (2**64, None), (-1, None), (True, None),
        (1.23457e14, 123457000000000), ("123457000000000.0", 123457000000000), ("1e3", 1000),
        (2.0**53, 2**53), (2**64 - 1, 2**64 - 1), (str(2**64 - 1), 2**64 - 1), ("7.0", 7),
        (np.uint64(2**64 - 1), 2**64 - 1),
    ],
)  # fmt: skip
def test_a_float_is_a_seed_only_where_it_is_whole(given: Any, seed: int | None) -> None:
    (row,) = table_of([{"seed": given}]).rows
    if seed is not None:
        assert coerce(row.values["seed"], SEED, None) == seed
        return
    with pytest.raises(RowError) as refusal:
        coerce(row.values["seed"], SEED, None)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("part_rows", [1, 500])
def test_seeds_up_to_the_largest_are_in_the_results(
    part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "PART_ROWS", part_rows)
    seeds = [1, 9223372036854775808, 2**64 - 1, 2**53 + 1]
    path = write(tmp_path / "t.jsonl", "\n".join(
        json.dumps({"id": f"r{n}", "seed": seed, "n": n - 1, "x": n / 2 if n else 2**60})
        for n, seed in enumerate(seeds)
    ))  # fmt: skip
    assert go(tmp_path / "out", path).done == 4
    found = results(tmp_path / "out")
    assert [row["seed"] for row in found] == seeds
    assert [row["n"] for row in found] == [-1, 0, 1, 2]
    assert found[0]["x"] in (2**60, str(2**60))
    place = Painter()
    assert go(tmp_path / "out", path, place=place).done == 4 and not place.asked


LABELS: list[Any] = [
    10**30, -(10**30), 2**63, -(2**63), "\ud800", "a\0b", "\r\n", [1, [2, {"a": None}]], {}, [],
    {"a": {"b": [1]}}, True, None, 0.5, float("nan"), float("inf"), b"x", b"\xff", Decimal("1.5"),
    datetime.date(2026, 1, 2), np.int8(3), np.array([1, 2]), np.array(["a"]), (1, 2), {1, 2},
    10**5000, object(), "\U0001f436", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("part_rows", [1, 500])
def test_labels_of_any_kind_are_text_or_a_failed_row(
    part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "PART_ROWS", part_rows)
    rows = [{"id": f"r{n}", "seed": n, "label": label} for n, label in enumerate(LABELS)]
    with pytest.raises(Killed):  # so that a second start takes up the journal
        go(tmp_path, rows, place=Painter(die_after=20))
    summary = go(tmp_path, rows)
    assert (summary.done, summary.failed) == (len(LABELS) - 3, 3)
    found = {row["id"]: row for row in results(tmp_path)}
    assert len(found) == len(LABELS)
    failed = [(int(name[1:]), row["error"]) for name, row in found.items()
              if row["status"] == FAILED]  # fmt: skip
    said = [error for _, error in sorted(failed)]
    assert "half a character" in said[0] and "no UTF-8 text" in said[1] and "bits" in said[2]
    assert str(10**30) in str(found["r0"]["label"])


def test_rows_that_are_none_fail_alone(tmp_path: Path) -> None:
    class Bad:
        def __str__(self) -> str:
            raise OSError("no text")

    rows: list[Any] = [{"seed": 1}, 7, None, {"seed": Bad()}, {"seed": 2, 1: 1, "1": 2}]
    summary = go(tmp_path, rows)
    assert (summary.done, summary.failed) == (1, 4)
    ring: list[Any] = []
    ring.append(ring)
    assert table_of([{"a": ring}]).rows[0].problem == (
        "column 'a' holds lists or objects that JSON cannot write"
    )


def test_one_bad_line_of_json_fails_alone(tmp_path: Path) -> None:
    bad = [b"{", b'{"seed": 1e999}', b'{"seed": ' + b"9" * 400 + b"}", b"[" * 100_000, b"\xff\xfe",
           b'{"label": "\\ud800"}', b'{"seed": 1, "seed": 2}', b"3", b"\x00", b"'a'"]  # fmt: skip
    lines = [b'{"seed": 1}', *bad, b'{"seed": 2, "score": NaN}']
    summary = go(tmp_path / "out", write(tmp_path / "t.jsonl", b"\r\n".join(lines)))
    # infinity is a number of JSON's readers, and no seed
    assert (summary.done, summary.failed) == (2, len(bad))
    text = '{"seed": 1}\n{\n{"seed": 2}\n'
    assert go(tmp_path / "16", write(tmp_path / "u.jsonl", text, "utf-16")).failed == 1
    listed = write(tmp_path / "t.json", '[{"seed": 1}, 2, {"seed": 3}]')
    assert go(tmp_path / "list", listed).done == 2
    for content, words in (("[" * 9999, "levels deep"), ('{"a": 1}', "give a list of objects")):
        with pytest.raises(RunnerError, match=words):
            read_table(write(tmp_path / "x.json", content))


def test_a_line_that_is_too_long_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGEST_CELL", 100)
    lines = ['{"seed": 1}', json.dumps({"seed": 2, "x": "y" * 1000}), '{"seed": 3}']
    table = read_table(write(tmp_path / "t.jsonl", "\n".join(lines)))
    assert [row.values.get("seed") for row in table.rows] == [1, None, 3]
    assert table.rows[1].problem and "up to 100 are read" in table.rows[1].problem


def test_a_table_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST_ROWS", 5)
    for name, text in (
        ("t.csv", "a\n" + "1\n" * 6), ("t.jsonl", "{}\n" * 6), ("t.json", "[{},{},{},{},{},{}]")
    ):  # fmt: skip
        with pytest.raises(RunnerError, match="more than 5 rows: split it"):
            read_table(write(tmp_path / name, text))
    with pytest.raises(RunnerError, match="more than 5 rows"):
        table_of({"a": 1} for _ in iter(int, 1))
    monkeypatch.setattr(tables, "LARGEST_TABLE", 1 << 20)
    with pytest.raises(RunnerError, match="has 2 MiB, and a table has up to 1"):
        read_table(write(tmp_path / "t.csv", "a\n" + "x" * (2 << 20)))
    with pytest.raises(RunnerError, match="1 rows, 1000000000 times each, are more than"):
        make_plan(graph(), table_of([{"seed": 1}]), INFO, repeat=10**9)


def test_a_parquet_file_is_measured_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"seed": pyarrow.nulls(2_000_000, pyarrow.int64())}), path)
    start = time.monotonic()
    with pytest.raises(RunnerError, match="has 2000000 rows, and a table has up to 200000"):
        read_table(path)
    assert time.monotonic() - start < 1
    monkeypatch.setattr(parquet_table, "LARGEST_TABLE", 1 << 24)
    count = 1000  # texts of 100 kB, all the same: 100 MB in a few kB
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(count, np.int32)), pyarrow.array(["x" * 100_000])
    )
    lists = pyarrow.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), text)
    for array in (text, lists, pyarrow.StructArray.from_arrays([text], ["a"])):
        parquet.write_table(pyarrow.table({"seed": range(count), "t": array}), path)
        assert path.stat().st_size < 1 << 20
        with pytest.raises(RunnerError, match=r"take \d+ MiB or more, and up to 16 MiB"):
            read_table(path)
    monkeypatch.setattr(parquet_table, "MOST_VALUES", 1 << 18)
    many = pyarrow.ListArray.from_arrays([0, 1 << 19], pyarrow.nulls(1 << 19, pyarrow.int8()))
    parquet.write_table(pyarrow.table({"a": many}), path)
    with pytest.raises(RunnerError, match="in 262144 values are read"):
        read_table(path)


def test_parquet_of_all_types_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    moment = datetime.datetime(2026, 1, 2, 3, 4)
    named = pyarrow.array(["b", "b"]).dictionary_encode()
    value = {"seed": pyarrow.array([2**63, 1], pyarrow.uint64()), "t": ["a", None], "d": named,
             "s": [{"x": "y"}, None], "l": [["a", None], []], "b": [b"z", b"\xff"],
             "m": [moment, None], "f": [float("nan"), 2.0]}  # fmt: skip
    parquet.write_table(pyarrow.table(value), path)
    one, two = read_table(path).rows
    assert one.values == {"seed": 2**63, "t": "a", "d": "b", "s": '{"x": "y"}', "l": '["a", null]',
                          "b": "z", "m": "2026-01-02T03:04:00", "f": None}  # fmt: skip
    assert two.problem == "column 'b' holds bytes that are no UTF-8 text"
    assert two.values["t"] is None and two.values["l"] == "[]" and two.values["f"] == 2.0


def test_broken_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": ["x"] * 50, "b": list(range(50))}), path)
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(80):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            read_table(write(path, bytes(data)))
        except RunnerError as error:
            assert str(error).isprintable()


def wired(**node: Any) -> dict[str, Any]:
    made = graph()
    made["8"]["inputs"]["seed"] = ["20", 0]
    made["20"] = {"class_type": "Number", "inputs": node}
    return made


NUMBER = {**INFO, "Number": {"input": {"required": {"value": ["INT", {"max": 99}]}}, "output": []}}


@pytest.mark.parametrize(
    ("made", "target"),
    [
        (wired(value=5), ("20", "value")),
        (wired(value=5, control_after_generate="fixed"), ("20", "value")),
        (wired(seed=5), ("20", "seed")),
        (wired(seed=5, mode="fixed"), ("20", "seed")),
        (wired(int=5), ("20", "int")),
        ({**wired(any=["21", 0]), "21": {"class_type": "Number", "inputs": {"value": 5}}},
         ("21", "value")),
    ],
)  # fmt: skip
def test_a_seed_that_is_wired_is_filled_where_it_is_made(
    made: dict[str, Any], target: tuple[str, str]
) -> None:
    plan = make_plan(made, table_of([{"seed": 1}, {"seed": 7}]), NUMBER)
    node, name = target
    assert [e.task.graph[node]["inputs"][name] for e in plan.entries] == [1, 7]
    assert all(entry.task.graph["8"]["inputs"]["seed"] == ["20", 0] for entry in plan.entries)
    assert (name in ("seed",)) != any("to which the seed is linked" in n for n in plan.notices)
    again = make_plan(made, table_of([{"4.text": "x"}]), NUMBER, repeat=3)
    assert [e.task.graph[node]["inputs"][name] for e in again.entries] == [5, 6, 7]
    assert len({entry.digest for entry in again.entries}) == 3


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (wired(a=5, b=6), "name the column 20.a or 20.b or 8.seed"),
        (wired(value=5, plus=["1", 0]), "name the column 20.value or 8.seed"),
        (wired(text="12"), "name the column 20.text or 8.seed"),
        (wired(), "name the column 8.seed"),
        (wired(any=["20", 0]), "name the column 8.seed"),
    ],
)
def test_a_seed_whose_maker_is_not_plain_is_asked_for(made: dict[str, Any], words: str) -> None:
    for rows, more in (([{"seed": 1}], {}), ([{"4.text": "x"}], {"repeat": 2})):
        with pytest.raises(RunnerError) as refusal:
            make_plan(made, table_of(rows), NUMBER, **more)
        assert words in str(refusal.value) and "is linked to node 20 (Number)" in str(refusal.value)
    plan = make_plan(made, table_of([{"8.seed": 3}]), NUMBER, repeat=2)  # instead of the link
    assert [entry.task.graph["8"]["inputs"]["seed"] for entry in plan.entries] == [3, 4]
    label = make_plan(made, table_of([{"seed": 1, "4.text": "x"}]), NUMBER, {"seed": []})
    assert label.binding.labels == ("seed",)


def test_other_wired_inputs_are_filled_where_they_are_made_too() -> None:
    made = wired(value=5)
    made["8"]["inputs"].update(steps=["20", 0], cfg=["22", 0])
    made["22"] = {"class_type": "Sum", "inputs": {"a": 1.0, "b": 2.0}}
    (target,) = bind(made, ["steps"], NUMBER).columns["steps"]
    assert (target.node, target.input) == ("20", "value")
    with pytest.raises(RunnerError, match=r"name the column 22.a or 22.b or 8.cfg"):
        bind(made, ["cfg"], NUMBER)
    assert bind(made, ["model", "positive"], NUMBER).labels == ("model", "positive")


def test_repeats_stay_within_what_the_seeds_node_takes() -> None:
    plan = make_plan(wired(value=98), table_of([{"4.text": "x"}]), NUMBER, repeat=4)
    seeds = [entry.task.graph["20"]["inputs"]["value"] for entry in plan.entries]
    assert seeds == [98, 99, 0, 1]


def test_filling_leaves_the_workflow_as_it_is() -> None:
    made = graph()
    before = copy.deepcopy(made)
    make_plan(made, table_of([{"seed": 1, "4.text": "x"}]), INFO, repeat=3)
    assert made == before


RECORDS = [
    b"", b"null", b"{}", b"[]", b"3", b'{"id": 3}', b"{", b"\xff\xfe\x00", b"[" * 100_000,
    b"9" * 9999,
    b'{"id": "s", "status": "done", "workflow_hash": "x", "images": [1]}', b'"\\ud800"',
    b'{"id": "../../x", "images": ["\\u0000"]}',
]  # fmt: skip


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("line", RECORDS, ids=[str(number) for number in range(len(RECORDS))])
def test_a_line_of_the_journal_that_is_no_record_is_left_out(
    line: bytes, place: int, tmp_path: Path
) -> None:
    rows = [{"seed": seed} for seed in range(8)]
    with pytest.raises(Killed):
        go(tmp_path, rows, place=Painter(die_after=5))
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:place], line + b"\n", *lines[place:]]) + lines[0][:50])
    rest = Painter()
    summary = go(tmp_path, rows, place=rest)
    assert summary.done == 8 and len(rest.asked) == 3
    assert f"line {place + 1} (" in summary.notices[-1] and summary.notices[-1].isprintable()
    assert len(results(tmp_path)) == 8


def test_a_random_journal_never_stops_a_start(tmp_path: Path) -> None:
    rows, chance = [{"seed": seed} for seed in range(6)], random.Random(11)
    with pytest.raises(Killed):
        go(tmp_path, rows, place=Painter(die_after=5))
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    for _ in range(15):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for part in (tmp_path / "parts").glob("*"):
            part.unlink()
        journal.write_bytes(bytes(data))
        try:
            assert go(tmp_path, rows).done == 6
        except RunnerError as error:  # another workflow's hash under a row's name
            assert "from another workflow" in str(error)


def test_a_done_row_of_an_earlier_release_without_a_whole_picture_is_drawn_again(
    tmp_path: Path,
) -> None:
    class Hollow(Painter):
        def results(self, tasks: Any, stop: Any) -> Any:
            for outcome in super().results(tasks, stop):
                one = outcome.pictures[0]
                outcome.pictures = [Picture(one.node, one.suffix, b"", "")]
                yield outcome

    rows = [{"seed": seed} for seed in range(3)]
    go(tmp_path, rows, place=Hollow())
    again = Painter()
    assert go(tmp_path, rows, place=again).done == 3 and len(again.asked) == 3


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    rows = [{"seed": seed} for seed in range(3)]
    go(tmp_path, rows)
    (part,) = (tmp_path / "parts").glob("*.parquet")
    whole, chance = part.read_bytes(), random.Random(21)
    (tmp_path / "parts" / "part-mine.parquet").write_bytes(b"not ours")
    for _ in range(40):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        part.write_bytes(bytes(data))
        try:
            go(tmp_path, rows)
        except RunnerError as error:
            assert str(error).isprintable()
        for other in (tmp_path / "parts").glob("part-00000[2-9].parquet"):
            other.unlink()
    part.write_bytes(b"PAR1")
    with pytest.raises(RunnerError, match=r"part-000001.parquet is damaged .*: remove it"):
        go(tmp_path, rows)
    (tmp_path / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunnerError, match="is damaged"):
        best_of(tmp_path, "seconds")


def test_a_row_that_is_too_large_to_record_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "LONGEST_LINE", 4000)
    monkeypatch.setattr(storing, "LARGEST_SHOWN", 50)
    summary = go(tmp_path, [{"seed": 1, "note": "x" * 5000}, {"seed": 2, "note": "y"}])
    assert (summary.done, summary.failed) == (1, 1)
    assert "use smaller cells" in results(tmp_path)[0]["error"]
    assert storing._shown({"9": {"text": ["z" * 100]}}) == '{"left out": "121 characters"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.lists(JSON, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_values_make_a_column(values: list[list[Any]]) -> None:
    records = [{f"c{n}": value for n, value in enumerate(row)} for row in values]
    made = arrow_table(records)
    assert made.num_rows == len(records)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(made, sink)


@given(
    st.lists(st.dictionaries(st.sampled_from(["id", "seed", "steps", "label", "4.text"]), JSON),
             min_size=1, max_size=4)
)  # fmt: skip
def test_any_rows_make_a_plan_or_one_sentence(rows: list[dict[str, Any]]) -> None:
    try:
        plan = make_plan(graph(), table_of(rows), INFO)
    except RunnerError as error:
        assert str(error).isprintable()
        return
    for entry in plan.entries:
        json.dumps(entry.columns, allow_nan=True).encode()
        assert entry.problem is None or entry.problem.isprintable()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".tsv"])
def test_any_bytes_are_a_table_or_one_sentence(suffix: str, tmp_path: Path) -> None:
    chance = random.Random(suffix)
    whole = [b"seed", b"4.text", b"id", b",", b";", b"\t", b"\n", b"\r\n", b'"', b"1", b"cat",
             b"\0", b"{", b"}", b":", b"[", b"]", b'"seed":', b"\xff", b"\xef\xbb\xbf", b"\xff\xfe",
             b"sep=;", b"1e99", b"null", b"\xc3\xa4", b'{"seed": 1}\n', b"seed,4.text\n1,x\n",
             b'[{"seed": 1}]']  # fmt: skip
    path, read = tmp_path / f"t{suffix}", 0
    for number in range(120):
        pieces = [chance.choice(whole) for _ in range(chance.choice([0, 1, 2, 5, 25]))]
        good = {".json": b'[{"seed": 1}]', ".jsonl": b'{"seed": 1}'}.get(suffix, b"seed\n1\n")
        write(path, b"".join(pieces) if number else good)
        try:
            make_plan(graph(), read_table(path), INFO)
            if number % 10 == 0:
                go(tmp_path / str(number), path)
            read += 1
        except RunnerError as error:
            assert str(error).isprintable() and len(str(error)) <= 2000
    assert read


def test_a_workflow_is_read_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    for content, words in (
        ('{"nodes": [], "version": 1}', "choose Workflow > Export"), ("[" * 100_000, "levels deep"),
        ('{"1": {"class_type": "A", "inputs": {"x": 1e999}}}', "too large"),
        (b"\x89PNG\r\n\x1a\n\xff\xff", "no UTF-8"), ("9" * 5000, "too large"),
        ('{"1": {"class_type": "A", "inputs": {"x": "\\ud800"}}}', "half a character"),
        ('{"1": {"class_type": "A", "inputs": {"x": [{"a": 1}, 0]}}}', "which is not there"),
    ):  # fmt: skip
        with pytest.raises(RunnerError, match=words) as refusal:
            read_workflow(write(path, content))
        assert str(refusal.value).isprintable()
    made = graph()
    made["8"]["_meta"] = ["x"]
    assert checked_workflow(made, "it") and make_plan(made, table_of([{"seed": 1}]), INFO)
    made["8"]["inputs"]["x"] = {1, 2}
    with pytest.raises(RunnerError, match="holds what JSON cannot write"):
        checked_workflow(made, "it")


def test_messages_are_one_printable_line_within_bounds() -> None:
    assert one_line("a\n\tb\0c\ud800. ") == "a b?c?"
    assert len(one_line("x" * 10**7)) == 500
    error = RunnerError("a" * 5000 + "\nremedy.")
    assert str(error).endswith("remedy.") and len(str(error)) <= 2000
    assert shown("x" * 500).endswith("...'") and tidy(10**5000, 50).startswith("a int without")


def test_what_nodes_show_is_taken_as_far_as_json_goes(tmp_path: Path) -> None:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    odd = {"9": {("a", 1): [1], "ring": ring, "deep": deep, "images": [{"filename": "a.png",
           "type": "output"}]}}  # fmt: skip
    assert files_of(plain(odd)) == [("9", {"filename": "a.png", "type": "output"})]
    for entry, words in (
        ({"type": "output", "filename": "../../x"}, "not below the output folder"),
        ({"type": "output", "filename": None}, "as the name of a file"),
        ({"type": "output", "filename": "a\0"}, "as the name of a file"),
    ):
        with pytest.raises(RowError, match=words):
            read_file(tmp_path, entry)


def test_a_picture_that_cannot_be_measured_and_a_layout_that_is_none_fail_their_row() -> None:
    metric = {"m": lambda pictures, row: {"n": len(pictures)}}
    with pytest.raises(RowError, match="cannot be measured"):
        measure(metric, [Picture("9", ".png", b"cut", "digest")], {})
    for text in ('{"regions": 3}', "[]", "[" * 9999, '{"regions": 1e999}'):
        with pytest.raises(ValueError, match=r"regions|levels|too large"):
            regions_of({"layout": text, "workflow": {}})


def test_an_outcome_of_any_text_is_recorded(tmp_path: Path) -> None:
    class Odd(Painter):
        def results(self, tasks: Any, stop: Any) -> Any:
            for task in tasks:
                yield Outcome(task.id, FAILED, "x\ud800", error="\ud800\0\n" * 3,
                              metrics={"\ud800": 1.0, "n": [1.0, float("nan")]})  # fmt: skip

            raise Killed

    with pytest.raises(Killed):
        go(tmp_path, [{"seed": 1}], place=Odd())
    summary = go(tmp_path, [{"seed": 1}])  # the journal is taken up as it is
    assert summary.failed == 1 and not summary.notices and len(results(tmp_path)) == 1


def test_nothing_of_the_parquet_reader_is_loaded_for_other_tables() -> None:
    assert parquet_table.BATCH_ROWS > 0 and "pyarrow" not in vars(parquet_table)
