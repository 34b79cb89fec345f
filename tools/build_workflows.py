"""Write the example workflows: ``python tools/build_workflows.py`` (COMFYUI_PATH names the host).

The files in ``workflows/`` are what a user opens, in the form in which the page saves graphs.
Written by hand they would be unreadable in review; here they are a few lines each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from execute import InProcess, host_from_environment
from live_server import BASE
from workflow import WIDGET_TYPES

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
LINE, HEAD = 26, 60


@dataclass(frozen=True)
class Slot:
    """An output of a node in the graph."""

    node: dict[str, Any]
    index: int


@dataclass
class Graph:
    """A graph in litegraph's saved form, built node by node; ``info`` describes the classes."""

    info: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[int, int], title: str = "", **values: Any) -> list[Slot]:
        """A node of class ``kind``; values are widget values, or slots to link to its inputs."""
        info = self.info[kind]
        node: dict[str, Any] = {
            "id": len(self.nodes) + 1, "type": kind, "pos": list(at), "flags": {},
            "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [],
            "properties": {"Node name for S&R": kind}, "widgets_values": [],
        }  # fmt: skip
        if title:
            node["title"] = title
        rows = 0.0
        for section in ("required", "optional"):
            for name in info.get("input_order", {}).get(section, []):
                rows += self._input(node, name, info["input"][section][name], values)
        if values:
            raise ValueError(f"{kind} has no input {', '.join(values)}")
        for index, (output, name) in enumerate(
            zip(info["output"], info["output_name"], strict=True)
        ):
            slot = {"name": name, "type": output, "links": [], "slot_index": index}
            node["outputs"].append(slot)
        node["size"] = [300, int(HEAD + LINE * max(rows, len(info["output"])))]
        self.nodes.append(node)
        return [Slot(node, index) for index in range(len(node["outputs"]))]

    def _input(
        self, node: dict[str, Any], name: str, spec: list[Any], values: dict[str, Any]
    ) -> float:
        """Add one input; returns the lines that it takes on the node."""
        kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
        widget = isinstance(kind, list) or kind in WIDGET_TYPES
        value = values.pop(name, None)
        if isinstance(value, Slot) or not widget:
            entry: dict[str, Any] = {"name": name, "type": kind, "link": None}
            if widget:
                entry["type"] = "COMBO" if isinstance(kind, list) else kind
                entry["widget"] = {"name": name}
            if isinstance(value, Slot):
                self._link(value, node, len(node["inputs"]), entry)
            node["inputs"].append(entry)
        if widget:
            given = value is not None and not isinstance(value, Slot)
            first = kind[0] if isinstance(kind, list) and kind else ""
            chosen = value if given else options.get("default", first)
            node["widgets_values"].append(chosen)
            if options.get("control_after_generate"):
                node["widgets_values"].append("fixed")
                return 2.0
        return 4.0 if options.get("multiline") else 1.0

    def _link(self, source: Slot, node: dict[str, Any], slot: int, entry: dict[str, Any]) -> None:
        number = len(self.links) + 1
        output = source.node["outputs"][source.index]
        output["links"].append(number)
        entry["link"] = number
        self.links.append(
            [number, source.node["id"], source.index, node["id"], slot, output["type"]]
        )

    def note(self, at: tuple[int, int], text: str, size: tuple[int, int] = (420, 220)) -> None:
        """A note in Markdown."""
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": list(at),
            "size": list(size), "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [],
            "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
        })  # fmt: skip

    def group(self, title: str, x: int, y: int, width: int, height: int) -> None:
        """A titled frame."""
        self.groups.append(
            {"id": len(self.groups) + 1, "title": title, "bounding": [x, y, width, height],
             "color": "#3f789e", "font_size": 24, "flags": {}}
        )  # fmt: skip

    def save(self, name: str) -> None:
        """Write ``workflows/<name>.json``."""
        value = {
            "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups, "config": {},
            "extra": {}, "version": 0.4,
        }  # fmt: skip
        text = json.dumps(value, indent=1, ensure_ascii=True)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


