"""The page's question on a real server: answered, or refused in a sentence before it costs much."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import time
import types
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from realcompo.balancer.comfy import routes
from realcompo.balancer.comfy.text import tokenizer as text
from realcompo.balancer.layouts.layout import LONGEST_PHRASE, MOST_REGIONS
from realcompo.balancer.values.checked import LONGEST_PROMPT

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

PROMPT = "a red star and a blue circle"
GOOD = {"prompt": PROMPT, "regions": [{"phrase": "red star", "box": [0, 0, 1, 1]}]}
Talk = Callable[[Any], Awaitable[Any]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Talk], Any]]:
    """Runs a conversation with a server that has the route and the host's own size limit."""
    table = web.RouteTableDef()
    server: Any = types.ModuleType("server")
    server.PromptServer = types.SimpleNamespace(instance=types.SimpleNamespace(routes=table))
    monkeypatch.setitem(sys.modules, "server", server)
    assert routes.register()
    assert [(route.method, route.path) for route in table] == [("POST", "/realcompo/match")]
    text.encode_prompt("a")  # the tokenizer is not what is timed

    def run(talk: Talk) -> Any:
        async def all_of_it() -> Any:
            app = web.Application(client_max_size=100 << 20)
            app.add_routes(table)
            async with TestClient(TestServer(app)) as client:
                return await talk(client)

        return asyncio.run(all_of_it())

    yield run


async def post(client: Any, body: Any, **options: Any) -> tuple[int, dict[str, Any], float]:
    """Status, the answer's JSON and the seconds until it came."""
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    start = time.perf_counter()
    async with client.post(routes.MATCH, data=data, **options) as reply:
        return reply.status, await reply.json(), time.perf_counter() - start


def test_a_good_question_is_answered(served: Callable[[Talk], Any]) -> None:
    status, answer, _ = served(lambda client: post(client, GOOD))
    assert status == 200 and answer["regions"][0]["found"]
    pages_own = json.dumps(GOOD).encode("utf-8")
    typed = {"Content-Type": "application/json; charset=klingon"}
    assert served(lambda client: post(client, pages_own, headers=typed))[0] == 200


def mask(side: int) -> dict[str, Any]:
    """A mask of the largest shape in the fewest letters."""
    data = base64.b64encode(zlib.compress(b"\xff" * side * side, 9)).decode()
    return {"height": side, "width": side, "data": data}


ODD = [
    b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe\x00", b"{}", b'{"regions": {}}',
    b'{"regions": [], "regions": []}', b'{"regions": [NaN]}', b'{"regions": [], "width": 1e309}',
    b'{"regions": [], "width": 1' + b"0" * 400 + b"}", b"[" * 100_000, 
    b'{"regions": ' + b"[" * 9999,
    b'{"regions": [], "prompt": "\\ud800"}', b'{"regions": [], "prompt": ["x"]}',
    b'{"regions": [{"phrase": 1, "box": [0, 0, 1, 1]}]}', b'{"regions": [null]}',
    b'{"regions": [{"phrase": "x", "box": [0, 0, 1e400, 1]}]}',
    b'{"regions": [{"phrase": "x", "box": [true, 0, 1, 1]}]}',
    b'{"regions": [{"phrase": "x", "box": [0, 0, 1, 1], "tokens": [-1]}]}',
    b'{"regions": [{"phrase": "x", "box": [0, 0, 1, 1], "tokens": [1' + b"0" * 19 + b"]}]}",
    b'{"regions": [{"phrase": "x", "box": [0, 0, 1, 1], "occurrence": 1.5}]}',
    b'{"schema": 99, "regions": []}',
]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_odd_json_is_answered_400_with_a_sentence(
    served: Callable[[Talk], Any], body: bytes
) -> None:
    status, answer, seconds = served(lambda client: post(client, body))
    assert status == 400 and answer["error"].endswith(".") and len(answer["error"]) < 1400
    assert seconds < 1


