"""Rows over ComfyUI's API: every row once, whichever server fails, dies, forgets or comes back."""

from __future__ import annotations

import copy
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

from realcompo.runner import server_line as serving  # noqa: E402
from realcompo.runner.errors import OutOfSpace, RunnerError  # noqa: E402
from realcompo.runner.run import Summary, run  # noqa: E402
from realcompo.runner.servers import Servers  # noqa: E402

from .fake_comfyui import FakeComfyUI  # noqa: E402
from .rows import INFO, graph, picture, table  # noqa: E402

ROWS = [{"seed": seed, "1.name": "abc"[seed % 3]} for seed in range(20)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits as long as a user would."""
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.3)


@pytest.fixture
def two() -> Iterator[tuple[FakeComfyUI, FakeComfyUI]]:
    with FakeComfyUI(seconds=0.01) as one, FakeComfyUI(seconds=0.01) as other:
        yield one, other


def go(out: Path, servers: Servers, rows: Any = ROWS, **more: Any) -> Summary:
    with servers:
        return run(rows, graph(), servers, out, progress=False, **more)


def test_two_servers_share_the_rows_by_model(
    two: tuple[FakeComfyUI, FakeComfyUI], tmp_path: Path
) -> None:
    summary = go(tmp_path, Servers([server.url for server in two]))
    assert summary.done == 20
    found = table(tmp_path, "seed")
    for seed, row in found.items():
        assert row["pixels_sha256"] == [picture(seed)[0].digest]
    assert sorted(two[0].drawn + two[1].drawn) == list(range(20))
    for server in two:  # each goes on with the models that it has
        names = [seed % 3 for seed in server.drawn]
        assert names and sum(a != b for a, b in zip(names, names[1:], strict=False)) <= 2
    assert {row["worker"] for row in found.values()} == {server.url for server in two}


def test_a_refused_and_a_failed_row_do_not_stop_the_others(
    two: tuple[FakeComfyUI, FakeComfyUI], tmp_path: Path
) -> None:
    for server in two:
        server.fail[3] = ("torch.OutOfMemoryError", "out of\n memory")
        server.refuse.add(5)
        server.half.add(6)  # the host would draw the rest of such a graph
    summary = go(tmp_path, Servers([server.url for server in two]))
    assert (summary.done, summary.failed) == (17, 3)
    found = table(tmp_path, "seed")
    assert found[3]["error"] == "node 8 (Sampler): OutOfMemoryError: out of memory"
    refusal = "ComfyUI refuses the row: node 9 (Save): Value not in list (images: 'x' not in [])"
    assert found[5]["error"] == found[6]["error"] == refusal
    assert len(two[0].withdrawn + two[1].withdrawn) == 1


def test_a_server_that_dies_loses_no_row_and_repeats_none_that_is_there(tmp_path: Path) -> None:
    with FakeComfyUI(seconds=0.02) as one, FakeComfyUI(seconds=0.02) as other:
        other.die_at = 4
        summary = go(tmp_path, Servers([one.url, other.url]))
        assert summary.done == 20 and len(table(tmp_path, "seed")) == 20
        assert len(other.drawn) == 4
        # what it had drawn and not yet handed out is drawn again, nothing else
        assert 16 <= len(one.drawn) <= 18


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    with FakeComfyUI(seconds=0.05) as first:
        port = first.port
        first.die_at = 3
        again = FakeComfyUI(port)

        def restart() -> None:
            first._thread.join()
            again.__enter__()

        threading.Thread(target=restart).start()
        summary = go(tmp_path, Servers([first.url]))
        again.die()
    assert summary.done == 20 and len(first.drawn) == 3 and len(again.drawn) >= 17


def test_the_run_ends_when_no_server_answers_any_more_and_goes_on_later(tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        server.die_at = 6
        with pytest.raises(RunnerError, match="No server has answered for 1 s") as refusal:
            go(tmp_path, Servers([server.url], patience=1))
        assert "\n" not in str(refusal.value)
    with FakeComfyUI() as server:
        assert go(tmp_path, Servers([server.url])).done == 20
        assert 14 <= len(server.drawn) <= 16


def test_a_row_that_kills_its_server_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "DEPTH", 1)
    stop, deaths = threading.Event(), []

    def keep_alive(port: int = 0) -> None:
        while not stop.is_set():
            with FakeComfyUI(port) as server:
                server.poison, port = 2, server.port
                deaths.append(port)
                while server._thread.is_alive() and not stop.is_set():
                    time.sleep(0.01)

    threading.Thread(target=keep_alive).start()
    while not deaths:
        time.sleep(0.01)
    try:
        summary = go(tmp_path, Servers([f"http://127.0.0.1:{deaths[0]}"]), ROWS[:4])
    finally:
        stop.set()
    assert len(deaths) >= 3
    assert (summary.done, summary.failed) == (3, 1)
    error = table(tmp_path, "seed")[2]["error"]
    assert error.startswith("the server died each time that it drew this row")


def test_a_message_that_was_lost_is_made_up_for_by_the_history(tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        server.deaf = {1, 2}
        start = time.monotonic()
        assert go(tmp_path, Servers([server.url]), ROWS[:4]).done == 4
        assert time.monotonic() - start >= 0.3


def test_a_full_disk_on_the_server_ends_the_run(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with FakeComfyUI() as server:
        server.fail[7] = ("OSError", str(full))
        with pytest.raises(OutOfSpace, match=f"The disk of the server {server.url} is full"):
            go(tmp_path, Servers([server.url]))
        server.fail.clear()
        summary = go(tmp_path, Servers([server.url]))
    assert (summary.done, summary.failed) == (20, 0)


def test_a_stop_takes_the_rows_out_of_the_queue(tmp_path: Path) -> None:
    with FakeComfyUI(seconds=0.2) as server:
        servers, stop = Servers([server.url]), threading.Event()

        def ask() -> None:
            while len(server.drawn) < 2:
                time.sleep(0.01)
            stop.set()
            servers.interrupt()

        threading.Thread(target=ask).start()
        start = time.monotonic()
        summary = go(tmp_path, servers, stop=stop)
        assert summary.stopped and summary.done < 5 and time.monotonic() - start < 3
        time.sleep(0.5)
        # one may have been finished and not handed out; one was at work, and is told to stop
        assert len(server.drawn) <= summary.done + 2
        assert len(server.withdrawn) == 2 and len(server.interrupted) == 1


def test_servers_must_answer_and_agree() -> None:
    with FakeComfyUI() as one, FakeComfyUI() as other:
        other.info = copy.deepcopy(other.info)
        del other.info["Sampler"]
        other.info["Load"]["input"]["required"]["name"][0] = ["b", "c", "d"]
        info = Servers([one.url, other.url]).describe(INFO)
        assert "Sampler" not in info
        assert info["Load"]["input"]["required"]["name"][0] == ["b", "c"]
        address = one.url
    with pytest.raises(RunnerError, match=f"The server {address} does not answer"):
        Servers([address]).describe(INFO)
    with FakeComfyUI() as web_page:
        web_page.info = {"hello": 1}
        with pytest.raises(RunnerError, match="is no ComfyUI"):
            Servers([web_page.url]).describe(INFO)
    assert Servers(["somewhere:8188/", "http://somewhere:8188"]).urls == ["http://somewhere:8188"]
