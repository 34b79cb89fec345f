"""A run that a page watches: what it is sent, and that nobody pays where nobody looks."""

from __future__ import annotations

import sys
import time
from base64 import b64decode
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset
from torch.overrides import TorchFunctionMode

from . import pair, tiny

STEPS = 5


class Server:
    """What the host's server is to a sender."""

    def __init__(self, client: str | None = "page", connected: bool = True) -> None:
        self.client_id = client
        self.sockets = {"page": object()} if connected else {}
        self.sent: list[tuple[str, dict[str, Any], str]] = []

    def send_sync(self, event: str, data: dict[str, Any], sid: str) -> None:
        self.sent.append((event, data, sid))


class Transfers(TorchFunctionMode):
    """Counts what takes values off a device."""

    NAMES = ("cpu", "item", "tolist", "numpy", "__float__", "__bool__", "__int__")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def run(models: Any, server: Server | None, monkeypatch: Any, node: str | None = "7") -> Any:
    """A balanced run; returns the guider, the result and the transfers before it ended."""
    instance = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", instance)
    monkeypatch.delitem(sys.modules, "comfy_execution.progress", raising=False)
    guider = pair.guider(*models, preset("paper", spatial_only=0.4))
    guider.node_id = node
    with Transfers() as transfers:
        out = pair.run(guider, tiny.latent_noise(5, batch=2), steps=STEPS)
    return guider, out, transfers.seen


def test_every_step_is_sent_to_the_page_that_started_the_run(models, monkeypatch) -> None:
    server = Server()
    guider, _, _ = run(models, server, monkeypatch)
    assert [(event, sid) for event, _, sid in server.sent] == [("realcompo.progress", "page")] * 5
    messages = [data for _, data, _ in server.sent]
    assert [message["step"] for message in messages] == list(range(STEPS))
    assert {message["node"] for message in messages} == {"7"}
    assert {message["steps"] for message in messages} == {STEPS}
    assert len({message["run"] for message in messages}) == 1
    assert [message["phase"] for message in messages] == ["spatial"] * 2 + ["balance"] * 3
    assert [region["box"] for region in messages[0]["regions"]] == [list(b) for b in pair.BOXES]
    for message, record in zip(messages, guider.trace.steps, strict=True):
        mix = torch.frombuffer(bytearray(b64decode(message["mix"]["data"])), dtype=torch.uint8)
        expected = record.mix[0].flatten()
        torch.testing.assert_close(mix.float() / 255, expected, atol=0.6 / 255, rtol=0)
        assert bool(message["models"]) == (record.phase == "balance")
        for name, seen in message["models"].items():
            shares = getattr(record, f"shares_{name}")[0].tolist()
            assert seen["shares"] == pytest.approx(shares, abs=1e-5)


def test_one_transfer_a_step_and_none_where_nobody_looks(models, monkeypatch) -> None:
    _, plain, alone = run(models, None, monkeypatch)
    server = Server()
    _, watched, seen = run(models, server, monkeypatch)
    assert torch.equal(plain, watched)
    extra = seen - alone
    assert extra["cpu"] == STEPS
    # what is read after the transfer lies on the CPU already
    assert set(extra) <= {"cpu", "numpy", "tolist"} and not alone - seen
    for deaf in (Server(connected=False), Server(client=None), Server(client="another")):
        _, out, quiet = run(models, deaf, monkeypatch)
        assert quiet == alone and deaf.sent == [] and torch.equal(out, plain)
    unshown = Server()
    assert run(models, unshown, monkeypatch, node=None)[2] == alone
    assert unshown.sent == []


def test_watching_costs_next_to_nothing(models, monkeypatch) -> None:
    """Below 2 % of a balanced step of even these models; processor time, so that it can be held
    on a busy machine."""
    from realcompo.balancer.comfy.realcompo.live import LiveReporter

    spent = [0.0]
    show = LiveReporter.show

    def timed(self: LiveReporter, record: Any) -> None:
        start = time.thread_time()
        show(self, record)
        spent[0] += time.thread_time() - start

    monkeypatch.setattr(LiveReporter, "show", timed)
    instance = SimpleNamespace(PromptServer=SimpleNamespace(instance=Server()))
    monkeypatch.setitem(sys.modules, "server", instance)
    shares = {}
    for node in ("7", None):
        guider = pair.guider(*models, preset("paper", spatial_only=0.0))
        guider.node_id = node
        pair.run(guider, tiny.latent_noise(5), steps=2)
        spent[0], start = 0.0, time.thread_time()
        pair.run(guider, tiny.latent_noise(5), steps=12)
        shares[node] = spent[0] / (time.thread_time() - start)
    print(shares)
    assert 0.0 < shares[None] < 0.001
    assert shares["7"] < 0.02


def test_a_page_that_comes_back_gets_the_rest_of_the_run(models, monkeypatch) -> None:
    server = Server(connected=False)
    guider = pair.guider(*models, preset("paper", spatial_only=0.0))
    guider.node_id = "7"
    instance = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", instance)

    def callback(step: int, *_: Any) -> None:
        if step == 2:
            server.sockets["page"] = object()

    pair.run(guider, tiny.latent_noise(5), steps=STEPS, callback=callback)
    assert [data["step"] for _, data, _ in server.sent] == [3, 4]
    assert server.sent[0][1]["regions"]


def test_a_run_inside_a_node_that_another_made_is_shown_on_the_users(models, monkeypatch) -> None:
    import types

    made = types.ModuleType("comfy_execution.progress")
    prompt = SimpleNamespace(get_display_node_id=lambda node: node.partition(".")[0])
    made.get_progress_state = lambda: SimpleNamespace(dynprompt=prompt)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy_execution.progress", made)
    from realcompo.balancer.comfy.realcompo.live import display_node

    assert display_node("12.0.3") == "12"


def test_the_trace_holds_both_models_maps_and_their_shares(models, monkeypatch) -> None:
    guider, _, _ = run(models, None, monkeypatch)
    balanced = [record for record in guider.trace.steps if record.phase == "balance"]
    assert len(balanced) == 3
    for record in guider.trace.steps:
        for name in ("realism", "spatial"):
            maps = getattr(record, f"maps_{name}")
            assert (maps is not None) == (record in balanced)
            if maps is None:
                continue
            height, width = maps.shape[-2:]
            assert maps.shape == (2, 2, 16, 16) and maps.dtype == torch.float16
            assert maps.device.type == "cpu"
            inside = torch.zeros(2, height, width)
            for plane, (x0, y0, x1, y1) in zip(inside, pair.BOXES, strict=True):
                plane[int(height * y0) : int(height * y1), int(width * x0) : int(width * x1)] = 1.0
            values = maps.float()
            shares = (values * inside).sum(dim=(-2, -1)) / values.sum(dim=(-2, -1))
            torch.testing.assert_close(shares, getattr(record, f"shares_{name}"), atol=2e-3, rtol=0)
