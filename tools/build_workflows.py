"""Write the example workflows: ``python tools/build_workflows.py`` (COMFYUI_PATH names the host).

The files in ``workflows/`` are what a user opens, in the form in which the page saves graphs.
Written by hand they would be unreadable in review; here they are a few lines each.
"""

from __future__ import annotations

import json

import workflow_parts as parts
from chain_workflows import CHAIN_CLASSES, CHAIN_GRAPHS
from control_workflows import (
    CONTROL_CLASSES,
    CONTROL_GRAPHS,
    PHRASES,
    PROMPT,
    SAMPLING,
    steered,
)
from dense_workflows import DENSE_CLASSES, DENSE_GRAPHS
from execute import InProcess, host_from_environment
from fine_workflows import FINE_CLASSES, FINE_GRAPHS
from finetune_workflows import FINETUNE_CLASSES, FINETUNE_GRAPHS
from layout_workflows import LAYOUT_CLASSES, LAYOUT_GRAPHS
from live_server import BASE
from realign_workflows import REALIGN_CLASSES, REALIGN_GRAPHS
from workflow_graph import Graph, Slot

FOLDER = "realcompo_demo"
SEED, STEPS, CFG = (SAMPLING[name] for name in ("seed", "steps", "cfg"))


def _shapes(graph: Graph) -> dict[str, Slot]:
    """Demo models, layout, prompts and latent: the left part of the demo graphs."""
    realism, clip, vae, spatial, spatial_clip, gligen = parts.demo_pair(graph)
    layout, text = graph.add("RealCompoLayoutFromBoxes", (0, 400), phrases=PHRASES, prompt=PROMPT)
    positive, negative = parts.encode_both(graph, (360, 0), clip, text)
    grounded = parts.ground(graph, (360, 440), positive, spatial_clip, gligen, layout)
    latent = parts.empty_latent(graph, (360, 680))
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
    realism, clip, vae, spatial, spatial_clip, gligen = parts.demo_pair(graph)
    layout, text, width, height = graph.add(
        "RealCompoLayout", (360, 0), prompt=PROMPT, width=128, height=128,
        layout_json=json.dumps(DRAWING, separators=(",", ":")),
    )  # fmt: skip
    layout.node["size"] = [540, 800]
    positive, negative = parts.encode_both(graph, (960, 0), clip, text, apart=200)
    grounded = parts.ground(graph, (960, 400), positive, spatial_clip, gligen, layout)
    (latent,) = graph.add("EmptyLatentImage", (960, 640), width=width, height=height, batch_size=1)
    sampled, _ = graph.add(
        "RealCompoDualSampler", (1320, 0), realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=layout, spatial_positive=grounded,
        latent_image=latent, **SAMPLING,
    )  # fmt: skip
    # The sampler grows by its preview while it runs.
    image = parts.decode(graph, (1320, 640), sampled, vae)
    checked = parts.preview(graph, (1320, 760), layout, image=image)
    for row, (title, source) in enumerate((("Result", image), ("Result and regions", checked))):
        graph.add("PreviewImage", (1680, row * 440), title, images=source)
        graph.nodes[-1]["size"] = [380, 400]
    graph.note((0, 400), (
        "## Draw a layout\n\nMove the boxes, or draw new ones: drag in an empty place. Name each"
        " with words of the prompt; what the prompt does not hold is marked in red.\n\nPress Run:"
        " the result follows. The models are the demo's and know six colours and five shapes."
    ), (320, 260))  # fmt: skip


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
        parts.decode_and_save(graph, (column + 760, row * 300), latent, given["vae"], FOLDER, name)
    mixes = (
        ("fixed-0.50", {"preset": "custom", "mode": "fixed", "initial_mix": 0.5,
                        "region_prior": 0.0, "realism_only": 0.0, "match_background": 0.0}),
        ("realcompo", {"preset": "equilibrium", "mode": "dynamic"}),
    )  # fmt: skip
    traces: dict[str, Slot] = {}
    for row, (name, numbers) in enumerate(mixes):
        height = 640 + row * 560
        (balancer,) = graph.add("RealCompoBalancer", (column, height), name, **numbers)
        latent, traces[name] = graph.add(
            "RealCompoDualSampler", (column + 380, height), f"RealCompo Dual Sampler: {name}",
            balancer=balancer, latent_image=given["latent"], **_pair(given), **SAMPLING,
        )  # fmt: skip
        parts.decode_and_save(graph, (column + 760, height), latent, given["vae"], FOLDER, name)
    (plot,) = graph.add("RealCompoTracePlot", (column + 760, 1400), trace=traces["realcompo"])
    parts.save(graph, (column + 1120, 1400), plot, "realcompo_demo/trace", "trace")
    drawing = parts.preview(graph, (0, 880), given["layout"])
    parts.save(graph, (360, 880), drawing, "realcompo_demo/layout", "layout")
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
    parts.decode_and_save(graph, (1520, 220), latent, given["vae"], FOLDER, "guider")
    (plot,) = graph.add("RealCompoTracePlot", (1520, 420), trace=trace, latent=latent)
    parts.save(graph, (1880, 420), plot, "realcompo_demo/guider_trace")


