"""A run's folder: every row once, whatever dies; failures kept; the table readable at any time."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

import pyarrow.parquet as parquet  # noqa: E402
from realcompo.runner import store as storing  # noqa: E402
from realcompo.runner.best import best_of  # noqa: E402
from realcompo.runner.errors import OutOfSpace, RowError, RunnerError  # noqa: E402
from realcompo.runner.main import main, mapping_of  # noqa: E402
from realcompo.runner.metrics import load_metric, measure, regions_of  # noqa: E402
from realcompo.runner.run import Summary, run  # noqa: E402

from .rows import Killed, Painter, graph, picture  # noqa: E402


def rows(count: int) -> list[dict[str, Any]]:
    return [{"seed": seed, "subject": f"s{seed % 3}"} for seed in range(count)]


def go(out: Path, backend: Painter, table: Any = None, **more: Any) -> Summary:
    return run(rows(12) if table is None else table, graph(), backend, out, progress=False, **more)


def table(out: Path) -> list[dict[str, Any]]:
    return parquet.read_table(out / "results.parquet").to_pylist()


def seeds(backend: Painter) -> list[int]:
    return [task.graph["8"]["inputs"]["seed"] for task in backend.asked]


def test_every_row_is_in_the_table_with_its_pictures_and_workflow(tmp_path: Path) -> None:
    summary = go(tmp_path, Painter())
    assert (summary.done, summary.failed, summary.left) == (12, 0, 0)
    found = table(tmp_path)
    assert [row["row"] for row in found] == list(range(1, 13))
    for row in found:
        assert row["status"] == "done" and row["error"] is None and row["seconds"] == 0.5
        assert json.loads(row["workflow"])["8"]["inputs"]["seed"] == row["seed"]
        (image,) = row["images"]
        (expected,) = picture(row["seed"])
        assert image == f"images/{row['id']}_0.png"
        assert (tmp_path / image).read_bytes() == expected.data
        assert row["pixels_sha256"] == [expected.digest]


def test_a_failed_row_is_recorded_and_tried_again_only_when_asked(tmp_path: Path) -> None:
    summary = go(tmp_path, Painter(fail=[4, 7]))
    assert (summary.done, summary.failed) == (10, 2)
    failed = {row["seed"]: row["error"] for row in table(tmp_path) if row["status"] == "failed"}
    assert failed == {4: "seed 4 fails", 7: "seed 7 fails"}
    again = Painter()
    go(tmp_path, again)
    assert not again.asked
    retried = Painter(fail=[7])
    summary = go(tmp_path, retried, retry_failed=True)
    assert seeds(retried) == [4, 7] and (summary.done, summary.failed) == (11, 1)
    assert len(table(tmp_path)) == 12 and table(tmp_path)[4]["status"] == "done"


@pytest.mark.parametrize("part_rows", [3, 500])
def test_a_killed_driver_loses_nothing_and_repeats_nothing(
    part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "PART_ROWS", part_rows)
    drawn: list[int] = []
    for _ in range(2):
        painter = Painter(die_after=5)
        # killed: neither the table nor the journal is closed in order
        monkeypatch.setattr(storing.Store, "finish", lambda *_: pytest.fail("not reached"))
        with pytest.raises(Killed):
            go(tmp_path, painter)
        monkeypatch.undo()
        monkeypatch.setattr(storing, "PART_ROWS", part_rows)
        drawn += seeds(painter)
    last = Painter()
    go(tmp_path, last)
    assert sorted(drawn + seeds(last)) == list(range(12)) and len(last.asked) == 2
    assert sorted(row["seed"] for row in table(tmp_path)) == list(range(12))


def test_a_torn_line_and_half_a_file_are_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(tmp_path, Painter(die_after=5))
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 5
    journal.write_bytes(whole + whole.splitlines()[0][:70])
    (tmp_path / "images" / "half.png.part").write_bytes(b"\x89PNG")
    rest = Painter()
    go(tmp_path, rest)
    assert len(rest.asked) == 7 and len(table(tmp_path)) == 12
    assert not list(tmp_path.rglob("*.part"))
    assert journal.read_bytes() == b""


def test_a_picture_that_is_gone_is_drawn_again(tmp_path: Path) -> None:
    go(tmp_path, Painter())
    (tmp_path / table(tmp_path)[3]["images"][0]).unlink()
    again = Painter()
    summary = go(tmp_path, again)
    assert seeds(again) == [3] and summary.done == 12 and len(table(tmp_path)) == 12


def test_more_rows_and_other_columns_later_make_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "PART_ROWS", 4)
    go(tmp_path, Painter(), [{"seed": n, "note": n} for n in range(5)])
    more = [{"seed": n, "note": "text" if n > 4 else n, "new": 0.5} for n in range(8)]
    painter = Painter()
    go(tmp_path, painter, more)
    assert seeds(painter) == [5, 6, 7]
    found = table(tmp_path)
    assert [row["note"] for row in found] == ["0", "1", "2", "3", "4", "text", "text", "text"]
    assert [row["new"] for row in found] == [None] * 5 + [0.5] * 3
    pieces = parquet.read_table(tmp_path / "parts" / "part-000001.parquet")
    assert pieces.num_rows == 4  # readable while the run goes on


def test_other_values_under_a_known_id_are_refused(tmp_path: Path) -> None:
    go(tmp_path, Painter(), [{"id": "a", "seed": 1}])
    with pytest.raises(RunnerError, match="has a row 'a' from another workflow or with other"):
        go(tmp_path, Painter(), [{"id": "a", "seed": 2}])


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        storing.Store(tmp_path),
        pytest.raises(RunnerError, match="Another run is writing to"),
        storing.Store(tmp_path),
    ):
        pass
    go(tmp_path, Painter())


@pytest.mark.parametrize("where", ["picture", "journal", "part"])
def test_a_full_disk_ends_the_run_with_one_sentence_and_the_rest_goes_on_later(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    calls = 0

    def fail_at_the_fifth(original: Any) -> Any:
        def write(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == (1 if where == "part" else 5):
                raise full
            return original(*arguments, **more)

        return write

    if where == "picture":
        monkeypatch.setattr(Path, "write_bytes", fail_at_the_fifth(Path.write_bytes))
    elif where == "journal":
        monkeypatch.setattr(storing.os, "fsync", fail_at_the_fifth(os.fsync))
    else:
        monkeypatch.setattr(parquet, "write_table", fail_at_the_fifth(parquet.write_table))
    with pytest.raises(OutOfSpace) as refusal:
        go(tmp_path, Painter())
    assert str(refusal.value).startswith(f"The disk of {tmp_path} is full: free some space")
    monkeypatch.undo()
    rest = Painter()
    summary = go(tmp_path, rest)
    assert len(rest.asked) == (0 if where == "part" else 8)
    assert summary.done == 12 and len(table(tmp_path)) == 12


def test_a_stop_leaves_the_rest_for_the_next_start(tmp_path: Path) -> None:
    stop = threading.Event()

    class Stopping(Painter):
        def results(self, tasks: Any, event: threading.Event) -> Any:
            for number, outcome in enumerate(super().results(tasks, event)):
                yield outcome
                if number == 2:
                    stop.set()

    summary = go(tmp_path, Stopping(), stop=stop)
    assert summary.stopped and (summary.done, summary.left) == (3, 9)
    assert len(table(tmp_path)) == 3
    assert go(tmp_path, Painter()).done == 12


def test_a_dry_run_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    painter = Painter()
    summary = go(out, painter, [{"seed": 1}, {"seed": "x"}], dry_run=True)
    assert summary.problems == ["Row 2: column 'seed': 'x' is no whole number."]
    assert not painter.asked and not out.exists()


def test_broken_rows_are_recorded_without_being_drawn(tmp_path: Path) -> None:
    painter = Painter()
    summary = go(tmp_path, painter, [{"seed": "x", "who": "me"}, {"seed": 1, "who": "you"}])
    assert seeds(painter) == [1] and (summary.done, summary.failed) == (1, 1)
    broken, good = table(tmp_path)
    assert broken["error"] == "column 'seed': 'x' is no whole number" and broken["who"] == "me"
    assert broken["seed"] is None and good["seed"] == 1


@pytest.mark.parametrize("named", [True, False])
def test_a_corrected_row_takes_the_place_of_the_broken_one(named: bool, tmp_path: Path) -> None:
    names = [{"id": "a"}, {"id": "b"}] if named else [{}, {}]
    broken = [{**names[0], "seed": "x"}, {**names[1], "seed": 1}]
    assert go(tmp_path, Painter(), broken).failed == 1
    painter = Painter()
    summary = go(tmp_path, painter, [{**names[0], "seed": 2}, {**names[1], "seed": 1}])
    assert seeds(painter) == [2] and (summary.done, summary.failed) == (2, 0)
    assert [(row["row"], row["seed"], row["status"]) for row in table(tmp_path)] == [
        (1, 2, "done"), (2, 1, "done")
    ]  # fmt: skip


def test_the_best_of_each_group(tmp_path: Path) -> None:
    made = [
        {"subject": "a", "status": "done", "images": ["0", "1"], "metric.x": [0.2, 0.9]},
        {"subject": "b", "status": "done", "images": ["2"], "metric.x": 0.5},
        {"subject": "a", "status": "done", "images": ["3"], "metric.x": [0.9]},
        {"subject": "b", "status": "failed", "images": [], "metric.x": None},
        {"subject": "b", "status": "done", "images": ["4"], "metric.x": float("nan")},
    ]
    best = best_of(made, "metric.x", ["subject"])
    assert [(row["image"], row["score"], row["rank"]) for row in best] == [
        ("1", 0.9, 1), ("2", 0.5, 1)
    ]  # fmt: skip
    ranked = best_of(made, "metric.x", ["subject"], keep=2)
    assert [(row["image"], row["rank"]) for row in ranked] == [("1", 1), ("3", 2), ("2", 1)]
    low = best_of(made, "metric.x", ["subject"], largest=False)
    assert [row["image"] for row in low] == ["0", "2"]
    with pytest.raises(RunnerError, match="no column 'metric.y'; there are: images"):
        best_of(made, "metric.y", ["subject"])
    go(tmp_path, Painter(), repeat=2, table=[{"seed": 1, "id": "a"}, {"seed": 5, "id": "b"}])
    by_time = best_of(tmp_path, "seconds")
    assert [(row["group"], row["repeat"]) for row in by_time] == [("a", 0), ("b", 0)]


METRIC = """
def size(pictures, row):
    assert row["workflow"] == {} and row["id"] == "r"
    return {"wide": [picture.width for picture in pictures], "count": len(pictures)}

