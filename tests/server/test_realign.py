"""The coarse stage's list execution on a live ComfyUI: a picture for every prompt of a list."""

from __future__ import annotations

import json
from typing import Any

from live_server import ROOT, LiveServer
from workflow import to_api

COARSE = ROOT / "workflows" / "realcompo_coarse.json"


def _by_class(graph: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node for node in graph.values() if node["class_type"] == kind)


def _saved(entry: dict[str, Any], graph: dict[str, Any], name: str) -> list[str]:
    """File names that the node with this prefix saved."""
    key = next(
        key
        for key, node in graph.items()
        if str(node["inputs"].get("filename_prefix", "")).endswith(f"/{name}")
    )
    return [image["filename"] for image in entry["outputs"][key]["images"]]


def test_every_prompt_of_a_list_gets_its_own_best_picture(
    server: LiveServer, object_info: dict[str, Any]
) -> None:
    graph = to_api(json.loads(COARSE.read_text(encoding="utf-8")), object_info)
    _by_class(graph, "KSampler")["inputs"]["steps"] = 4
    _by_class(graph, "EmptyLatentImage")["inputs"]["batch_size"] = 3
    lines = "a red circle\n# left out\na blue star and a green cross"
    _by_class(graph, "RealCompoPromptList")["inputs"]["prompts"] = lines
    # three of each prompt's pictures are judged, and two kept
    picked = _by_class(graph, "RealCompoPickBest")
    picked["inputs"]["keep"] = 2
    entry = server.run_prompt(graph, seconds=600)
    assert entry["status"]["status_str"] == "success"
    assert len(_saved(entry, graph, "first")) == 2
    assert len(_saved(entry, graph, "best")) == 4
    assert len(_saved(entry, graph, "likeliest")) == 2
    # over everything instead of each batch
    picked["inputs"]["among"] = "all"
    entry = server.run_prompt(graph, seconds=600)
    assert len(_saved(entry, graph, "best")) == 2


def test_nodes_behind_an_output_without_an_input_do_not_run(
    server: LiveServer, object_info: dict[str, Any]
) -> None:
    graph = to_api(json.loads(COARSE.read_text(encoding="utf-8")), object_info)
    _by_class(graph, "KSampler")["inputs"]["steps"] = 2
    key = next(k for k, n in graph.items() if n["class_type"] == "RealCompoPickBest")
    graph[key]["inputs"].pop("latents", None)
    vae = next(k for k, n in graph.items() if n["class_type"] == "RealCompoShapesLoader")
    graph["behind"] = {
        "class_type": "VAEDecode", "inputs": {"samples": [key, 0], "vae": [vae, 2]},
    }  # fmt: skip
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["behind", 0]}}
    entry = server.run_prompt(graph, seconds=600)
    assert entry["status"]["status_str"] == "success"
    assert "shown" not in entry["outputs"] and _saved(entry, graph, "best")


def test_numbers_that_do_not_fit_are_told_to_the_user(
    server: LiveServer, object_info: dict[str, Any]
) -> None:
    import pytest
    from live_server import ServerError

    graph = to_api(json.loads(COARSE.read_text(encoding="utf-8")), object_info)
    _by_class(graph, "KSampler")["inputs"]["steps"] = 2
    _by_class(graph, "RealCompoCaptionReward")["inputs"]["prompt"] = "a red circle"
    _by_class(graph, "RealCompoLikelihoodReward")["inputs"]["prompt"] = " "
    with pytest.raises(ServerError, match=r"Likelihood Reward.*the prompt is empty"):
        server.run_prompt(graph, seconds=600)