PROMPT = "a red star and a blue circle and a green square"
PHRASES = (
    "a red star: 0.06 0.12 0.46 0.52\n"
    "a blue circle: 0.55 0.08 0.92 0.45\n"
    "a green square: 0.32 0.58 0.70 0.95"
)
SEED, STEPS, CFG = 7, 30, 3.0
SAMPLING = {
    "seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal",
}  # fmt: skip


def _shapes(graph: Graph) -> dict[str, Slot]:
    """Demo models, layout, prompts and latent: the left part of the demo graphs."""
    realism, clip, vae, _ = graph.add(
        "RealCompoShapesLoader", (0, 0), "Realism model", style="realistic", part="realism"
    )
    spatial, spatial_clip, _, gligen = graph.add(
        "RealCompoShapesLoader", (0, 200), "Spatial model", style="realistic", part="spatial"
    )
    layout, text = graph.add(
        "RealCompoLayoutFromBoxes", (0, 400), phrases=PHRASES, prompt=PROMPT
    )
    (positive,) = graph.add("CLIPTextEncode", (360, 0), "Positive", clip=clip, text=text)
    (negative,) = graph.add("CLIPTextEncode", (360, 220), "Negative", clip=clip, text="")
    (grounded,) = graph.add(
        "RealCompoApplyGLIGEN", (360, 440), positive=positive, clip=spatial_clip,
        gligen_textbox_model=gligen, layout=layout,
    )  # fmt: skip
    (latent,) = graph.add("EmptyLatentImage", (360, 680), width=128, height=128, batch_size=1)
    return {
        "realism": realism, "spatial": spatial, "vae": vae, "layout": layout,
        "positive": positive, "negative": negative, "grounded": grounded, "latent": latent,
    }  # fmt: skip


DRAWING = {
    "schema": 1,
    "regions": [
        {"phrase": "a red star", "box": [0.06, 0.12, 0.46, 0.52], "colour": "#d55e00"},
        {"phrase": "a blue circle", "box": [0.55, 0.08, 0.92, 0.45], "colour": "#0072b2"},
        {"phrase": "a green square", "box": [0.32, 0.58, 0.7, 0.95], "colour": "#009e73"},
    ],
    "editor": {"grid": 8, "snap": False},
}


def layout_editor(graph: Graph) -> None:
    """The demo's scene drawn in the editor."""
    realism, clip, vae, _ = graph.add(
        "RealCompoShapesLoader", (0, 0), "Realism model", style="realistic", part="realism"
    )
    spatial, spatial_clip, _, gligen = graph.add(
        "RealCompoShapesLoader", (0, 200), "Spatial model", style="realistic", part="spatial"
    )
    layout, text, width, height = graph.add(
        "RealCompoLayout", (360, 0), prompt=PROMPT, width=128, height=128,
        layout_json=json.dumps(DRAWING, separators=(",", ":")),
    )  # fmt: skip
    layout.node["size"] = [540, 800]
    (positive,) = graph.add("CLIPTextEncode", (960, 0), "Positive", clip=clip, text=text)
    (negative,) = graph.add("CLIPTextEncode", (960, 200), "Negative", clip=clip, text="")
    (grounded,) = graph.add(
        "RealCompoApplyGLIGEN", (960, 400), positive=positive, clip=spatial_clip,
        gligen_textbox_model=gligen, layout=layout,
    )  # fmt: skip
    (latent,) = graph.add("EmptyLatentImage", (960, 640), width=width, height=height, batch_size=1)
    sampled, _ = graph.add(
        "RealCompoDualSampler", (1320, 0), realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=layout, spatial_positive=grounded,
        latent_image=latent, **SAMPLING,
    )  # fmt: skip
    # The sampler grows by its preview while it runs.
    (image,) = graph.add("VAEDecode", (1320, 640), samples=sampled, vae=vae)
    (checked,) = graph.add(
        "RealCompoLayoutPreview", (1320, 760), layout=layout, image=image, width=512, height=512
    )
    for row, (title, source) in enumerate((("Result", image), ("Result and regions", checked))):
        graph.add("PreviewImage", (1680, row * 440), title, images=source)
        graph.nodes[-1]["size"] = [380, 400]
    graph.note((0, 400), (
        "## Draw a layout\n\nMove the boxes, or draw new ones: drag in an empty place. Name each"
        " with words of the prompt; what the prompt does not hold is marked in red.\n\nPress Run:"
        " the result follows. The models are the demo's and know six colours and five shapes."
    ), (320, 260))  # fmt: skip


