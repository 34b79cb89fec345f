"""The example workflows about layouts: planned from the prompt, and made of masks and colours."""

from __future__ import annotations

from collections.abc import Callable

from workflow_graph import Graph, Slot
from workflow_parts import decode, demo_pair, empty_latent, encode_both, ground, preview, save

SIDE = 128
LAYOUT_CLASSES = (
    "EmptyImage", "ImageCompositeMasked", "RealCompoLayoutFromText", "RealCompoPlannerRequest",
    "RealCompoLayoutFromMasks", "RealCompoLayoutFromPose", "RealCompoLayoutFromSegmentation",
    "RealCompoLayoutToMasks", "RealCompoLayoutMerge", "RealCompoLayoutTransform",
)  # fmt: skip


def _preview(graph: Graph, at: tuple[int, int], layout: Slot, name: str) -> None:
    drawing = preview(graph, at, layout)
    save(graph, (at[0] + 360, at[1]), drawing, f"realcompo_layouts/{name}", name)


def planner(graph: Graph) -> None:
    """A layout from nothing but the prompt, and a picture by it."""
    _, prompt = graph.add(
        "RealCompoPlannerRequest", (0, 0), width=SIDE, height=SIDE,
        prompt="a red star to the left of a blue circle and a green square below",
    )  # fmt: skip
    layout, text, _ = graph.add(
        "RealCompoLayoutFromText", (360, 0), prompt=prompt, method="rules", width=SIDE, height=SIDE
    )
    _preview(graph, (360, 640), layout, "planned")
    realism, clip, vae, spatial, spatial_clip, gligen = demo_pair(graph, 300)
    positive, negative = encode_both(graph, (740, 0), clip, text)
    grounded = ground(graph, (740, 440), positive, spatial_clip, gligen, layout)
    latent = empty_latent(graph, (1080, 640), SIDE)
    sampled, _ = graph.add(
        "RealCompoDualSampler", (1120, 0), realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=layout, latent_image=latent, seed=7,
        steps=30, cfg=3.0, sampler_name="euler", scheduler="normal", spatial_positive=grounded,
    )  # fmt: skip
    image = decode(graph, (1500, 0), sampled, vae)
    save(graph, (1500, 120), image, "realcompo_layouts/by_the_plan", "by the plan")
    graph.note((0, 760), (
        "## A layout from the prompt\n\nThe planner's method is *rules* here, so that it runs"
        " anywhere: it takes the prompt's things, numbers and words for places literally.\n\nFor a"
        " *language model* set the method, and endpoint and model to those of your server (Ollama,"
        " llama.cpp, vLLM, ...). Or connect `request` to any node that writes text, and that"
        " node's text to `llm_output`."
    ), (340, 300))  # fmt: skip


def converters(graph: Graph) -> None:
    """Regions out of masks and a segmentation picture, merged and mirrored."""
    boxes = (
        ("a red star: 0.06 0.12 0.46 0.52", "a red star", 0xFF0000),
        ("a blue circle: 0.55 0.08 0.92 0.45", "a blue circle", 0x0000FF),
    )
    (picture,) = graph.add(
        "EmptyImage", (360, 0), "Black", width=SIDE, height=SIDE, batch_size=1, color=0
    )
    for row, (line, phrase, colour) in enumerate(boxes):
        at = 220 + 420 * row
        drawn, _ = graph.add("RealCompoLayoutFromBoxes", (0, at), phrases=line, prompt=phrase)
        masks, _, _ = graph.add(
            "RealCompoLayoutToMasks", (360, at), layout=drawn, width=SIDE, height=SIDE, soft=False
        )
        (paint,) = graph.add(
            "EmptyImage", (360, at + 200), phrase, width=SIDE, height=SIDE, batch_size=1,
            color=colour,
        )  # fmt: skip
        (picture,) = graph.add(
            "ImageCompositeMasked", (720, at), destination=picture, source=paint, x=0, y=0,
            resize_source=False, mask=masks,
        )  # fmt: skip
    save(graph, (1080, 420), picture, "realcompo_layouts/segmentation", "segmentation")
    seen, _ = graph.add(
        "RealCompoLayoutFromSegmentation", (1080, 0), image=picture,
        phrases="#ff0000: a red star\n#0000ff: a blue circle",
        prompt="a red star and a blue circle",
    )  # fmt: skip
    square, _ = graph.add(
        "RealCompoLayoutFromBoxes", (0, 1060), phrases="a green square: 0.32 0.58 0.70 0.95"
    )
    painted, _, _ = graph.add(
        "RealCompoLayoutToMasks", (360, 1060), layout=square, width=SIDE, height=SIDE
    )
    masked, _ = graph.add(
        "RealCompoLayoutFromMasks", (720, 1060), masks=painted, phrases="a green square",
        prompt="a green square",
    )  # fmt: skip
    merged, _ = graph.add("RealCompoLayoutMerge", (1460, 0), layout_1=seen, layout_2=masked)
    mirrored, _ = graph.add(
        "RealCompoLayoutTransform", (1460, 300), layout=merged, flip="horizontal"
    )
    _preview(graph, (1820, 0), merged, "merged")
    _preview(graph, (1820, 420), mirrored, "mirrored")
    graph.note((0, 1400), (
        "## Layouts from other nodes\n\nWhat a detector, a brush or a segmentation model has"
        " found becomes a layout: here a segmentation picture (made of two boxes, to need no"
        " model) and a mask. *Merge* puts layouts and prompts together, *Transform* moves"
        " them."
    ), (340, 320))  # fmt: skip


LAYOUT_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_planner": planner,
    "realcompo_masks": converters,
}
