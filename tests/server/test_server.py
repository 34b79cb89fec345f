"""The pack on a live ComfyUI: its nodes are listed, every example runs, and a stop does no harm."""

from __future__ import annotations

import base64
import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT, LiveServer, ServerError
from workflow import to_api

from .examples import (
    LOADERS,
    WORKFLOWS,
    needing_files,
    older_trainer,
    pictures,
    pixels,
    shorten,
    use_demo_models,
)

DEMO = ROOT / "workflows" / "realcompo_demo.json"
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.older_hosts] if path == DEMO else [])
    for path in WORKFLOWS
]


def _pictures(entry: dict[str, Any], server: LiveServer) -> list[Path]:
    """Files of all pictures that a run showed."""
    return [path for found in pictures(entry, server).values() for path in found]


@pytest.mark.older_hosts
def test_the_server_lists_the_packs_nodes_as_committed(object_info: dict[str, Any]) -> None:
    import node_snapshot

    ours = {
        name: info
        for name, info in object_info.items()
        if info["python_module"] == "custom_nodes.realcompo"
    }
    committed = json.loads(node_snapshot.FILE.read_text(encoding="utf-8"))
    assert node_snapshot.take(ours) == committed


@pytest.mark.older_hosts
def test_the_help_pages_and_templates_are_served(server: LiveServer) -> None:
    templates = server.get("/workflow_templates").get("realcompo", [])
    assert sorted(templates) == [path.stem for path in WORKFLOWS]
    page = server.get_text("/extensions/realcompo/docs/RealCompoDualSampler.md")
    assert page.startswith("# RealCompo Dual Sampler")


@pytest.mark.parametrize("path", EXAMPLES)
def test_every_example_runs_and_makes_pictures(
    path: Path, server: LiveServer, object_info: dict[str, Any]
) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    if older_trainer(workflow, object_info):
        pytest.skip("MADE FOR THE LATER TRAINER OF COMFYUI 0.33, AS ITS NOTE SAYS")
    graph = to_api(workflow, object_info)
    if LOADERS & {node["class_type"] for node in graph.values()}:
        with pytest.raises(ServerError) as refusal:
            server.run_prompt(needing_files(graph))
        complaints = [line for line in str(refusal.value).splitlines() if line.startswith("node ")]
        assert complaints and all("Value not in list" in line for line in complaints)
        assert all(any(f"({name})" in line for name in LOADERS) for line in complaints)
        use_demo_models(graph)
    if path != DEMO:
        shorten(graph)
    entry = server.run_prompt(graph, seconds=900)
    assert entry["status"]["status_str"] == "success"
    shown = _pictures(entry, server)
    assert shown and all(picture.stat().st_size > 100 for picture in shown)


def _short(graph: dict[str, Any], steps: int) -> dict[str, Any]:
    """The part of the demo that one RealCompo sampler needs, with another number of steps."""
    sampler = next(k for k, v in graph.items() if v["class_type"] == "RealCompoDualSampler")
    keep, front = {sampler}, [sampler]
    while front:
        links = [v for name in front for v in graph[name]["inputs"].values()]
        front = [str(v[0]) for v in links if isinstance(v, list) and str(v[0]) not in keep]
        keep |= set(front)
    part = {name: copy.deepcopy(graph[name]) for name in keep}
    part[sampler]["inputs"]["steps"] = steps
    decode = next(
        v for v in graph.values()
        if v["class_type"] == "VAEDecode" and v["inputs"]["samples"][0] == sampler
    )  # fmt: skip
    vae = str(decode["inputs"]["vae"][0])
    part[vae] = copy.deepcopy(graph[vae])
    part["decode"] = copy.deepcopy(decode)
    part["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["decode", 0], "filename_prefix": f"stop/{steps}"},
        "_meta": {"title": "save"},
    }
    return part


