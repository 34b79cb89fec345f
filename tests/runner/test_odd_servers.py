"""Whatever a server answers: rows that fail with a sentence, drawn again at the next start, and
never the end of the run."""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

from realcompo.runner import answers, pictures  # noqa: E402
from realcompo.runner import server_line as serving  # noqa: E402
from realcompo.runner.errors import RunnerError  # noqa: E402
from realcompo.runner.run import Summary, run  # noqa: E402
from realcompo.runner.servers import Servers  # noqa: E402

from .fake_comfyui import FakeComfyUI  # noqa: E402
from .odd_pictures import bomb, noise, talkative  # noqa: E402
from .rows import graph, picture, table  # noqa: E402

ROWS = [{"seed": seed} for seed in range(4)]
WHOLE = picture(2)[0].data
NOISE = noise()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits as long as a user would."""
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(answers, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(serving, "RECORD_SECONDS", 0.2)


def go(out: Path, *urls: str, rows: Any = ROWS, **more: Any) -> Summary:
    with Servers(urls, patience=more.pop("patience", 5)) as servers:
        return run(rows, graph(), servers, out, progress=False, **more)


PAGE = b"<html><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("data", "kind", "status", "words", "again"),
    [
        (NOISE[:40], "image/png", 200, "is a picture that is cut off at its", True),
        (NOISE[:500], "image/png", 200, "is a broken picture", True),
        (WHOLE[:-12], "image/png", 200, "is a picture that is cut off", True),
        (b"", "image/png", 200, "is an empty file", True),
        (PAGE, "image/png", 200, "is no picture: it begins with", True),
        (PAGE, "text/html", 200, "gives a web page for '2.png'", True),
        (b"oh", "text/plain", 500, "answers 500 Internal Server Error when it is asked for", True),
        (b"", "text/plain", 404, "does not give out '2.png'", True),
        (bomb(), "image/png", 200, "pixels, and up to 134217728 in all are read", False),
        (talkative(), "image/png", 200, "is a broken picture", True),
    ],
    ids=["half", "most", "end", "nothing", "page", "html", "500", "404", "bomb", "text"],
)
def test_a_picture_that_is_not_whole_fails_its_row_until_it_is(
    data: bytes, kind: str, status: int, words: str, again: bool, tmp_path: Path
) -> None:
    with FakeComfyUI() as server:
        server.odd["view"] = lambda request: (
            web.Response(body=data, content_type=kind, status=status)
            if request.query["filename"] == "2.png" else None
        )  # fmt: skip
        summary = go(tmp_path, server.url)
        assert (summary.done, summary.failed) == (3, 1)
        row = table(tmp_path, "seed")[2]
        assert row["status"] == "failed" and words in row["error"] and row["images"] == []
        assert row["again"] is again and "\n" not in row["error"]
        assert len(server.drawn) == 4
        server.odd.clear()
        summary = go(tmp_path, server.url, retry_failed=not again)
        assert (summary.done, summary.failed) == (4, 0) and len(server.drawn) == 5
    assert table(tmp_path, "seed")[2]["pixels_sha256"] == [picture(2)[0].digest]


def test_an_answer_is_asked_for_again_before_its_row_fails(tmp_path: Path) -> None:
    asked: list[str] = []

    def once(request: web.Request) -> web.Response | None:
        asked.append(request.path_qs)
        return web.Response(text="[", status=500) if asked.count(request.path_qs) == 1 else None

    with FakeComfyUI() as server:
        server.odd = {"view": once, "history": once}
        assert go(tmp_path, server.url).done == 4
        assert len(server.drawn) == 4


def test_a_row_of_an_odd_server_goes_to_another(tmp_path: Path) -> None:
    with FakeComfyUI(seconds=0.02) as good, FakeComfyUI() as odd:
        odd.odd["view"] = lambda request: web.Response(text="?")
        summary = go(tmp_path, odd.url, good.url)
        assert summary.done >= 3 and len(table(tmp_path, "seed")) == 4
        odd.odd.clear()
        assert go(tmp_path, odd.url, good.url).done == 4


ODD_JSON = [
    "", "{", "[]", "null", "[" * 100_000, "1e999", "9" * 5000, '"\\ud800"', "<html>", "\x00",
    '{"queue_running": 1, "queue_pending": [[]]}', '{"outputs": []}',
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_JSON, ids=[str(number) for number in range(len(ODD_JSON))])
def test_a_history_that_is_none_fails_its_row(text: str, tmp_path: Path) -> None:
    def some(request: web.Request) -> web.Response | None:
        name = request.path.rpartition("/")[2]
        shown = next(iter(server._history.get(name, {}).get("outputs", {"": 0}).values()))
        first = shown and shown["images"][0]["filename"] == "1.png"
        return web.Response(text=text, content_type="application/json") if first else None

    with FakeComfyUI() as server:
        server.odd["history"] = some
        if text == '{"queue_running": 1, "queue_pending": [[]]}':
            server.deaf = {1}  # so that the queue is asked
            server.odd["queue"] = lambda request: web.Response(text=text)
            server.odd.pop("history")
            server._history = Forgetful(2)
        summary = go(tmp_path, server.url)
        assert summary.done + summary.failed == 4 and summary.failed <= 1
        if summary.failed:
            assert "the server " in table(tmp_path, "seed")[1]["error"]
        server.odd.clear()
        assert go(tmp_path, server.url).done == 4


class Forgetful(dict):  # type: ignore[type-arg]
    """A history that has an entry only when it is asked for it often enough."""

    def __init__(self, misses: int) -> None:
        super().__init__()
        self.misses = misses

    def __contains__(self, name: object) -> bool:
        self.misses -= 1
        return self.misses < 0 and super().__contains__(name)


@pytest.mark.parametrize(
    ("outputs", "status"),
    [
        ({"9": {"images": [{"filename": None, "type": "output"}]}}, "failed"),
        ({"9": {"images": [{"filename": "a.p\0ng", "type": "output"}]}}, "failed"),
        ({"9": {"images": [{"filename": "a.\udcff", "type": "output"}]}}, "failed"),
        ({"9": {"images": [{"filename": {"a": 1}, "type": "output"}]}}, "failed"),
        ({"9": {"images": [{"filename": "2.png", "type": "output", "subfolder": 7}]}}, "failed"),
        ({"9": {"images": [{"filename": "2.png/../../x", "type": "output"}]}}, "done"),
        ({"9": {"images": [{"filename": "2.png", "type": ["output"]}]}}, "done"),
        ({"9": {"images": [3, None, [], {"filename": "x"}]}, "8": [], "²": None}, "done"),
        ({"9": {"images": [{"filename": "2.png", "type": "output"}] * 5000}}, "failed"),
        ([], "failed"),
        (None, "failed"),
    ],
)
def test_outputs_of_any_form_are_pictures_or_a_failed_row(
    outputs: Any, status: str, tmp_path: Path
) -> None:
    with FakeComfyUI() as server:
        server.outputs[1] = outputs
        summary = go(tmp_path, server.url)
        assert summary.done + summary.failed == 4
        row = table(tmp_path, "seed")[1]
        assert row["status"] == status
        assert {path.parent.name for path in tmp_path.rglob("*_*")} <= {"images"}
        if status == "failed":
            assert row["error"].isprintable() and len(row["error"]) <= 500


def test_frames_of_any_kind_on_the_websocket_are_passed_over(tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        frames = ["", "{", "[]", "[" * 50_000, "null", '{"type": 1}', '{"type": "status"}',
                  '{"type": "executing", "data": []}', '{"type": "x", "data": {"prompt_id": []}}',
                  b"", b"\x00" * 100, b"\xff\xfe<html>"]  # fmt: skip
        server.chatter = frames
        assert go(tmp_path, server.url).done == 4


@pytest.mark.parametrize("name", [None, 7, [], "", "../../queue", "a b", "x" * 1000])
def test_a_row_without_a_usable_name_fails(name: Any, tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        server.odd["prompt"] = lambda request: web.json_response({"prompt_id": name})
        summary = go(tmp_path, server.url)
        assert summary.failed == 4
        assert "takes the row and gives it no name" in table(tmp_path, "seed")[0]["error"]


def test_what_a_server_refuses_with_is_told_in_any_form(tmp_path: Path) -> None:
    said = [
        {"error": "plain"}, {"error": {"message": "m\n\0", "details": ["d"]}}, [], {"error": None},
        {"node_errors": [1]}, {"node_errors": {"9": None}}, {"node_errors": {"9": {"errors": 3}}},
    ]  # fmt: skip
    rows = [{"seed": seed} for seed in range(len(said))]

    async def refuse(request: web.Request) -> web.Response:
        seed = (await request.json())["prompt"]["8"]["inputs"]["seed"]
        return web.json_response(said[seed], status=400)

    with FakeComfyUI() as server:
        server.odd["prompt"] = refuse
        assert go(tmp_path, server.url, rows=rows).failed == len(said)
    for row in table(tmp_path, "seed").values():
        assert row["error"].startswith("ComfyUI refuses the row: ") and row["error"].isprintable()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (web.Response, "answers 500"),
        (lambda: web.Response(text="<html>", content_type="text/html"), "is no JSON"),
        (lambda: web.json_response([]), "is no ComfyUI"),
        (lambda: web.Response(status=302, headers={"Location": "http://other/"}),
         "sends one on to 'http://other/'"),
        (lambda: web.Response(status=503), "does not answer"),
        (lambda: web.Response(body=b"[" * 100_000), "levels deep"),
    ],
)  # fmt: skip
def test_what_is_no_comfyui_is_told_at_the_start(answer: Any, words: str, tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        made = answer if answer is not web.Response else (lambda: web.Response(status=500))
        server.odd["object_info"] = lambda request: made()
        with pytest.raises(RunnerError, match=words) as refusal:
            go(tmp_path, server.url)
        assert "\n" not in str(refusal.value)


def test_a_server_that_answers_pages_everywhere_is_told_and_the_run_goes_on_later(
    tmp_path: Path,
) -> None:
    def page(request: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/html")

    with FakeComfyUI() as server:
        server.odd = dict.fromkeys(("prompt", "history", "queue", "view"), page)
        summary = go(tmp_path, server.url)
        assert summary.failed == 4
        server.odd["ws"] = page
        with pytest.raises(RunnerError, match="No server has answered for 1 s .*answers 200"):
            go(tmp_path, server.url, patience=1)
        server.odd.clear()
        assert go(tmp_path, server.url).done == 4


def test_descriptions_of_any_form_are_left_out_where_they_are_none(tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        info: dict[str, Any] = json.loads(json.dumps(server.info))
        info["Load"]["input"]["required"]["name"] = []
        info["Sampler"]["input"]["optional"] = 3
        info["Sampler"]["input"]["required"]["seed"] = ["INT", {"min": "a", "max": None}]
        info["Sampler"]["input"]["required"]["cfg"] = {"a": 1}
        info["Other"] = {"max": 10**30}  # of a pack that no row needs
        info["Encode"] = None

        def describe(request: web.Request) -> web.Response:
            name = request.path.split("/")[-1]
            return web.json_response(info if name == "object_info" else {name: info[name]})

        server.odd["object_info"] = describe
        with pytest.raises(RunnerError, match="class 'Encode'"):
            go(tmp_path, server.url)
        info["Encode"] = {"input": {"required": {"text": "x"}}}
        rows = [{"seed": 2**64 - 1, "cfg": 2, "1.name": "z", "4.text": "t"}]
        assert go(tmp_path, server.url, rows=rows).done == 1


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(10_000):
        await answer.write(b" " * (1 << 16))
    return answer


def test_an_answer_without_an_end_is_left_and_a_slow_one_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LARGEST_FILE", 1 << 20)
    monkeypatch.setattr(answers, "MOST_TIMES", 1)
    with FakeComfyUI() as server:
        server.odd["view"] = _endless
        start = time.monotonic()
        assert go(tmp_path, server.url, rows=ROWS[:1]).failed == 1
        assert "answers more than 1048576 bytes" in table(tmp_path, "seed")[0]["error"]
        assert time.monotonic() - start < 3


async def _trickle(request: web.Request) -> web.StreamResponse:
    import asyncio

    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(100):
        await answer.write(b" ")
        await asyncio.sleep(0.05)
    return answer


def test_a_trickle_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 0.3)
    with FakeComfyUI() as server:
        server.odd["view"] = _trickle
        assert go(tmp_path, server.url, rows=ROWS[:1]).failed == 1
        assert "no answer within" in table(tmp_path, "seed")[0]["error"]


def test_random_answers_lose_no_row(tmp_path: Path) -> None:
    """Seeded: every answer of a server is now and then another one, or broken bytes."""
    chance = random.Random(7)
    pieces = [b"", b"{", b"[]", b"null", b"<html>", b"\xff\x00", b'{"outputs": {}}', WHOLE[:40]]

    def now_and_then(request: web.Request) -> web.Response | None:
        if chance.random() > 0.3:
            return None
        status = chance.choice([200, 200, 204, 301, 403, 404, 418, 500])
        kind = chance.choice(["application/json", "image/png", "text/html"])
        return web.Response(body=chance.choice(pieces), status=status, content_type=kind)

    rows = [{"seed": seed} for seed in range(40)]
    with FakeComfyUI() as server:
        server.odd = dict.fromkeys(("view", "history", "queue", "prompt"), now_and_then)
        server.chatter = ["{", b"\x00"]
        summary = go(tmp_path, server.url, rows=rows)
        assert summary.done + summary.failed == 40 and summary.failed
        server.odd.clear()
        assert go(tmp_path, server.url, rows=rows, retry_failed=True).done == 40
    for seed, row in table(tmp_path, "seed").items():
        if row["images"]:
            assert row["pixels_sha256"] == [picture(seed)[0].digest]


def test_a_user_in_an_address_is_not_kept(tmp_path: Path) -> None:
    with FakeComfyUI() as server:
        go(tmp_path, server.url.replace("http://", "http://me:secret@"))
        assert table(tmp_path, "seed")[0]["worker"] == server.url
    with pytest.raises(RunnerError, match="no address"):
        Servers(["http://a:1/?b#c"])


def test_pictures_within_bounds_of_all_kinds_have_a_hash() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (3, 5)).save(buffer, "PNG")
        assert len(pictures.pixel_hash(buffer.getvalue(), must=True)) == 64
    for kind in ("GIF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90, 180)]
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        assert pictures.pixel_hash(buffer.getvalue(), must=True)
        with pytest.raises(ValueError, match=r"cut off|broken|no picture"):
            pictures.pixel_hash(buffer.getvalue()[:-20], must=True)
    assert pictures.pixel_hash(b"a latent") == ""


def test_random_bytes_are_a_picture_or_refused() -> None:
    chance = random.Random(3)
    for _ in range(800):
        data = bytearray(NOISE)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            assert len(pictures.pixel_hash(bytes(data), must=True)) == 64
        except ValueError as error:
            assert type(error).__name__ == "RowError" and str(error).isprintable()
