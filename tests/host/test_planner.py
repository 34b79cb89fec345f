"""RealCompo Layout Planner against a server that speaks the protocol: well, badly, hostile."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import comfy.model_management as management
import pytest
from realcompo.balancer.comfy.llm import chat, http_post, planning
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout
from realcompo.balancer.llm.endpoint import read_endpoint
from realcompo.balancer.planner.answer import LAYOUT_PROMPT
from realcompo.nodes.planner import RealCompoLayoutFromText, RealCompoPlannerRequest

from . import llm_server as llm

PROMPT = "a red star to the left of a blue circle"
STAR = {"phrase": "a red star", "box": [0.1, 0.2, 0.4, 0.6]}
CIRCLE = {"phrase": "a blue circle", "box": [0.5, 0.2, 0.9, 0.6]}
GOOD = json.dumps({"regions": [STAR, CIRCLE]})
KEY = "sk-SECRET-0123456789"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[llm.Server]:
    planning.forget_plans()
    monkeypatch.setattr(http_post, "FIRST_PAUSE", 0.01)
    management.interrupt_current_processing(False)
    with llm.serving() as running:
        running.say(GOOD)
        yield running
    management.interrupt_current_processing(False)


def plan(server: llm.Server, **changes: Any) -> tuple[Layout, str, list[str]]:
    """What the node gives; the report in lines."""
    inputs = {"prompt": PROMPT, "endpoint": server.url, "model": "tiny", "seed": 3, **changes}
    layout, prompt, report = RealCompoLayoutFromText().plan(**inputs)
    return layout, prompt, report.splitlines()


def refused(server: llm.Server, **changes: Any) -> RealCompoError:
    with pytest.raises(RealCompoError) as caught:
        plan(server, **changes)
    assert caught.value.node == "RealCompo Layout Planner"
    assert caught.value.__cause__ is None and "\n" not in str(caught.value)
    return caught.value


def test_a_good_server_is_asked_once_by_the_protocol(server: llm.Server) -> None:
    layout, prompt, report = plan(server, width=768, height=512)
    assert [region.phrase for region in layout.regions] == ["a red star", "a blue circle"]
    assert layout.regions[0].box == (0.1, 0.2, 0.4, 0.6) and layout.regions[0].tokens is None
    assert (layout.prompt, layout.width, layout.height) == (PROMPT, 768, 512) and prompt == PROMPT
    assert report == ["2 regions by the model 'tiny'"]
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["content-type"] == "application/json"
    assert "authorization" not in asked.headers and "cookie" not in asked.headers
    assert asked.body["model"] == "tiny" and asked.body["seed"] == 3
    assert asked.body["stream"] is False and asked.format == "json_schema"
    assert asked.body["response_format"]["json_schema"]["strict"] is True


def test_the_same_inputs_are_asked_once_and_another_seed_again(server: llm.Server) -> None:
    first, _, _ = plan(server)
    again, _, report = plan(server)
    assert again == first and len(server.asked) == 1
    assert "same inputs as before" in report[-1]
    plan(server, seed=4)
    plan(server, prompt=PROMPT + ", photo")
    plan(server, model="other")
    assert len(server.asked) == 4
    # The host, too, only runs the node when an input changes.
    assert not hasattr(RealCompoLayoutFromText, "IS_CHANGED")


def test_failures_are_not_remembered(server: llm.Server) -> None:
    server.say("no", "no", GOOD)
    assert refused(server).where == "model"
    assert len(plan(server)[0].regions) == 2


def test_a_64_bit_seed_becomes_one_that_servers_read(server: llm.Server) -> None:
    plan(server, seed=2**64 - 1)
    assert 0 <= server.asked[0].body["seed"] < 2**31


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}],
        f"<think>hm</think>```json\n{GOOD}\n```",
        GOOD,
    ],
)
def test_ways_to_send_content(server: llm.Server, content: Any) -> None:
    server.say(llm.text(content, reasoning_content="..."))
    assert len(plan(server)[0].regions) == 2 and len(server.asked) == 1


def test_the_type_that_a_server_claims_does_not_matter(server: llm.Server) -> None:
    body = json.dumps({"choices": [{"message": {"content": GOOD}}]}).encode()
    server.say(llm.raw(body, Content_Type="text/plain; charset=latin-1"))
    assert len(plan(server)[0].regions) == 2


def test_a_server_without_schemas_is_asked_for_less_and_the_report_says_so(
    server: llm.Server,
) -> None:
    def picky(handler: llm.Handler, asked: llm.Asked) -> None:
        if asked.format:
            handler.reply(400, b'{"error": {"message": "response_format is not supported"}}')
        else:
            llm.text(GOOD)(handler, asked)

    server.say(picky)
    layout, _, report = plan(server)
    assert [asked.format for asked in server.asked] == ["json_schema", "json_object", ""]
    assert len(layout.regions) == 2
    assert sum("refused" in line for line in report) == 2


def test_a_server_without_seeds_is_asked_without(server: llm.Server) -> None:
    server.say(llm.error(422, "extra fields not permitted: seed"), GOOD)
    _, _, report = plan(server)
    assert [("seed" in asked.body, asked.format) for asked in server.asked] == [
        (True, "json_schema"), (False, "json_schema"),
    ]  # fmt: skip
    assert any("no seed" in line for line in report)


def test_a_bad_answer_is_repaired_once(server: llm.Server) -> None:
    server.say(json.dumps({"regions": [STAR, {"phrase": "a dragon", "box": [0, 0, 1, 1]}]}), GOOD)
    layout, _, report = plan(server)
    assert len(layout.regions) == 2 and len(server.asked) == 2
    assert "a dragon" in server.asked[1].body["messages"][-1]["content"]
    assert any("told once" in line for line in report)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server: llm.Server, status: int) -> None:
    server.say(llm.error(status, "overloaded"), llm.error(status, "overloaded"), GOOD)
    assert len(plan(server)[0].regions) == 2 and len(server.asked) == 3


def test_pauses_grow_and_a_wish_to_wait_is_kept(server: llm.Server) -> None:
    server.say(llm.error(429, "slow down", Retry_After="0.4"), llm.error(503, "x"), GOOD)
    plan(server)
    first, second, third = (asked.at for asked in server.asked)
    assert second - first >= 0.4
    assert third - second >= 0.02


def test_a_server_that_stays_busy_is_named_with_its_words(server: llm.Server) -> None:
    server.say(llm.error(503, "come back\nlater"))
    said = str(refused(server))
    assert "503" in said and "come back later" in said and len(server.asked) == http_post.ATTEMPTS
    server.asked.clear()
    server.say(llm.error(429, "quota", Retry_After="86400"))
    start = time.monotonic()
    assert "86400 seconds" in str(refused(server))
    assert len(server.asked) == 1 and time.monotonic() - start < 10


def test_a_lost_connection_is_tried_again(server: llm.Server) -> None:
    server.say(llm.hang_up, GOOD)
    assert len(plan(server)[0].regions) == 2


def test_no_server_at_all(server: llm.Server) -> None:
    with llm.serving() as gone:
        url = gone.url
    error = refused(server, endpoint=url)
    assert error.where == "endpoint" and "no connection" in error.problem


@pytest.mark.parametrize(
    ("answer", "where", "said"),
    [
        (llm.error(401, "no key"), "api_key_env", "no key"),
        (llm.error(403, "no"), "api_key_env", "403"),
        (llm.error(404, "model 'tiny' not found"), "model", "not found"),
        (llm.error(400, "context too long"), "endpoint", "context too long"),
        (llm.raw(b"<html>hi</html>", 404, Content_Type="text/html"), "model", "a web page"),
        (llm.raw(b"<html>hi</html>", Content_Type="text/html"), "endpoint", "no JSON"),
        (llm.raw(b"data: {}\n\n", Content_Type="text/event-stream"), "endpoint", "event-stream"),
        (llm.raw(b""), "endpoint", "no JSON"),
        (llm.raw(b"\xff\xfe\x00"), "endpoint", "no JSON"),
        (llm.raw(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip"), "endpoint",
         "no JSON"),
        (llm.raw(b"[" * 500_000), "endpoint", "no JSON"),
        (llm.value([]), "endpoint", "choices"),
        (llm.value({"choices": []}), "endpoint", "choices"),
        (llm.value({"error": {"message": "out of memory"}}), "endpoint", "out of memory"),
        (llm.value({"choices": [{"message": None}]}), "endpoint", "choices"),
        (llm.value({"choices": {"0": 1}}), "endpoint", "choices"),
        (llm.text(None), "model", "no complete JSON"),
        (llm.text([[1], {"text": 5}]), "model", "no complete JSON"),
        (llm.text("I won't."), "model", "no complete JSON"),
    ],
)  # fmt: skip
def test_bad_replies_are_named(
    server: llm.Server, answer: llm.Answer, where: str, said: str
) -> None:
    server.say(answer)
    error = refused(server)
    assert error.where == where and said in error.problem
    assert len(str(error)) < 700


def test_a_reply_without_end_is_cut_off(server: llm.Server) -> None:
    stop = threading.Event()
    server.say(llm.drip(stop))
    try:
        assert "longer than" in str(refused(server))
    finally:
        stop.set()


def test_a_slow_server_runs_into_the_timeout(server: llm.Server) -> None:
    released = threading.Event()
    server.say(llm.slow(60, released))
    start = time.monotonic()
    try:
        error = refused(server, timeout=1.0)
    finally:
        released.set()
    assert error.where == "timeout" and time.monotonic() - start < 20
    assert len(server.asked) == 1


@pytest.mark.parametrize("state", ["waiting for the answer", "between two attempts"])
def test_the_stop_button_works_while_waiting(
    server: llm.Server, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    if state.startswith("waiting"):
        server.say(llm.slow(60, released))
    else:
        server.say(llm.error(429, "wait", Retry_After="29"))

    def press() -> None:
        while not server.asked:
            time.sleep(0.02)
        time.sleep(0.2)
        management.interrupt_current_processing()

    button = threading.Thread(target=press)
    button.start()
    start = time.monotonic()
    try:
        with pytest.raises(management.InterruptProcessingException):
            plan(server)
    finally:
        released.set()
        button.join()
    assert time.monotonic() - start < 20
    assert not management.processing_interrupted()
    server.say(GOOD)
    assert len(plan(server)[0].regions) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused_and_nothing_follows_them(
    server: llm.Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANNER_TEST_KEY", KEY)
    with llm.serving() as elsewhere:
        elsewhere.say(GOOD)
        server.say(llm.redirect(status, elsewhere.url))
        error = refused(server, api_key_env="PLANNER_TEST_KEY")
        assert error.where == "endpoint" and "another host" in error.problem
        assert not elsewhere.asked and len(server.asked) == 1
    server.say(llm.redirect(status, "/elsewhere"))
    assert "of its own" in refused(server).problem


def test_the_key_travels_to_the_endpoint_only_and_is_never_told(
    server: llm.Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANNER_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    layout, prompt, report = plan(server, api_key_env="PLANNER_TEST_KEY")
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    told = [layout.to_json(), prompt, *report, repr(server.asked[0].body)]
    # A server that quotes the key in whatever it says must not make us repeat it.
    for number, answer in enumerate((
        llm.error(401, f"wrong key {KEY}, {KEY}"),
        llm.error(503, f"busy {KEY}"),
        llm.raw(f"<p>{KEY}</p>".encode(), 403),
        llm.redirect(302, f"http://evil.example/?{KEY}"),
        llm.text(json.dumps({"regions": [{"phrase": KEY, "box": [0, 0, 1, 1]}]})),
    )):  # fmt: skip
        server.say(answer)
        told.append(str(refused(server, api_key_env="PLANNER_TEST_KEY", seed=10 + number)))
    told += [record.getMessage() for record in caplog.records]
    assert not [line for line in told if KEY in line or "SECRET" in line]
    connection = http_post.Connection(read_endpoint(server.url), 1.0, KEY)
    assert KEY not in repr(chat.ChatClient(connection, "m", 1, LAYOUT_PROMPT, "layout"))


def test_a_key_does_not_leave_for_a_host_that_the_workflow_chose(
    server: llm.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(
        chat.ChatClient, "ask", lambda *_: pytest.fail("the request was about to be sent")
    )
    error = refused(server, endpoint="https://evil.example/v1", api_key_env="OPENAI_API_KEY")
    assert error.where == "api_key_env" and KEY not in str(error)


def test_environment_proxies_get_nothing(
    server: llm.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with llm.serving() as proxy:
        proxy.say(GOOD)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        plan(server)
        assert len(server.asked) == 1 and not proxy.asked


def test_a_pasted_answer_needs_no_server(server: llm.Server) -> None:
    layout, _, report = plan(server, llm_output=GOOD, endpoint="", model="")
    assert len(layout.regions) == 2 and not server.asked
    assert report == ["2 regions from the text in 'llm_output'"]
    assert refused(server, llm_output="what?").where == "llm_output"


def test_rules_need_no_server_either(server: llm.Server) -> None:
    layout, _, report = plan(server, method="rules", endpoint="", model="", llm_output="x")
    star, circle = layout.regions
    assert (star.phrase, circle.phrase) == ("a red star", "a blue circle")
    assert star.box[2] <= circle.box[0]
    assert not server.asked and "by rules" in report[0] and "not read" in report[0]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"prompt": " \n"}, "prompt"),
        ({"endpoint": "ftp://x"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
        ({"model": " "}, "model"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "api_key_env"),
        ({"method": "magic"}, "method"),
        ({"method": "rules", "prompt": "..."}, "prompt"),
    ],
)
def test_inputs_that_cannot_be_meant(
    server: llm.Server, changes: dict[str, Any], where: str
) -> None:
    assert refused(server, **changes).where == where
    assert not server.asked


def test_the_node_works_inside_the_hosts_own_event_loop(server: llm.Server) -> None:
    import asyncio

    async def host() -> Any:
        return plan(server)

    assert len(asyncio.run(host())[0].regions) == 2


def test_the_request_for_other_text_nodes() -> None:
    request, prompt = RealCompoPlannerRequest().write(PROMPT, 640, 480)
    assert prompt == PROMPT and PROMPT in request and '"width": 640' in request
    with pytest.raises(RealCompoError, match="RealCompo Planner Request, input 'prompt'"):
        RealCompoPlannerRequest().write("")


@pytest.mark.parametrize(
    "prompt",
    [
        "a red star to the left of two (blue circles:1.3), digital art",
        "A big, red ball and a black and white cat, 8k",
        "an oil painting of a red-haired woman's dog, the dog's bowl in front of it",
        "two dogs left of a cat, two dogs right of a bird, a cat above them",
        "photo of 3 apples (in the top left corner), (((a cup of tea))) at the bottom",
    ],
)
def test_every_planned_phrase_is_found_by_the_prompts_tokenizer(prompt: str) -> None:
    from realcompo.balancer.attention.tokens import resolve_tokens
    from realcompo.balancer.comfy.text.tokenizer import encode_prompt

    layout, _, _ = RealCompoLayoutFromText().plan(prompt, "", "", 0, method="rules")
    tokens = resolve_tokens(layout, encode_prompt(prompt), encode_prompt)
    assert len(layout.regions) >= 2 and all(tokens)
    mentions = {(region.phrase, region.occurrence) for region in layout.regions}
    assert len(set(tokens)) == len(mentions)