@pytest.mark.older_hosts
@pytest.mark.skipif(not DEMO.exists(), reason="workflows/realcompo_demo.json is not there")
def test_a_stop_in_the_middle_of_a_run_does_no_harm(
    server: LiveServer, object_info: dict[str, Any]
) -> None:
    demo = to_api(json.loads(DEMO.read_text(encoding="utf-8")), object_info)
    short = _short(demo, 4)
    before = _pictures(server.run_prompt(short, seconds=300), server)
    long = _short(demo, 400)
    stopped = threading.Event()

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["max"] == 400 and data["value"] >= 2:
            if not stopped.is_set():
                server.post("/interrupt", {})
            stopped.set()

    with pytest.raises(ServerError, match="interrupted in node"):
        server.run_prompt(long, stop, seconds=300)
    assert stopped.is_set()
    server.post("/free", {"unload_models": True, "free_memory": True})
    again = _pictures(server.run_prompt(short, seconds=300), server)
    assert len(before) == len(again) == 1
    assert pixels(before[0]) == pixels(again[0])


def _with_saved_trace(
    workflow: str, through: str, steps: int, object_info: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """An example graph of so many steps that saves the trace of its node ``through``, and that
    node."""
    text = (ROOT / "workflows" / f"{workflow}.json").read_text(encoding="utf-8")
    graph = to_api(json.loads(text), object_info)
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    kinds = {node["class_type"]: key for key, node in graph.items()}
    waits = kinds.get("SamplerCustomAdvanced", kinds[through])
    graph["save trace"] = {
        "class_type": "RealCompoSaveTrace",
        "inputs": {
            "trace": [kinds[through], 1], "latent": [waits, 0],
            "filename_prefix": f"live/{through}",
        },
    }  # fmt: skip
    return graph, kinds[through]


def _check_step(message: dict[str, Any], step: dict[str, Any]) -> None:
    """Hold what the page hears of a step against what the trace says of it."""
    assert message["phase"] == step["phase"]
    assert message["sigma"] == pytest.approx(step["sigma"], abs=1e-4)
    mix = base64.b64decode(message["mix"]["data"])
    assert len(mix) == message["mix"]["width"] * message["mix"]["height"] == 16 * 16
    assert sum(mix) / len(mix) / 255 == pytest.approx(step["mix_mean"][0], abs=2e-3)
    for name, seen in message["models"].items():
        assert seen["shares"] == pytest.approx(step[f"shares_{name}"][0], abs=1e-4)
        assert seen["loss"] == pytest.approx(step[f"loss_{name}"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("through", "workflow"),
    [
        ("RealCompoDualSampler", "realcompo_layout_editor"),
        ("RealCompoGuider", "realcompo_guider"),
    ],
)
def test_each_step_arrives_at_the_page_that_started_the_run(
    through: str, workflow: str, server: LiveServer, object_info: dict[str, Any]
) -> None:
    """Over the websocket, for the RealCompo node, and with what the saved trace says."""
    steps = 6
    graph, shown = _with_saved_trace(workflow, through, steps, object_info)
    messages: list[dict[str, Any]] = []
    order: list[str] = []

    def listen(kind: str, data: dict[str, Any]) -> None:
        if kind == "realcompo.progress":
            messages.append(data)
        # in what order: the host tells of each step when the sampler has made it
        if kind in ("realcompo.progress", "progress") and len(messages) <= steps:
            order.append(kind)

    server.run_prompt(graph, listen, seconds=300)
    assert [message["step"] for message in messages] == list(range(steps))
    assert {(message["node"], message["steps"]) for message in messages} == {(shown, steps)}
    assert len({message["run"] for message in messages}) == 1
    assert all(len(json.dumps(message)) < 16_000 for message in messages)
    assert order.index("progress") < len(order) - order[::-1].index("realcompo.progress")
    numbers = json.loads(
        (server.base / "output" / "live" / f"{through}_00001_.trace.json").read_text("utf-8")
    )
    assert any(message["models"] for message in messages)
    for message, step in zip(messages, numbers["steps"], strict=True):
        _check_step(message, step)