def with_phrases(*phrases: str, prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    regions = [{"phrase": phrase, "box": [0, 0, 1, 1], **more} for phrase in phrases]
    return {"prompt": prompt, "regions": regions}


LARGE = [
    (413, {"regions": [], "prompt": "x" * (2 << 20)}),
    (413, with_phrases("x" * (5 << 20))),
    (400, {"regions": [], "prompt": "x" * (LONGEST_PROMPT + 1)}),
    (400, with_phrases("x" * (LONGEST_PHRASE + 1))),
    (400, with_phrases(*(f"{n} " + "red " * 200 for n in range(500)))),
    (400, with_phrases(*["x"] * (MOST_REGIONS + 1))),
    (400, {"regions": [0] * 300_000}),
    (400, with_phrases(*["x"] * (1 << 14)) | {"prompt": ""}),
]


@pytest.mark.parametrize(("status", "body"), LARGE, ids=range(len(LARGE)))
def test_what_is_too_large_is_refused_at_once(
    served: Callable[[Talk], Any], status: int, body: Any
) -> None:
    got, answer, seconds = served(lambda client: post(client, body))
    assert got == status and "p to" in answer["error"]
    assert seconds < 1


def test_masks_are_not_unpacked(served: Callable[[Talk], Any]) -> None:
    bombs = with_phrases("red star", "blue circle", mask=mask(4096))
    for region in bombs["regions"]:
        region["mask"]["height"] = region["mask"]["width"] = 16384
    status, answer, seconds = served(lambda client: post(client, bombs))
    assert status == 200 and all(entry["found"] for entry in answer["regions"])
    assert seconds < 1


def test_a_body_without_length_or_packed_is_cut_off(served: Callable[[Talk], Any]) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 200 << 20:
            sent += 1 << 16
            yield b" " * (1 << 16)

    async def pour(client: Any) -> int:
        try:
            async with client.post(routes.MATCH, data=endless()) as reply:
                return reply.status
        except aiohttp.ClientError:  # the server closed while we were still sending
            return 413

    assert served(pour) == 413 and sent < 100 << 20
    packed = zlib.compress(json.dumps(GOOD).encode())
    headers = {"Content-Encoding": "deflate"}
    assert served(lambda client: post(client, packed, headers=headers))[0] == 415


def test_a_broken_embedding_is_a_sentence_too(
    served: Callable[[Talk], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> Any:
        raise KeyError("string_to_param")

    monkeypatch.setattr(text, "encode_prompt", broken)
    status, answer, _ = served(lambda client: post(client, GOOD))
    assert status == 400 and "embeddings" in answer["error"]


def test_a_crowd_waits_in_a_short_row_and_the_server_goes_on(
    served: Callable[[Talk], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released, running = threading.Event(), []

    def slow(body: bytes) -> str:
        running.append(threading.current_thread().name)
        assert released.wait(20)
        return json.dumps({"regions": []})

    monkeypatch.setattr(routes, "answer_text", slow)
    threads = threading.active_count()

    async def crowd(client: Any) -> list[int]:
        asked = [asyncio.ensure_future(post(client, GOOD)) for _ in range(200)]
        # Those that are refused come back while the others still wait.
        while sum(one.done() for one in asked) < 200 - routes.MOST_WAITING:
            await asyncio.sleep(0.01)
        assert threading.active_count() - threads <= 3 and len(running) == 1
        released.set()
        return sorted([(await one)[0] for one in asked] + [(await post(client, GOOD))[0]])

    statuses = served(crowd)
    assert statuses == [200] * (routes.MOST_WAITING + 1) + [503] * (200 - routes.MOST_WAITING)
    assert len(set(running)) == 1


def test_the_tokenizer_is_made_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(**_: Any) -> object:
        time.sleep(0.05)
        made.append(1)
        return object()

    monkeypatch.setattr(text, "_tokenizer", None)
    monkeypatch.setattr(text.comfy.sd1_clip, "SDTokenizer", make)
    threads = [threading.Thread(target=text.clip_tokenizer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