def broken(pictures, row):
    raise KeyError("x")
"""


def test_a_metric_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METRIC, encoding="utf-8")
    row = {"id": "r", "workflow": {}}
    size = load_metric(f"{file}:size")
    found = measure({"size": size}, picture(1, count=2), row)
    assert found == {"wide": [4.0, 4.0], "count": 2.0}
    with pytest.raises(RowError, match="metric 'b' failed: KeyError: 'x'"):
        measure({"b": load_metric(f"{file}:broken")}, picture(1), row)
    with pytest.raises(RowError, match="two metrics give a number 'count'"):
        measure({"a": size, "b": size}, picture(1), row)
    for name, words in (
        ("size", "not written as module:function"), (f"{file}:other", "no function 'other'"),
        (f"{tmp_path}/no.py:f", "there is no file"), ("no.such:f", "cannot be loaded"),
    ):  # fmt: skip
        with pytest.raises(RunnerError, match=words):
            load_metric(name)


def test_the_oracle_finds_a_rows_layout() -> None:
    region = {"phrase": "a red star", "box": [0.1, 0.2, 0.5, 0.6]}
    text = json.dumps({"regions": [region]})
    assert regions_of({"layout": text, "workflow": {}}) == [region]
    assert regions_of({"workflow": {"3": {"inputs": {"layout_json": text}}}}) == [region]
    lines = {"3": {"inputs": {"phrases": "a red star: 0.1 0.2 0.5 0.6"}}}
    assert regions_of({"workflow": lines}) == [region]
    with pytest.raises(ValueError, match="has no layout"):
        regions_of({"workflow": {}})


def test_the_command_line_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow, rows_file = tmp_path / "w.json", tmp_path / "t.csv"
    workflow.write_text(json.dumps(graph()), encoding="utf-8")
    rows_file.write_text("seed\n1\n", encoding="utf-8")
    common = [str(workflow), "--set", str(rows_file), "--out", str(tmp_path / "out")]
    for more, words in (
        (["--server", "ftp://x"], "'ftp://x' is no address of a server"),
        (["--server", "http://127.0.0.1:9"], "The server http://127.0.0.1:9 does not answer"),
        (["--server", "x", "--ray", "local"], "not both"),
        (["--map", "seed"], "is not written as COLUMN=NODE.INPUT"),
        (["--metric", "x"], "is not written as module:function"),
    ):
        assert main([*common, *more]) == 2
        said = capsys.readouterr().err.strip()
        assert words in said and "\n" not in said
    assert mapping_of(["a=4.text", "a=5.text", "b="]) == {"a": ["4.text", "5.text"], "b": []}
