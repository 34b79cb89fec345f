"""The example workflows as the server tests run them: without a user's files, and short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from live_server import ROOT, LiveServer

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
# What lists files that only a user has. Checkpoints have the outputs MODEL, CLIP and VAE first, as
# the demo loader has.
LOADERS = {
    *("CheckpointLoaderSimple", "GLIGENLoader", "ControlNetLoader", "RealCompoLoadCaptioner"),
}
TRAINER = "TrainLoraNode"


def older_trainer(workflow: dict[str, Any], object_info: dict[str, Any]) -> bool:
    """Was the workflow made for a later trainer than the host's, one that gives no model?"""
    used = any(node["type"] == TRAINER for node in workflow["nodes"])
    return used and object_info[TRAINER]["output"][0] == "MODEL"


def pictures(entry: dict[str, Any], server: LiveServer) -> dict[str, list[Path]]:
    """Files of all pictures that a run showed, by node."""
    return {
        node: [
            server.base / image["type"] / image["subfolder"] / image["filename"]
            for image in output["images"]
        ]
        for node, output in entry["outputs"].items()
        if "images" in output
    }


def pixels(path: Path) -> bytes:
    """A picture's mode, size and pixels."""
    from PIL import Image

    with Image.open(path) as image:
        return f"{image.mode} {image.size} ".encode() + image.tobytes()


def needing_files(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph without the pictures that can be made without a loader: the server would make
    these, and name its complaints beside them."""

    def loads(name: str) -> bool:
        links = [v for v in graph[name]["inputs"].values() if isinstance(v, list)]
        return graph[name]["class_type"] in LOADERS or any(loads(str(v[0])) for v in links)

    shown = ("SaveImage", "PreviewImage")
    return {n: v for n, v in graph.items() if v["class_type"] not in shown or loads(n)}


def shorten(graph: dict[str, Any]) -> None:
    """As little drawing and training as shows that every node of an example does its work.

    What pictures come of it is for the tests of the demo models; the demo itself runs in full.
    """
    for node in graph.values():
        # 'step' is one to look at
        for name, most in (("steps", 8), ("step", 7), ("pairs", 4)):
            if isinstance(value := node["inputs"].get(name), int):
                node["inputs"][name] = min(value, most)


def use_demo_models(graph: dict[str, Any]) -> None:
    """Put the demo's models in the place of files that only a user has, at the demo's size."""
    spatial = {
        str(node["inputs"]["spatial_model"][0])
        for node in graph.values()
        if "spatial_model" in node["inputs"]
    }
    gligen = {name for name, node in graph.items() if node["class_type"] == "GLIGENLoader"}
    for name, node in graph.items():
        if node["class_type"] == "ControlNetLoader":
            node["class_type"] = "RealCompoShapesControlNet"
            node["inputs"] = {"kind": "keypoints"}
            continue
        if node["class_type"] == "RealCompoLoadCaptioner":
            node["class_type"], node["inputs"] = "RealCompoShapesCaptioner", {}
            continue
        if node["class_type"] in LOADERS:
            part = "spatial" if name in spatial | gligen else "realism"
            node["class_type"] = "RealCompoShapesLoader"
            node["inputs"] = {"style": "realistic", "part": part}
            continue
        for key, value in node["inputs"].items():
            if isinstance(value, list) and str(value[0]) in gligen:
                node["inputs"][key] = [value[0], 3]  # the demo loader's fourth output
        if node["class_type"] in ("EmptyLatentImage", "RealCompoPose"):
            node["inputs"].update(width=128, height=128)
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