def _decode_and_save(graph: Graph, at: tuple[int, int], latent: Slot, vae: Slot, name: str) -> None:
    (image,) = graph.add("VAEDecode", at, samples=latent, vae=vae)
    graph.add(
        "SaveImage", (at[0] + 360, at[1]), name, images=image,
        filename_prefix=f"realcompo_demo/{name}",
    )  # fmt: skip


def _pair(given: dict[str, Slot]) -> dict[str, Slot]:
    return {
        "realism_model": given["realism"], "spatial_model": given["spatial"],
        "positive": given["positive"], "negative": given["negative"],
        "layout": given["layout"], "spatial_positive": given["grounded"],
    }  # fmt: skip


def demo(graph: Graph) -> None:
    """One scene by each model alone, by a fixed mix, and by RealCompo."""
    given = _shapes(graph)
    column = 760
    for row, (name, model, positive) in enumerate(
        (("realism", "realism", "positive"), ("spatial", "spatial", "grounded"))
    ):
        (latent,) = graph.add(
            "KSampler", (column, row * 300), f"{name} model alone", model=given[model],
            positive=given[positive], negative=given["negative"], latent_image=given["latent"],
            **SAMPLING,
        )  # fmt: skip
        _decode_and_save(graph, (column + 760, row * 300), latent, given["vae"], name)
    mixes = (
        ("fixed-0.50", {"preset": "custom", "mode": "fixed", "initial_mix": 0.5,
                        "region_prior": 0.0, "realism_only": 0.0}),
        ("realcompo", {"preset": "equilibrium", "mode": "dynamic"}),
    )  # fmt: skip
    for row, (name, numbers) in enumerate(mixes):
        height = 640 + row * 560
        (balancer,) = graph.add("RealCompoBalancer", (column, height), name, **numbers)
        latent, trace = graph.add(
            "RealCompoDualSampler", (column + 380, height), f"RealCompo Dual Sampler: {name}",
            balancer=balancer, latent_image=given["latent"], **_pair(given), **SAMPLING,
        )  # fmt: skip
        _decode_and_save(graph, (column + 760, height), latent, given["vae"], name)
    (plot,) = graph.add("RealCompoTracePlot", (column + 760, 1400), trace=trace)
    graph.add(
        "SaveImage", (column + 1120, 1400), "trace", images=plot,
        filename_prefix="realcompo_demo/trace",
    )  # fmt: skip
    (drawing,) = graph.add(
        "RealCompoLayoutPreview", (0, 880), layout=given["layout"], width=512, height=512
    )
    graph.add(
        "SaveImage", (360, 880), "layout", images=drawing, filename_prefix="realcompo_demo/layout"
    )
    graph.note((0, 1180), (
        "## RealCompo demo\n\nThe *realism* model knows how things look, the *spatial* model knows"
        " where they go. RealCompo Dual Sampler lets both denoise one latent and mixes them per"
        " pixel.\n\nThe models are tiny ones that come with the pack; swap the two loaders for your"
        " own SD1.5 checkpoint and a GLIGEN model."
    ))  # fmt: skip


def guider(graph: Graph) -> None:
    """RealCompo as a guider, with the host's custom sampling nodes."""
    given = _shapes(graph)
    (balancer,) = graph.add("RealCompoBalancer", (760, 0), preset="paper")
    made, trace = graph.add(
        "RealCompoGuider", (1140, 0), cfg=CFG, balancer=balancer, **_pair(given)
    )
    (noise,) = graph.add("RandomNoise", (1140, 300), noise_seed=SEED)
    (sampler,) = graph.add("KSamplerSelect", (1140, 420), sampler_name="dpmpp_2m")
    (sigmas,) = graph.add(
        "BasicScheduler", (1140, 520), model=given["realism"], scheduler="karras", steps=20
    )
    latent, _ = graph.add(
        "SamplerCustomAdvanced", (1520, 0), noise=noise, guider=made, sampler=sampler,
        sigmas=sigmas, latent_image=given["latent"],
    )  # fmt: skip
    _decode_and_save(graph, (1520, 220), latent, given["vae"], "guider")
    (plot,) = graph.add("RealCompoTracePlot", (1520, 420), trace=trace, latent=latent)
    graph.add("SaveImage", (1880, 420), images=plot, filename_prefix="realcompo_demo/guider_trace")


