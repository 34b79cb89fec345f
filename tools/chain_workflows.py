"""The example workflow in which all four methods follow one another."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

CHAIN_CLASSES = ("LatentFromBatch", "ImageBatch")
PROMPT = "a purple star and an orange circle"
PHRASES = "a purple star: 0.08 0.12 0.46 0.50\nan orange circle: 0.52 0.48 0.92 0.88"
FOLDER = "realcompo_all_four"
SEED, CANDIDATES = 9, 4
SAMPLING = {"seed": SEED, "steps": 20, **parts.DEMO_SAMPLING}
# Chosen on pairs that the bench does not draw; for SD the nodes' own numbers are where to start.
DENSE = {"cross_strength": 1.0, "self_strength": 1.0, "end_fraction": 0.6, "power": 1.0}
FINE = {"fraction": 0.6, "self_weight": 0.0, "power": 1.0}


def _start(graph: Graph) -> dict[str, Slot]:
    """Models, layout, prompts and noise."""
    given = {}
    given["plain"], clip, vae, _ = parts.demo_model(graph, (0, 0), "Realism model")
    given["tuned"], _, _, _ = parts.demo_model(
        graph, (0, 240), "Realism model, finetuned", finetuned="Separate and Enhance"
    )
    given["spatial"], spatial_clip, _, gligen = parts.demo_model(
        graph, (0, 480), "Spatial model", "spatial"
    )
    (given["captioner"],) = graph.add("RealCompoShapesCaptioner", (0, 720))
    given["layout"], given["text"] = graph.add(
        "RealCompoLayoutFromBoxes", (360, 0), "Layout", phrases=PHRASES, prompt=PROMPT
    )
    positive, negative = parts.encode_both(graph, (360, 430), clip, given["text"], apart=240)
    given["grounded"] = parts.ground(
        graph, (360, 910), positive, spatial_clip, gligen, given["layout"]
    )
    given["positive"], given["negative"] = positive, negative
    given["four"] = parts.empty_latent(graph, (0, 840), batch=CANDIDATES, title="Four candidates")
    # the noise of one of four is that of its place in the batch
    (given["one"],) = graph.add(
        "LatentFromBatch", (0, 1020), "The first of them", samples=given["four"], batch_index=0,
        length=1,
    )  # fmt: skip
    given["clip"], given["vae"] = clip, vae
    return given


def _save(graph: Graph, at: tuple[int, int], image: Slot, name: str) -> None:
    parts.save(graph, at, image, f"{FOLDER}/{name}", name)


def _decoded(graph: Graph, at: tuple[int, int], latent: Slot, vae: Slot, name: str) -> Slot:
    return parts.decode_and_save(graph, at, latent, vae, FOLDER, name, apart=(0, 160))


def _alone(graph: Graph, given: dict[str, Slot]) -> None:
    """The realism model before and after finetuning."""
    for row, (name, model) in enumerate((("plain", "plain"), ("sepen", "tuned"))):
        (latent,) = graph.add(
            "KSampler", (760, row * 400), f"Realism model: {name}", model=given[model],
            positive=given["positive"], negative=given["negative"], latent_image=given["one"],
            denoise=1.0, **SAMPLING,
        )  # fmt: skip
        _decoded(graph, (1080, row * 400), latent, given["vae"], name)


def _pairs(graph: Graph, given: dict[str, Slot]) -> Slot:
    """RealCompo alone; then with the realism branch finetuned and modulated, four times, whose
    pictures are returned."""
    dense, marked = graph.add(
        "RealCompoDenseAttention", (760, 1480), model=given["tuned"], clip=given["clip"],
        positive=given["positive"], layout=given["layout"], **DENSE,
    )  # fmt: skip
    made = (
        ("realcompo", given["plain"], given["positive"], given["one"]),
        ("candidates", dense, marked, given["four"]),
    )
    images: dict[str, Slot] = {}
    for row, (name, model, positive, noise) in enumerate(made):
        latent, _ = graph.add(
            "RealCompoDualSampler", (1080, 920 + row * 560), f"RealCompo Dual Sampler: {name}",
            realism_model=model, spatial_model=given["spatial"], positive=positive,
            negative=given["negative"], layout=given["layout"], latent_image=noise,
            spatial_positive=given["grounded"], denoise=1.0, **SAMPLING,
        )  # fmt: skip
        images[name] = _decoded(graph, (1400, 920 + row * 560), latent, given["vae"], name)
    return images["candidates"]


def _best(
    graph: Graph, given: dict[str, Slot], at: tuple[int, int], images: Slot
) -> tuple[Slot, Slot]:
    """The picture whose caption is nearest to the prompt, of equal ones the first; its place."""
    captioner = given["captioner"]
    rewards = parts.caption_rewards(
        graph, at, captioner, images, given["text"], given["clip"], 210, max_tokens=24
    )
    _, best, index, _ = graph.add(
        "RealCompoPickBest", (at[0], at[1] + 500), rewards=rewards, keep=1, among="each batch",
        images=images,
    )  # fmt: skip
    return best, index


def _fine(graph: Graph, given: dict[str, Slot], best: Slot, index: Slot) -> Slot:
    """What is seen in the best picture becomes a layout, and the same noise is drawn again."""
    labels, masks, _ = graph.add("RealCompoShapesDetector", (2120, 0), "Your detector", image=best)
    layout, text, _, _ = graph.add(
        "RealCompoDenseCaptions", (2120, 260), prompt=given["text"], masks=masks, tags=labels,
        image=best, fallback=given["layout"],
    )  # fmt: skip
    seen = parts.preview(graph, (2120, 1020), layout, image=best)
    _save(graph, (2120, 1240), seen, "regions")
    (positive,) = graph.add(
        "CLIPTextEncode", (2440, 0), "Prompt again", clip=given["clip"], text=text
    )
    modulated, marked = graph.add(
        "RealCompoReweightedAttention", (2440, 240), model=given["tuned"], clip=given["clip"],
        positive=positive, layout=layout, **FINE,
    )  # fmt: skip
    (noise,) = graph.add(
        "LatentFromBatch", (2440, 690), "Its noise", samples=given["four"], batch_index=index,
        length=1,
    )  # fmt: skip
    latent, _ = graph.add(
        "RealCompoDualSampler", (2440, 880), "RealCompo Dual Sampler: fine",
        realism_model=modulated, spatial_model=given["spatial"], positive=marked,
        negative=given["negative"], layout=given["layout"], latent_image=noise,
        spatial_positive=given["grounded"], denoise=1.0, **SAMPLING,
    )  # fmt: skip
    return _decoded(graph, (2760, 880), latent, given["vae"], "fine")


def all_four(graph: Graph) -> None:
    """Finetuned, placed, chosen among four, drawn again; each stage's picture is saved."""
    given = _start(graph)
    _alone(graph, given)
    candidates = _pairs(graph, given)
    best, index = _best(graph, given, (1760, 0), candidates)
    _save(graph, (1760, 740), best, "best")
    fine = _fine(graph, given, best, index)
    # of equal ones the first is kept: the fine picture, unless its reward is less
    (both,) = graph.add("ImageBatch", (2760, 0), "Fine, then coarse", image1=fine, image2=best)
    chosen, _ = _best(graph, given, (3080, 0), both)
    _save(graph, (3080, 740), chosen, "chain")
    graph.note((1760, 960), (
        "## All four methods, one after the other\n\n1. *Separate-and-Enhance* has finetuned the"
        " realism model (on your own models: Load LoRA).\n2. *RealCompo* places the things; *Dense"
        " Attention* lends its realism branch the regions, too.\n3. The captioner keeps the *best"
        " of four* (RealignDiff's coarse stage).\n4. A detector looks at it, Dense Captions says"
        " what should be where, *Re-weighted Attention* draws it again from the same noise (the"
        " fine stage); it is kept unless its reward is less."
    ), (320, 420))  # fmt: skip
    graph.group("Models, layout, noise", -20, -80, 700, 1260)
    graph.group("1 Separate-and-Enhance: before, after", 740, -80, 660, 860)
    graph.group("2 RealCompo alone, and with 1 and Dense Attention", 740, 840, 980, 1140)
    graph.group("3 Best of four", 1740, -80, 340, 980)
    graph.group("4 Fine stage, and the better of both", 2100, -80, 1300, 1560)


CHAIN_GRAPHS: dict[str, Callable[[Graph], None]] = {"realcompo_all_four": all_four}
