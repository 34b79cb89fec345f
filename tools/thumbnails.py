"""Draw the template list's thumbnails: ``python tools/thumbnails.py [NAME ...]`` (COMFYUI_PATH).

Every picture is what its workflow makes: the workflow runs, and what it saves is laid side by side.
The page looks for ``<workflow>.jpg`` beside ``<workflow>.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from execute import InProcess, host_from_environment
from live_server import BASE
from workflow import classes_of, to_api

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SIDE, QUALITY = 320, 88
# Titles or file prefixes of the nodes whose pictures are shown, in this order.
SHOWN = {
    "realcompo_demo": ("realism", "spatial", "realcompo"),
    "realcompo_guider": ("guider",),
    "realcompo_controlnet": ("controlnet_hint", "controlnet"),
    "realcompo_layout_editor": ("Result and regions",),
    "realcompo_style_swap": ("swap_realistic", "swap_sketch", "swap_neon"),
    "realcompo_inspect": ("mix", "attention_realism"),
    "realcompo_planner": ("by_the_plan",),
    "realcompo_masks": ("segmentation", "merged", "mirrored"),
    "realcompo_dense": ("plain", "dense", "checked"),
    "realcompo_dense_pair": ("dense_pair",),
    "realcompo_separate_enhance": ("before", "after", "maps after"),
    "realcompo_fine": ("coarse", "regions", "fine"),
    "realcompo_fine_latent": ("coarse", "regions", "fine"),
    "realcompo_coarse": ("first", "best"),
    "realcompo_refl": ("before", "after"),
    "realcompo_all_four": ("plain", "realcompo", "chain"),
    "realcompo_sd15_gligen": ("layout",),  # see layout_alone
    "realcompo_segmentation": ("segmentation_picture", "segmentation_mask", "segmentation_box"),
    "realcompo_sdxl_pose": ("Skeletons and regions",),
}


def named(graph: dict[str, Any], workflow: dict[str, Any], name: str) -> str:
    """Id of the picture node that goes by ``name``."""
    titles = {str(node["id"]): node.get("title") for node in workflow["nodes"]}
    for key, node in graph.items():
        prefix = str(node["inputs"].get("filename_prefix", ""))
        if node["class_type"] in ("SaveImage", "PreviewImage") and (
            name in (prefix.rpartition("/")[2], titles.get(key), key)
        ):
            return key
    raise SystemExit(f"no node saves '{name}'")


def layout_alone(graph: dict[str, Any]) -> dict[str, Any]:
    """The layout of a workflow for checkpoints that are not here, drawn: it stands for the rest."""
    kind = "RealCompoLayoutFromBoxes"
    layout = next(key for key, node in graph.items() if node["class_type"] == kind)
    inputs = {"layout": [layout, 0], "width": 512, "height": 512}
    return {
        layout: graph[layout],
        "drawing": {"class_type": "RealCompoLayoutPreview", "inputs": inputs},
        "layout": {"class_type": "PreviewImage", "inputs": {"images": ["drawing", 0]}},
    }


def main() -> None:
    """Run every workflow, or the named ones, and write its thumbnail."""
    from PIL import Image

    host = InProcess(host_from_environment(), BASE)
    for name in sys.argv[1:] or SHOWN:
        shown = SHOWN[name]
        workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        info = host.object_info(classes_of(workflow))
        graph = to_api(workflow, info)
        if shown == ("layout",):
            graph = layout_alone(graph)
        nodes = [named(graph, workflow, entry) for entry in shown]
        done = host.run(graph, nodes)
        page = Image.new("RGB", (SIDE * len(nodes), SIDE), "white")
        for index, node in enumerate(nodes):
            saved = done.shown[node]["images"][0]
            folder = BASE / saved["type"] / saved["subfolder"]
            picture = Image.open(folder / saved["filename"]).convert("RGB")
            page.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (SIDE * index, 0))
        page.save(WORKFLOWS / f"{name}.jpg", quality=QUALITY, optimize=True)
        print(f"workflows/{name}.jpg")


if __name__ == "__main__":
    main()
