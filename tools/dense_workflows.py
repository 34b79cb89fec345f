"""The example workflows about Dense Attention: alone, and as the spatial branch of a pair."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

DENSE_CLASSES = ("RealCompoDenseAttention",)
PROMPT = "a red star and a blue circle"
PHRASES = "a red star: 0.08 0.14 0.46 0.52\na blue circle: 0.54 0.46 0.92 0.84"
SAMPLING = {"seed": 9, "steps": 30, **parts.DEMO_SAMPLING}
# The demo's models settle places later than SD does; for SD the node's own numbers are right.
STRENGTH = {"cross_strength": 1.0, "self_strength": 1.0, "end_fraction": 0.6, "power": 1.0}


def _start(graph: Graph) -> dict[str, Slot]:
    """One checkpoint, layout, prompts and latent, and the checkpoint modulated."""
    model, clip, vae, _ = parts.demo_model(graph, (0, 0), "One model")
    layout, text = graph.add("RealCompoLayoutFromBoxes", (0, 200), phrases=PHRASES, prompt=PROMPT)
    positive, negative = parts.encode_both(graph, (360, 0), clip, text)
    latent = parts.empty_latent(graph, (360, 440))
    dense, marked = graph.add(
        "RealCompoDenseAttention", (740, 0), model=model, clip=clip, positive=positive,
        layout=layout, **STRENGTH,
    )  # fmt: skip
    return {
        "model": model, "vae": vae, "layout": layout, "positive": positive, "negative": negative,
        "latent": latent, "dense": dense, "marked": marked,
    }  # fmt: skip


def _picture(graph: Graph, at: tuple[int, int], latent: Slot, vae: Slot, name: str) -> Slot:
    return parts.decode_and_save(graph, at, latent, vae, "realcompo_dense", name, apart=(340, 0))


def dense(graph: Graph) -> None:
    """The same seed without and with the node."""
    given = _start(graph)
    images: dict[str, Slot] = {}
    for row, (name, model, positive) in enumerate(
        (("plain", "model", "positive"), ("dense", "dense", "marked"))
    ):
        (latent,) = graph.add(
            "KSampler", (1120, row * 320), f"KSampler: {name}", model=given[model],
            positive=given[positive], negative=given["negative"], latent_image=given["latent"],
            denoise=1.0, **SAMPLING,
        )  # fmt: skip
        images[name] = _picture(graph, (1460, row * 320), latent, given["vae"], name)
    checked = parts.preview(graph, (1460, 640), given["layout"], image=images["dense"])
    parts.save(graph, (1800, 640), checked, "realcompo_dense/checked", "checked")
    graph.note((0, 560), (
        "## Dense Attention (DenseDiffusion)\n\nOne ordinary model, no GLIGEN, no ControlNet: its"
        " own attention is modulated in the first steps, so that each phrase appears in its region."
        " Take both outputs of the node: the model and the prompt.\n\nFor SD1.5 and SDXL leave the"
        " node's own numbers (1, 0.3, 0.3, power 5); those here are for the demo's tiny models."
    ), (420, 280))  # fmt: skip


def pair(graph: Graph) -> None:
    """The modulated model as the spatial branch: RealCompo from one checkpoint."""
    given = _start(graph)
    latent, trace = graph.add(
        "RealCompoDualSampler", (1120, 0), realism_model=given["model"],
        spatial_model=given["dense"], positive=given["positive"], negative=given["negative"],
        layout=given["layout"], latent_image=given["latent"], spatial_positive=given["marked"],
        **SAMPLING,
    )  # fmt: skip
    _picture(graph, (1500, 0), latent, given["vae"], "dense_pair")
    (plot,) = graph.add("RealCompoTracePlot", (1500, 220), trace=trace)
    parts.save(graph, (1840, 220), plot, "realcompo_dense/dense_pair_trace", "dense_pair_trace")
    graph.note((0, 560), (
        "## RealCompo from one checkpoint\n\nThe spatial branch is the same model with Dense"
        " Attention: no trained layout model at all. The realism branch keeps the look, the"
        " modulated one the places, and the balancer mixes them.\n\nAny two checkpoints of one"
        " family do as well."
    ), (420, 240))  # fmt: skip


DENSE_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_dense": dense,
    "realcompo_dense_pair": pair,
}
