"""Rows in this process, by the host's own executor and by the small one: same pictures, models
loaded once, a failing row leaves the others alone, a stop ends the row under way."""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostpack
import pytest

pytest.importorskip("comfy", reason="no ComfyUI found: set COMFYUI_PATH or use dev.py test")
pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

from PIL import Image  # noqa: E402
from realcompo.bench.runner.rows import SAMPLER, bench_rows, demo_graph  # noqa: E402
from realcompo.runner.errors import OutOfSpace, RunnerError, Stopped  # noqa: E402
from realcompo.runner.executor import host_executor  # noqa: E402
from realcompo.runner.host import GraphWorker, Silent, files_of, host_arguments  # noqa: E402
from realcompo.runner.job import Task  # noqa: E402
from realcompo.runner.local import InProcess  # noqa: E402
from realcompo.runner.run import run  # noqa: E402

from .odd_pictures import bomb, talkative  # noqa: E402
from .rows import table  # noqa: E402


@pytest.fixture(scope="module")
def local() -> Iterator[InProcess]:
    with InProcess(hostpack.host_path(), metrics=["oracle"]) as backend:
        yield backend


@pytest.fixture(scope="module")
def demo(local: InProcess) -> dict[str, Any]:
    """The demo's RealCompo picture in two steps."""
    return demo_graph(local, "realcompo", 2)


@pytest.fixture(scope="module")
def drawn(local: InProcess, demo: dict[str, Any], tmp_path_factory: Any) -> Path:
    """Three rows of one style, one of another, and one that fails in its node."""
    out = tmp_path_factory.mktemp("run")
    rows = bench_rows(4, ["realistic", "realistic", "realistic", "sketch"])
    broken = {**rows[0], "id": "broken", "RealCompo Layout From Boxes.prompt": "a yacht"}
    summary = run([*rows[:2], broken, *rows[2:]], demo, local, out, progress=False)
    assert (summary.done, summary.failed) == (4, 1)
    return out


def test_rows_are_drawn_scored_and_carry_their_workflow(drawn: Path) -> None:
    found = table(drawn)
    done = [row for row in found.values() if row["status"] == "done"]
    assert len({row["pixels_sha256"][0] for row in done}) == 4
    for row in done:
        with Image.open(drawn / row["images"][0]) as image:
            assert image.size == (128, 128)
            embedded = json.loads(image.info["prompt"])  # dropped on the page, it opens
        assert embedded == json.loads(row["workflow"])
        assert embedded["19"]["inputs"]["seed"] == row["seed"]
        assert 0 <= row["metric.iou"][0] <= 1 and row["seconds"] > 0
        assert json.loads(row["shown"])["19"]["realcompo"]


def test_a_node_that_fails_says_so_in_its_row(drawn: Path) -> None:
    broken = table(drawn)["broken"]
    assert broken["status"] == "failed" and broken["images"] == []
    assert "RealCompo Dual Sampler, input 'layout'" in broken["error"]
    assert "is not in the prompt" in broken["error"] and "\n" not in broken["error"]


def test_the_same_rows_give_the_same_pictures_whatever_ran_before(
    local: InProcess, demo: dict[str, Any], drawn: Path, tmp_path: Path
) -> None:
    row = bench_rows(4, ["realistic", "realistic", "realistic", "sketch"])[2]
    run([row], demo, local, tmp_path, progress=False)
    before, again = table(drawn)[row["id"]], table(tmp_path)[row["id"]]
    assert again["pixels_sha256"] == before["pixels_sha256"]
    one, other = drawn / before["images"][0], tmp_path / again["images"][0]
    assert one.read_bytes() == other.read_bytes()


def _tasks(demo: dict[str, Any], count: int) -> list[Task]:
    made = []
    for seed in range(count):
        graph = copy.deepcopy(demo)
        graph["19"]["inputs"]["seed"] = 100 + seed
        made.append(Task(f"t{seed}", seed + 1, graph, {}))
    return made