def controlnet(graph: Graph) -> None:
    """A ControlNet instead of boxes on the spatial branch."""
    given = steered(graph)
    hint, vae = given.pop("picture"), given.pop("vae")
    (balancer,) = graph.add("RealCompoBalancer", (760, 0))
    sampled, trace = graph.add(
        "RealCompoDualSampler", (1140, 0), **given, balancer=balancer, **SAMPLING,
    )  # fmt: skip
    parts.decode_and_save(graph, (1520, 0), sampled, vae, FOLDER, "controlnet")
    parts.save(graph, (360, 1300), hint, "realcompo_demo/controlnet_hint", "hint")
    (plot,) = graph.add("RealCompoTracePlot", (1520, 220), trace=trace)
    parts.save(graph, (1880, 220), plot, "realcompo_demo/controlnet_trace")
    graph.note((760, 560), (
        "## ControlNet as the spatial branch\n\nThe spatial model gets its places from a control"
        " picture: no GLIGEN. The layout still says which words belong where, for the balancer.\n\n"
        "*Shapes Demo Hint* draws the picture from the layout; a picture of your own does as well."
        " For your own models use any ControlNet of the spatial checkpoint with the picture it"
        " wants."
    ))  # fmt: skip


def style_swap(graph: Graph) -> None:
    """One composition in three looks: only the realism model is exchanged."""
    given = _shapes(graph)
    graph.note((760, -220), (
        "## One layout, three looks\n\nThe spatial model, the layout and the seed stay; each row"
        " has another realism model. Exchange the loaders for your own stylised checkpoints of one"
        " family."
    ), (420, 180))  # fmt: skip
    for row, style in enumerate(("realistic", "sketch", "neon")):
        height = row * 520
        realism = given["realism"]
        if row:
            title = f"Realism model: {style}"
            realism, _, _, _ = parts.demo_model(graph, (760, height), title, style=style)
        latent, _ = graph.add(
            "RealCompoDualSampler", (1140, height), f"RealCompo Dual Sampler: {style}",
            latent_image=given["latent"], **{**_pair(given), "realism_model": realism},
            **SAMPLING,
        )  # fmt: skip
        parts.decode_and_save(graph, (1520, height), latent, given["vae"], FOLDER, f"swap_{style}")