def sd15(graph: Graph) -> None:
    """A stylised SD1.5 checkpoint with GLIGEN on plain SD1.5: the user's own files."""
    realism, clip, vae = graph.add(
        "CheckpointLoaderSimple", (0, 0), "Realism: any SD1.5 checkpoint",
        ckpt_name="dreamshaper_8.safetensors",
    )  # fmt: skip
    spatial, spatial_clip, _ = graph.add(
        "CheckpointLoaderSimple", (0, 200), "Spatial: plain SD1.5",
        ckpt_name="v1-5-pruned-emaonly.safetensors",
    )  # fmt: skip
    (gligen,) = graph.add(
        "GLIGENLoader", (0, 400), gligen_name="gligen_sd14_textbox_pruned.safetensors"
    )
    layout, text = graph.add(
        "RealCompoLayoutFromBoxes", (0, 520),
        phrases="a corgi: 0.05 0.35 0.45 0.95\na black cat: 0.55 0.40 0.95 0.95",
        prompt="a corgi and a black cat on a sofa, soft morning light, photo",
    )  # fmt: skip
    worse = "blurry, lowres, deformed"
    (positive,) = graph.add("CLIPTextEncode", (360, 0), "Positive", clip=clip, text=text)
    (negative,) = graph.add("CLIPTextEncode", (360, 220), "Negative", clip=clip, text=worse)
    (plain,) = graph.add("CLIPTextEncode", (360, 440), "Positive", clip=spatial_clip, text=text)
    (against,) = graph.add("CLIPTextEncode", (360, 660), "Negative", clip=spatial_clip, text=worse)
    (grounded,) = graph.add(
        "RealCompoApplyGLIGEN", (360, 880), positive=plain, clip=spatial_clip,
        gligen_textbox_model=gligen, layout=layout,
    )  # fmt: skip
    (latent,) = graph.add("EmptyLatentImage", (360, 1100), width=512, height=512, batch_size=1)
    (balancer,) = graph.add("RealCompoBalancer", (760, 0))
    sampled, trace = graph.add(
        "RealCompoDualSampler", (1140, 0), realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=layout, latent_image=latent, seed=SEED,
        steps=STEPS, cfg=7.5, spatial_positive=grounded, spatial_negative=against,
        balancer=balancer,
    )  # fmt: skip
    _decode_and_save(graph, (1520, 0), sampled, vae, "sd15")
    (plot,) = graph.add("RealCompoTracePlot", (1520, 200), trace=trace)
    graph.add("PreviewImage", (1880, 200), images=plot)


def main() -> None:
    """Write all of them."""
    host = InProcess(host_from_environment(), BASE)
    names = (
        "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "SaveImage", "RandomNoise",
        "KSamplerSelect", "BasicScheduler", "SamplerCustomAdvanced", "RealCompoShapesLoader",
        "RealCompoLayout", "RealCompoLayoutFromBoxes", "RealCompoApplyGLIGEN", "RealCompoBalancer",
        "RealCompoDualSampler", "RealCompoGuider", "RealCompoTracePlot", "RealCompoLayoutPreview",
        "CheckpointLoaderSimple", "GLIGENLoader", "PreviewImage",
    )  # fmt: skip
    info = host.object_info(names)
    graphs = {
        "realcompo_demo": demo, "realcompo_guider": guider, "realcompo_sd15_gligen": sd15,
        "realcompo_layout_editor": layout_editor,
    }  # fmt: skip
    for name, build in graphs.items():
        graph = Graph(info)
        build(graph)
        graph.save(name)
        print(f"workflows/{name}.json")


if __name__ == "__main__":
    main()
