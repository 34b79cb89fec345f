"""What the chain's workflow file says of itself: which node saves what, what it costs, its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...runner.job import Graph
from ...shapes.finetuned import file_of
from ...shapes.host_models import STYLE_FILES, weight_hashes

SAMPLERS = ("KSampler", "RealCompoDualSampler")


def fingerprint(workflow: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a saved workflow's pictures: nodes, values and links, not places."""
    nodes = [
        [node["id"], node["type"], node["widgets_values"], [i["name"] for i in node["inputs"]]]
        for node in workflow["nodes"]
        if node["type"] != "MarkdownNote"
    ]
    text = json.dumps([nodes, workflow["links"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def saved_by(graph: Graph) -> dict[str, str]:
    """Name of the stage that each save node stands for: the last part of its files' prefix."""
    return {
        name: str(node["inputs"]["filename_prefix"]).rpartition("/")[2]
        for name, node in graph.items()
        if node["class_type"] == "SaveImage"
    }


def files_used(graph: Graph) -> dict[str, str]:
    """The weights that the workflow's pictures depend on, by file, with their SHA-256."""
    names = {"codec.safetensors", "text.safetensors"}
    for node in graph.values():
        if node["class_type"] == "RealCompoShapesCaptioner":
            names.add("captioner/model.safetensors")
        if node["class_type"] != "RealCompoShapesLoader":
            continue
        style, part = node["inputs"]["style"], node["inputs"]["part"]
        spatial = {"spatial.safetensors", "grounding.safetensors"}
        names |= spatial if part == "spatial" else {f"{STYLE_FILES[style]}.safetensors"}
        if (lora := file_of(node["inputs"]["finetuned"], style, part)) is not None:
            names.add(lora)
    hashes = weight_hashes()
    return {name: hashes[name] for name in sorted(names)}


def _batch(graph: Graph, link: Any) -> int:
    """How many latents come by ``link``."""
    inputs = graph[str(link[0])]["inputs"]
    if "batch_size" in inputs:
        return int(inputs["batch_size"])
    return int(inputs["length"])


def forwards_of(graph: Graph, records: Sequence[Mapping[str, Any]], stage: str) -> float:
    """Passes of a picture through a network until ``stage``'s picture is there, mean over rows.

    One latent through one model, conditional or not, is one; a probe that stops half-way counts as
    a whole one. Two probes of the dual sampler's that need a gradient count as two. Candidates
    count where the stage chose among them; a stage before that needs the first of them only.
    """
    from execute import ancestors

    save = next(name for name, saved in saved_by(graph).items() if saved == stage)
    needed = [save, *ancestors(graph, save)]
    chosen = any(graph[name]["class_type"] == "RealCompoPickBest" for name in needed)
    total = 0.0
    for name in needed:
        node = graph[name]
        if node["class_type"] not in SAMPLERS:
            continue
        batch = _batch(graph, node["inputs"]["latent_image"])
        share = 1.0 if chosen else 1.0 / batch
        if node["class_type"] == "KSampler":
            total += 2 * node["inputs"]["steps"] * batch * share
            continue
        reports = [json.loads(json.loads(r["shown"])[name]["realcompo"][0]) for r in records]
        spent = sum(report["forwards"] + report["partial_forwards"] for report in reports)
        total += spent / len(reports) * share
    return total
