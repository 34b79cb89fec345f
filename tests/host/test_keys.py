"""Where a key travels, and where it is told: requests to servers that repeat what they hear."""

from __future__ import annotations

import base64
import html
import json
import logging
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import torch
from realcompo.balancer.comfy.llm import http_post, planning
from realcompo.balancer.errors import RealCompoError
from realcompo.nodes.dense_captions import RealCompoDenseCaptions
from realcompo.nodes.planner import RealCompoLayoutFromText

from . import llm_server as llm

PROMPT = "a red star to the left of a blue circle"
STAR = {"phrase": "a red star", "box": [0.1, 0.2, 0.4, 0.6]}
GOOD = json.dumps({"regions": [STAR]})
KEY = "sk-SECRET/0123456789+Ab=="
NAME = "REALCOMPO_TEST_KEY"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[llm.Server]:
    planning.forget_plans()
    monkeypatch.setattr(http_post, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(NAME, KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with llm.serving() as running:
        running.say(GOOD)
        yield running


@pytest.fixture
def everywhere(server: llm.Server, monkeypatch: pytest.MonkeyPatch) -> llm.Server:
    """The server, to which every name and every address of the world leads."""

    async def lead(self: Any, host: str, port: int, traces: Any = None) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": server.server_address[1],
                 "family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}]  # fmt: skip

    monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", lead)
    return server


def plan(endpoint: str, **changes: Any) -> tuple[Any, str, str]:
    given = {"prompt": PROMPT, "model": "tiny", "seed": 3, "api_key_env": NAME, **changes}
    return RealCompoLayoutFromText().plan(endpoint=endpoint, **given)


def caption(endpoint: str, **changes: Any) -> tuple[Any, str, str, str]:
    given: dict[str, Any] = {
        "prompt": [PROMPT], "method": ["language model"], "missing": ["place"],
        "min_area": [0.001], "masks": [torch.ones(1, 8, 8)], "tags": ["star"],
        "endpoint": [endpoint], "model": ["tiny"], "api_key_env": [NAME], **changes,
    }  # fmt: skip
    return RealCompoDenseCaptions().build(**given)


STRANGERS = [
    "evil\u3002com", "evil\uff0ecom", "evil\uff61com", "evil\u2024com", "evil.com\u3002",
    "evil.com",
    "0x08080808", "0x8.8.8.8", "134744072", "8.8.8.8", "8.8", "010.8.8.8", "ai", "ai.", "AI",
    "gpu-box", "evil%2ecom", "%65vil.com", "evil.com%2elocal", "evil.com%00.local",
    "[2001:0:808:808::1]", "[2002:808:808::1]", "[64:ff9b::808:808]", "[::ffff:8.8.8.8]",
    "[fe80::1]", "[fe80::1%25lo]", "[::]", "169.254.169.254", "198.18.0.1", "240.0.0.1", "0.0.0.0",
    "100.64.0.1", "127.0.0.1.evil.com", "localhost.evil.com", "localhost@evil.com",
    "127.0.0.1\\@evil.com", "evil.com\\.local", "evil.com\uff0f.local", "evil.com\t",
    "\uff45\uff56\uff49\uff4c\uff0e\uff43\uff4f\uff4d", "xn--evil-com", "local", "pc.localdomain",
]  # fmt: skip


@pytest.mark.parametrize("variable", [NAME, "OPENAI_API_KEY"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_listener_gets_no_key(everywhere: llm.Server, variable: str, scheme: str) -> None:
    for host in STRANGERS:
        with pytest.raises(RealCompoError) as caught:
            plan(f"{scheme}://{host}/v1", api_key_env=variable)
        assert caught.value.where in ("endpoint", "api_key_env"), host
        assert KEY not in str(caught.value) and not everywhere.asked, host


def test_the_listener_would_hear_it(everywhere: llm.Server) -> None:
    """All names do lead there: without a key a stranger is asked, with one a neighbour."""
    plan("http://evil.com/v1", api_key_env="")
    plan("http://192.168.7.7:8000/v1")
    plan("http://[::1]/v1")
    hosts = [(one.headers["host"], one.headers.get("authorization")) for one in everywhere.asked]
    bearer = f"Bearer {KEY}"
    assert hosts == [("evil.com", None), ("192.168.7.7:8000", bearer), ("[::1]", bearer)]


def test_what_is_contacted_is_what_was_judged(everywhere: llm.Server) -> None:
    plan("http://\uff45vil.COM./v1", api_key_env="")
    assert everywhere.asked[0].headers["host"] == "evil.com"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A name server of our own: names and the addresses that it gives."""
    known: dict[str, str] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        return real(known.get(host, host), port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.mark.parametrize("host", ["pc.local", "gpu-box", "llm.lan", "llm.internal"])
def test_names_of_this_network_lead_into_this_network(
    server: llm.Server, names: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv(f"{NAME}_HOST", "gpu-box")
    url = f"http://{host}:{server.server_address[1]}/v1"
    names[host] = "127.0.0.1"
    plan(url)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for number, stranger in enumerate(("203.0.113.9", "169.254.169.254", "0.0.0.0")):
        names[host] = stranger
        with pytest.raises(RealCompoError, match="leads out of this network"):
            plan(url, seed=10 + number)
    assert len(server.asked) == 1


def test_a_server_that_is_no_proxy_gets_no_key_by_a_detour(
    server: llm.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    with llm.serving() as own:
        own.say(GOOD)
        plan(own.url)
        assert own.asked and not server.asked


Spelling = Callable[[str], str]
# What stands between the quotes of a JSON text.
WAYS: dict[str, Spelling] = {
    "as it stands": str,
    "slash": lambda key: key.replace("/", "\\/"),
    "slash by number": lambda key: key.replace("/", "\\u002f"),
    "every letter": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
    "twice": lambda key: json.dumps(json.dumps(key).replace("/", "\\/"))[1:-1],
    "an address": lambda key: urllib.parse.quote(key, safe=""),
    "an address, all": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "a web page": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "a web page by names": lambda key: html.escape(key).replace("/", "&sol;"),
    "base64": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "repr": lambda key: json.dumps(repr({"Authorization": f"Bearer {key}"}))[1:-1],
    "broken": lambda key: f"{key[:9]}\\n{key[9:]}",
    "spaced": " ".join,
}


def decoded(text: str) -> str:
    """All that a reader, a page or a curious eye could make of ``text``, one after the other."""
    out = [text]
    for decode in (
        urllib.parse.unquote,
        html.unescape,
        lambda said: said.encode("ascii", "replace").decode("unicode_escape"),
    ):
        try:
            out.append(decode(text))
        except UnicodeDecodeError:
            continue
    return "\n".join(out + ["".join(one.split()) for one in out])


def assert_untold(told: list[str]) -> None:
    hints = (
        KEY,
        KEY[:-2],
        KEY[:12],
        KEY[3:20],
        "0123456789",
        "SECRET",
        base64.b64encode(f"Bearer {KEY}".encode()).decode()[12:36],
        KEY.encode().hex(),
    )
    for line in told:
        shown = decoded(line)
        assert not [hint for hint in hints if hint in shown], line


BOTH = [(plan, way) for way in WAYS] + [(caption, way) for way in ("slash", "every letter")]


@pytest.mark.parametrize(("node", "way"), BOTH)
def test_a_server_that_repeats_the_key_is_not_repeated(
    server: llm.Server, caplog: pytest.LogCaptureFixture, way: str, node: Callable[..., Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = WAYS[way](KEY)
    body = f'"no key {echo} here"'
    bad = [{"phrase": "@ star", "box": [0, 0, 1, 1], "tag": "@ tag", "weight": 1}]
    entries = [*bad, STAR, {**STAR, "tag": "star @", "weight": 99}, {"phrase": "@", "box": ["@"]}]
    answer = json.dumps({"regions": entries}).replace("@", echo)
    told: list[str] = []
    for number, reply in enumerate((
        llm.raw(f'{{"error": {{"message": {body}}}}}'.encode(), 401),
        llm.raw(f'{{"error": {body}}}'.encode(), 503),
        llm.raw(f'{{"detail": [{{"loc": [{body}], "msg": {body}}}]}}'.encode(), 403),
        llm.raw(f'{{"message": {body}}}'.encode(), 404),
        llm.raw(f"<p>{echo}</p>".encode(), 500, Content_Type="text/html"),
        llm.raw(f"plain {echo}".encode(), 418, Content_Type="text/plain"),
        llm.raw(f"no JSON {echo}".encode(), 200),
        llm.raw(f"{'x' * 190}{echo}".encode(), 418),
        llm.raw(b"{}", Content_Type=f"text/{KEY}"),
        llm.redirect(302, f"http://evil.example/?{echo}"),
        llm.text(answer),
        llm.text(f"```json\n{answer}\n```"),
        llm.text(f"I cannot say {echo}"),
        llm.text(json.dumps({"regions": bad}).replace("@", echo)),
        llm.raw(f'{{"choices": [{{"message": {{"content": {body}}}}}]}}'.encode()),
    )):  # fmt: skip
        server.say(reply)
        seed: Any = [number] if node is caption else number
        try:
            layout, *texts = node(server.url, seed=seed)
            told += [layout.to_json(), *texts]
        except RealCompoError as error:
            assert error.__cause__ is None
            told.append(str(error))
    assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.asked)
    assert len(told) > 15 and any("***" in line for line in told)
    assert_untold(told + [record.getMessage() for record in caplog.records])


@pytest.mark.parametrize("piece", [KEY[:-1], "\\", "\\u0073", "%25", "s\n", "&amp;"])
def test_hostile_replies_do_not_take_long(server: llm.Server, piece: str) -> None:
    text = piece * ((1 << 18) // len(piece))
    for reply in (llm.raw(text.encode(), 401), llm.text(text)):
        server.say(reply)
        start = time.process_time()
        with pytest.raises(RealCompoError) as caught:
            plan(server.url)
        assert time.process_time() - start < 3 and len(str(caught.value)) < 1400
