"""The templates for real checkpoints, queued with files of those names, formats and families.

The files are narrow and random, written by ``bench/model_files``; what is drawn is noise.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import ROOT, LiveServer
from PIL import Image
from safetensors.torch import load_file
from workflow import to_api

pytest.importorskip("comfy.samplers", reason="files are made of the host's networks")

from realcompo.bench.model_files import main as random_files  # noqa: E402

CAPTIONER, TRAINER = "RealCompoLoadCaptioner", "TrainLoraNode"
LOADERS = {
    "CheckpointLoaderSimple": ("checkpoints", "ckpt_name"),
    "GLIGENLoader": ("gligen", "gligen_name"),
    "ControlNetLoader": ("controlnet", "control_net_name"),
    CAPTIONER: ("captioners", "captioner"),
}
FILES: dict[str, tuple[str, int]] = {
    "dreamshaper_8.safetensors": ("sd15", 1),
    "v1-5-pruned-emaonly.safetensors": ("sd15", 2),
    "gligen_sd14_textbox_pruned.safetensors": ("gligen", 1),
    "sd_xl_base_1.0.safetensors": ("sdxl", 1),
    "OpenPoseXL2.safetensors": ("control_sdxl", 1),
}
"""What the files are that templates name, and seeds."""
SIDE, SMALLER = 128, 64
"""Of the pictures, in pixels; of those that only teach something."""


def _named(workflow: dict[str, Any]) -> dict[str, str]:
    """Files and folders that a workflow names, each with its loader's class."""
    return {
        node["widgets_values"][0]: node["type"]
        for node in workflow["nodes"] if node["type"] in LOADERS
    }  # fmt: skip


TEMPLATES = {
    path.stem: workflow
    for path in sorted((ROOT / "workflows").glob("*.json"))
    if _named(workflow := json.loads(path.read_text(encoding="utf-8")))
}
DUAL = [
    name for name, workflow in TEMPLATES.items()
    if any(node["type"] == "RealCompoDualSampler" for node in workflow["nodes"])
]  # fmt: skip


@pytest.fixture
def files(request: pytest.FixtureRequest, server: LiveServer) -> Iterator[None]:
    """The files that the test's template names, in the server's folders until it is over."""
    made: list[Path] = []
    for name, loader in _named(TEMPLATES[request.getfixturevalue("template")]).items():
        folder = server.base / "models" / LOADERS[loader][0]
        if loader == CAPTIONER:
            _captioner(folder / name)
            continue
        kind, seed = FILES[name]
        made.append(random_files.write(kind, folder, seed=seed, name=Path(name).stem))
    yield
    server.post("/free", {"unload_models": True, "free_memory": True})
    for path in made:
        path.unlink()


def _captioner(folder: Path) -> None:
    from realcompo.shapes.captioner import blip_config, write_folder
    from transformers import BlipForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, BlipForConditionalGeneration(blip_config()).state_dict(), {})


def _graph(template: str, object_info: dict[str, Any]) -> dict[str, Any]:
    """The template at a small size and with few steps."""
    graph = to_api(copy.deepcopy(TEMPLATES[template]), object_info)
    side = SIDE if template in DUAL else SMALLER
    most = {"width": side, "height": side, "steps": 2, "batch_size": 2}
    for node in graph.values():
        if node["class_type"] == "RealCompoTracePlot":
            continue  # its size is the plot's
        for name, value in node["inputs"].items():
            if name in most and isinstance(value, int):
                node["inputs"][name] = min(value, most[name])
    return graph


def _pictures(entry: dict[str, Any], server: LiveServer) -> list[np.ndarray]:
    files = [
        server.base / image["type"] / image["subfolder"] / image["filename"]
        for output in entry["outputs"].values() for image in output.get("images", [])
    ]  # fmt: skip
    return [np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in files]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_for_real_files_makes_its_pictures(
    template: str, files: None, server: LiveServer, object_info: dict[str, Any]
) -> None:
    trains = any(node["type"] == TRAINER for node in TEMPLATES[template]["nodes"])
    if trains and object_info[TRAINER]["output"][0] == "MODEL":
        pytest.skip(f"MADE FOR THE {TRAINER} OF COMFYUI 0.33, AS ITS NOTE SAYS")
    graph = _graph(template, object_info)
    loras = server.base / "output" / "loras"
    before = set(loras.glob("*.safetensors"))  # other examples train on this server as well
    samplers = [n for n, node in graph.items() if node["class_type"] == "RealCompoDualSampler"]
    assert bool(samplers) == (template in DUAL)
    balancers = [n for n in graph.values() if n["class_type"] == "RealCompoBalancer"]
    for mode in ("dynamic", "lagged") if samplers else (None,):
        for node in balancers:
            node["inputs"]["mode"] = mode
        for sampler in samplers:
            graph[f"trace {sampler}"] = {
                "class_type": "RealCompoSaveTrace",
                "inputs": {
                    "trace": [sampler, 1], "latent": [sampler, 0],
                    "filename_prefix": f"real/{template}-{mode}-{sampler}",
                },
            }  # fmt: skip
        entry = server.run_prompt(graph, seconds=300)
        assert entry["status"]["status_str"] == "success"
        pictures = _pictures(entry, server)
        assert pictures
        for picture in pictures:  # numbers that are none come out black
            assert picture.std() > 5 and picture.mean() > 5
        for sampler in samplers:
            path = f"real/{template}-{mode}-{sampler}_00001_.trace.json"
            _balanced(json.loads((server.base / "output" / path).read_text("utf-8")))
    if trains:
        (made,) = set(loras.glob("*.safetensors")) - before
        _trained(made)


def _trained(path: Path) -> None:
    """A LoRA was saved that is numbers and no longer zero."""
    weights = load_file(path)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert any(weight.any() for name, weight in weights.items() if "lora_up" in name)


def _balanced(trace: dict[str, Any]) -> None:
    """The pair was looked at and its mix moved by what was seen."""
    step = trace["steps"][0]
    assert step["phase"] == "balance" and trace["cost"]["backwards"] > 0
    assert trace["cost"]["skipped_gradients"] == 0
    for model in ("realism", "spatial"):
        assert 0 < step[f"loss_{model}"][0] < float("inf")
        assert all(0 < share < 1 for share in step[f"shares_{model}"][0])


def test_templates_are_found() -> None:
    assert {"realcompo_sd15_gligen", "realcompo_sdxl_pose"} <= set(DUAL)