def inspect(graph: Graph) -> None:
    """Every way of looking at a run, and a look at a model's attention."""
    given = _shapes(graph)
    latent, trace = graph.add(
        "RealCompoDualSampler", (760, 0), latent_image=given["latent"], **_pair(given), **SAMPLING
    )
    latent.node["size"] = [340, 900]
    image = parts.decode(graph, (760, 960), latent, given["vae"])
    (plot,) = graph.add("RealCompoTracePlot", (1160, 0), trace=trace)
    (over,) = graph.add(
        "RealCompoMixPreview", (1160, 260), trace=trace, image=image, layout=given["layout"]
    )
    (saved,) = graph.add(
        "RealCompoSaveTrace", (1160, 560), trace=trace, filename_prefix="realcompo_demo/inspect"
    )
    (loaded,) = graph.add("RealCompoLoadTrace", (1160, 720), file=saved)
    (last,) = graph.add(
        "RealCompoMixPreview", (1160, 860), "RealCompo Mix Preview: step 10 of the saved trace",
        trace=loaded, step=10,
    )  # fmt: skip
    shown = [("Trace", plot), ("mix", over), ("Step 10, from the file", last)]
    for row, (name, model, positive) in enumerate(
        (("realism", "realism", "positive"), ("spatial", "spatial", "grounded"))
    ):
        maps, _, _ = graph.add(
            "RealCompoAttentionMaps", (1160, 1180 + 420 * row),
            f"RealCompo Attention Maps: {name} model", model=given[model],
            positive=given[positive], latent_image=latent, layout=given["layout"], image=image,
            seed=SEED,
        )  # fmt: skip
        shown.append((f"attention_{name}", maps))
    for row, (title, source) in enumerate(shown):
        graph.add("PreviewImage", (1560, row * 420), title, images=source)
        graph.nodes[-1]["size"] = [560, 380]
    graph.note((0, 1180), (
        "## Look inside\n\nWhile it runs, RealCompo Dual Sampler shows the mix and where both"
        " models' attention is; afterwards, drag its slider through the steps.\n\nThe same as"
        " pictures on the right. A saved trace can be drawn another day; *Attention Maps* looks"
        " at any U-Net model, also without RealCompo."
    ), (420, 260))  # fmt: skip


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
    positive, negative = parts.encode_both(graph, (360, 0), clip, text, worse)
    plain, against = parts.encode_both(graph, (360, 440), spatial_clip, text, worse)
    grounded = parts.ground(graph, (360, 880), plain, spatial_clip, gligen, layout)
    latent = parts.empty_latent(graph, (360, 1100), 512)
    (balancer,) = graph.add("RealCompoBalancer", (760, 0))
    sampled, trace = graph.add(
        "RealCompoDualSampler", (1140, 0), realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=layout, latent_image=latent, seed=SEED,
        steps=STEPS, cfg=7.5, spatial_positive=grounded, spatial_negative=against,
        balancer=balancer,
    )  # fmt: skip
    parts.decode_and_save(graph, (1520, 0), sampled, vae, FOLDER, "sd15")
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
        "CheckpointLoaderSimple", "GLIGENLoader", "PreviewImage", "RealCompoShapesControlNet",
        "RealCompoShapesHint", "ControlNetApplyAdvanced", "RealCompoAttentionMaps",
        "RealCompoMixPreview", "RealCompoSaveTrace", "RealCompoLoadTrace", *CONTROL_CLASSES,
        *LAYOUT_CLASSES, *DENSE_CLASSES, *FINETUNE_CLASSES, *FINE_CLASSES, *REALIGN_CLASSES,
        *CHAIN_CLASSES,
    )  # fmt: skip
    info = host.object_info(names)
    graphs = {
        "realcompo_demo": demo, "realcompo_guider": guider, "realcompo_controlnet": controlnet,
        "realcompo_sd15_gligen": sd15, "realcompo_layout_editor": layout_editor,
        "realcompo_style_swap": style_swap, "realcompo_inspect": inspect, **CONTROL_GRAPHS,
        **LAYOUT_GRAPHS, **DENSE_GRAPHS, **FINETUNE_GRAPHS, **FINE_GRAPHS, **REALIGN_GRAPHS,
        **CHAIN_GRAPHS,
    }  # fmt: skip
    for name, build in graphs.items():
        graph = Graph(info)
        build(graph)
        graph.save(name)
        print(f"workflows/{name}.json")


if __name__ == "__main__":
    main()
