"""List execution on a live server: a detector runs once for each phrase, and names stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from live_server import LiveServer, ServerError

PROMPT = "a blue square and a red circle"


def graph(only: Any, **captions: Any) -> dict[str, Any]:
    """A picture of a red and a blue square, looked at by the demo's detector, and captioned."""
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "phrases": ("RealCompoPromptPhrases", {"prompt": PROMPT}),
        "black": ("EmptyImage", {"width": 128, "height": 128, "batch_size": 1, "color": 0}),
        "red": ("EmptyImage", {"width": 45, "height": 45, "batch_size": 1, "color": 0xD02020}),
        "blue": ("EmptyImage", {"width": 45, "height": 45, "batch_size": 1, "color": 0x2050D0}),
        "first": ("ImageCompositeMasked", {"destination": ["black", 0], "source": ["red", 0],
                                           "x": 12, "y": 12, "resize_source": False}),
        "both": ("ImageCompositeMasked", {"destination": ["first", 0], "source": ["blue", 0],
                                          "x": 70, "y": 64, "resize_source": False}),
        "detector": ("RealCompoShapesDetector", {"image": ["both", 0], "batch_index": 0,
                                                 "only": only, "names": "shape"}),
        # a stock node between runs once for every mask of the list
        "grown": ("GrowMask", {"mask": ["detector", 1], "expand": 2, "tapered_corners": True}),
        "captions": ("RealCompoDenseCaptions", {
            "prompt": ["phrases", 3], "method": "rules", "missing": "leave out", "min_area": 0.001,
            "masks": ["grown", 0], "tags": ["detector", 0], "image": ["both", 0], **captions,
        }),
        "report": ("PreviewAny", {"source": ["captions", 2]}),
        "lacking": ("PreviewAny", {"source": ["captions", 3]}),
        "names": ("PreviewAny", {"source": ["detector", 0]}),
        "drawn": ("RealCompoLayoutPreview", {"layout": ["captions", 0], "width": 256,
                                             "height": 256}),
        "saved": ("PreviewImage", {"images": ["drawn", 0]}),
    }  # fmt: skip
    return {
        name: {"class_type": kind, "inputs": inputs, "_meta": {"title": name}}
        for name, (kind, inputs) in nodes.items()
    }


def told(server: LiveServer, made: dict[str, Any], node: str) -> list[str]:
    entry = server.run_prompt(made, seconds=300)
    assert entry["status"]["status_str"] == "success"
    return entry["outputs"][node]["text"]


def test_a_run_for_each_phrase(server: LiveServer) -> None:
    """One run for 'square' finds two, one for 'circle' finds none; names stay with their masks."""
    entry = server.run_prompt(graph(["phrases", 1]), seconds=300)
    shown = {name: value.get("text") for name, value in entry["outputs"].items()}
    assert shown["names"] == ["square", "square", ""]
    assert shown["report"][0].splitlines() == [
        "1 region by rules, 2 found in the picture",
        "not found: 'a red circle', has no region",
    ]
    assert shown["lacking"] == ["a red circle"] and entry["outputs"]["saved"]["images"]


def test_one_run_for_everything(server: LiveServer) -> None:
    """With colours in the names the noun still decides: the red square is no red circle."""
    made = graph("")
    made["detector"]["inputs"]["names"] = "colour and shape"
    entry = server.run_prompt(made, seconds=300)
    shown = {name: value.get("text") for name, value in entry["outputs"].items()}
    assert sorted(shown["names"]) == ["blue square", "red square"]
    assert "'a red circle' takes the place of 'red square'" in shown["report"][0]
    assert shown["lacking"] == [""]


def test_nothing_found_at_all(server: LiveServer) -> None:
    with pytest.raises(ServerError, match="nothing that the prompt names was found"):
        server.run_prompt(graph("star"), seconds=300)
    placed = told(server, graph("star", missing="place"), "report")
    assert placed[0].count("put into free room") == 2


def test_a_pasted_answer_and_a_malformed_one(server: LiveServer) -> None:
    regions = [{"phrase": "a red circle", "tag": "square", "weight": 7}]
    answer = f"Here:\n```json\n{json.dumps({'regions': regions})}\n```"
    chosen = {"method": "language model", "llm_output": answer}
    report = told(server, graph("", **chosen), "report")[0]
    assert "1 region from the text in 'llm_output'" in report and "counts as 3" in report
    with pytest.raises(ServerError, match="no usable phrase"):
        server.run_prompt(graph("", **{**chosen, "llm_output": "{nonsense"}), seconds=300)