def _counted(worker: GraphWorker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which nodes of the pack run."""
    ran: list[str] = []
    for name in ("RealCompoShapesLoader", "RealCompoLayoutFromBoxes", "RealCompoDualSampler"):
        kind = worker._host._nodes.node_class(name)
        original = getattr(kind, kind.FUNCTION)

        def count(self: Any, *args: Any, name: str = name, run: Any = original, **more: Any) -> Any:
            ran.append(name)
            return run(self, *args, **more)

        monkeypatch.setattr(kind, kind.FUNCTION, count)
    return ran


@pytest.mark.parametrize("executor", ["host's", "small"])
def test_what_has_not_changed_is_not_computed_again(
    executor: str, local: InProcess, demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from execute import Memory

    worker = local.worker
    if executor == "small":  # what a host without a server has
        monkeypatch.setattr(worker._host, "_executor", None)
        monkeypatch.setattr(worker._host, "_memory", Memory())
    elif worker._host._executor is None:
        pytest.skip("THIS HEADLESS COMFYUI HAS NO EXECUTOR OF ITS OWN")
    tasks = _tasks(demo, 2)
    tasks[0].graph["3"]["inputs"]["phrases"] += "\n# not as any row before"
    tasks[1].graph["3"]["inputs"]["phrases"] += "\n# not as any row before"
    ran = _counted(worker, monkeypatch)
    first = worker(tasks[0])
    assert first.status == "done", first.error
    assert ran.count("RealCompoDualSampler") == ran.count("RealCompoLayoutFromBoxes") == 1
    ran.clear()
    second = worker(tasks[1])
    assert ran == ["RealCompoDualSampler"]
    assert first.pictures[0].digest != second.pictures[0].digest
    again = worker(tasks[0])
    assert again.pictures[0].digest == first.pictures[0].digest


def test_both_executors_draw_the_same(
    local: InProcess, demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from execute import Memory

    (task,) = _tasks(demo, 1)
    usual = local.worker(task)
    monkeypatch.setattr(local.worker._host, "_executor", None)
    monkeypatch.setattr(local.worker._host, "_memory", Memory())
    small = local.worker(task)
    assert small.pictures[0].digest == usual.pictures[0].digest != ""
    assert files_of(small.shown)[0][1]["type"] == "output"
    task.graph["3"]["inputs"]["prompt"] = "a yacht"
    failed = local.worker(task)
    assert failed.status == "failed" and "is not in the prompt" in str(failed.error)


def test_a_value_that_the_host_refuses_fails_its_row(
    local: InProcess, demo: dict[str, Any]
) -> None:
    (task,) = _tasks(demo, 1)
    task.graph["19"]["inputs"]["sampler_name"] = "no such sampler"
    outcome = local.worker(task)
    assert outcome.status == "failed"
    assert "sampler_name" in str(outcome.error) or "no such sampler" in str(outcome.error)


def test_a_stop_ends_the_row_under_way(
    local: InProcess, demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{f"{SAMPLER}.seed": 500 + seed} for seed in range(4)]
    long = copy.deepcopy(demo)
    long["19"]["inputs"]["steps"] = 400
    stop = threading.Event()

    def ask() -> None:
        stop.set()
        local.interrupt()

    timer = threading.Timer(1.0, ask)
    timer.start()
    summary = run(rows, long, local, tmp_path, stop=stop, progress=False)
    timer.join()
    assert summary.stopped and (summary.done, summary.left) == (0, 4)
    assert local.worker(_tasks(demo, 1)[0]).status == "done"  # nothing stays interrupted
    (task,) = _tasks(long, 1)
    local.worker.interrupt()
    if local.worker._host._executor is None:  # the host's executor begins by clearing the mark
        with pytest.raises(Stopped):
            local.worker(task)


def test_a_full_temporary_folder_ends_the_run(
    local: InProcess, demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutOfSpace, match="is full: free some space, or name another folder"):
        local.worker(_tasks(demo, 1)[0])


def test_a_row_that_is_drawn_twice_in_a_row_has_its_picture_both_times(
    local: InProcess, demo: dict[str, Any]
) -> None:
    (task,) = _tasks(demo, 1)
    one, two = local.worker(task), local.worker(task)
    assert one.status == two.status == "done"
    assert one.pictures[0].data == two.pictures[0].data


def test_the_host_gets_its_folders_back_and_a_missing_host_is_told(tmp_path: Path) -> None:
    import folder_paths

    before = folder_paths.get_output_directory()
    with InProcess(hostpack.host_path()) as another:
        base = another.worker._base
        assert str(base) in folder_paths.get_output_directory() and base.is_dir()
    assert not base.exists()
    if hasattr(folder_paths, "set_output_directory"):
        assert folder_paths.get_output_directory() == before
    with pytest.raises(RunnerError, match="There is no ComfyUI at"):
        GraphWorker(tmp_path)
    assert host_arguments(["--lowvram"])[-1] == "--lowvram"


def test_the_executor_is_the_one_that_the_hosts_server_makes(
    local: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = local.worker._host
    if host._executor is None:
        pytest.skip("THIS HEADLESS COMFYUI HAS NO EXECUTOR OF ITS OWN")
    from comfy.cli_args import args

    kinds, execution = host._execution.CacheType, host._execution
    if hasattr(args, "cache_ram"):  # newer hosts keep outputs until memory runs short
        assert host._executor.cache_type == kinds.RAM_PRESSURE
        assert 2 <= host._executor.cache_args["ram"] <= 10
        assert host._executor.cache_args["ram_inactive"] > 2
    else:
        assert host._executor.cache_type == kinds.CLASSIC
    monkeypatch.setattr(args, "cache_lru", 7)
    made = host_executor(host.path, execution, Silent())
    assert made.cache_type == kinds.LRU
    assert 7 in (made.cache_args if hasattr(made, "cache_args") else {"": made.cache_size}).values()
    (tmp_path / "main.py").write_text("def prompt_worker(queue, server):\n    return queue.get()\n")
    with pytest.raises(RunnerError, match="makes its executor in a way that is not known here"):
        host_executor(tmp_path, execution, Silent())


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        ("bomb", "x.png", "pixels, and up to 134217728 in all are read"),
        ("text", "x.png", "is a broken picture"),
        (b"", "x.png", "is an empty file"),
        (b"<html>", "x.png", "is no picture: it begins with '<html>'"),
        (b"\x89PNG\r\n\x1a\n", "x.png", "cut off"),
        (b"", "x.latent", "is an empty file"),
        (b"x", "../../../x.png", "not below the output folder"),
        (b"x", None, "as the name of a file"),
        (b"x", "gone.png", "No such file"),
    ],
)
def test_a_picture_that_is_none_fails_its_row_and_not_the_run(
    data: bytes | str, name: Any, words: str, local: InProcess, demo: dict[str, Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    host, base = local.worker._host, local.worker._base
    content = {"bomb": bomb, "text": talkative}[data]() if isinstance(data, str) else data

    def shows(graph: Any, row: str) -> dict[str, Any]:
        (base / "output").mkdir(exist_ok=True)
        if name != "gone.png" and isinstance(name, str):
            (base / "output" / Path(name).name).write_bytes(content)
        return {"9": {"images": [{"filename": name, "type": "output"}], ("a", 1): [object()]}}

    monkeypatch.setattr(host, "run", shows)
    rows = [{f"{SAMPLER}.seed": seed} for seed in range(2)]
    summary = run(rows, demo, local, tmp_path, progress=False)
    assert (summary.done, summary.failed) == (0, 2)
    for row in table(tmp_path).values():
        assert words in row["error"] and row["images"] == [] and row["error"].isprintable()


def test_whatever_a_node_raises_fails_its_row(
    local: InProcess, demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(graph: Any, row: str) -> None:
        raise RecursionError("\ud800\0" * 2000)

    monkeypatch.setattr(local.worker._host, "run", fails)
    assert run([{f"{SAMPLER}.seed": 1}], demo, local, tmp_path, progress=False).failed == 1
    (row,) = table(tmp_path).values()
    assert row["error"].startswith("RecursionError: ") and len(row["error"]) <= 500
