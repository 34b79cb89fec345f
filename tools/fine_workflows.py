"""The example workflows of the fine stage (after RealignDiff): from the same noise, from the coarse
latent."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

FINE_CLASSES = (
    "RealCompoPromptPhrases", "RealCompoDenseCaptions", "RealCompoReweightedAttention",
    "RealCompoShapesDetector",
)  # fmt: skip
PROMPT = "a purple star and a purple square"
SAMPLING = {"steps": 20, **parts.DEMO_SAMPLING}
# The demo's models settle things later than SD does, and self-attention that is kept to regions
# costs them more than it helps; for SD the node's own numbers are where to start.
FRACTION = 0.6
STRENGTH = {"self_weight": 0.0, "power": 1.0}


def _coarse(
    graph: Graph, seed: int, per_phrase: bool, fraction: float = FRACTION
) -> dict[str, Slot]:
    """A coarse picture, what the detector saw in it, its layout, and the model re-weighted."""
    model, clip, vae, _ = parts.demo_model(graph, (0, 0), "One model")
    phrases, names, _, prompt = graph.add("RealCompoPromptPhrases", (0, 200), prompt=PROMPT)
    first, negative = parts.encode_both(graph, (360, 0), clip, prompt, apart=200, title="Prompt")
    empty = parts.empty_latent(graph, (360, 400))
    (latent,) = graph.add(
        "KSampler", (720, 0), "Coarse", model=model, positive=first, negative=negative,
        latent_image=empty, denoise=1.0, seed=seed, **SAMPLING,
    )  # fmt: skip
    coarse = parts.decode(graph, (1060, 0), latent, vae)
    # a detector that takes a text runs once for each name; one that takes none finds everything
    limited = {"only": names} if per_phrase else {}
    labels, masks, _ = graph.add(
        "RealCompoShapesDetector", (1060, 120), "Your detector", image=coarse, **limited
    )
    layout, text, _, _ = graph.add(
        "RealCompoDenseCaptions", (1400, 0), prompt=prompt, masks=masks, tags=labels, image=coarse
    )
    (positive,) = graph.add("CLIPTextEncode", (1760, 0), "Prompt again", clip=clip, text=text)
    modulated, marked = graph.add(
        "RealCompoReweightedAttention", (1760, 200), model=model, clip=clip, positive=positive,
        layout=layout, fraction=fraction, **STRENGTH,
    )  # fmt: skip
    return {
        "vae": vae, "negative": negative, "empty": empty, "latent": latent, "coarse": coarse,
        "layout": layout, "model": modulated, "positive": marked,
    }  # fmt: skip


def _finish(
    graph: Graph, given: dict[str, Slot], title: str, start: Slot, seed: int, denoise: float,
    name: str,
) -> None:  # fmt: skip
    """The second pass from the latent ``start``; both pictures and the regions."""
    (latent,) = graph.add(
        "KSampler", (2100, 0), title, model=given["model"], positive=given["positive"],
        negative=given["negative"], latent_image=start, denoise=denoise, seed=seed, **SAMPLING,
    )  # fmt: skip
    fine = parts.decode(graph, (2440, 0), latent, given["vae"])
    found = parts.preview(graph, (1760, 560), given["layout"], image=given["coarse"])
    for row, (title, picture) in enumerate(
        (("coarse", given["coarse"]), ("regions", found), ("fine", fine))
    ):
        parts.save(graph, (2440 + 340 * row, 140), picture, f"{name}/{title}", title)


def same_noise(graph: Graph) -> None:
    """The whole picture again, from the noise that the coarse one came from."""
    given = _coarse(graph, SEED_NOISE, per_phrase=False)
    start = given["empty"]
    _finish(graph, given, "Fine: same noise", start, SEED_NOISE, 1.0, "realcompo_fine")
    graph.note((0, 560), (
        "## Coarse to fine (after RealignDiff)\n\nThe model draws the prompt. A detector"
        " looks at the picture; *Dense Captions* gives what it found the prompt's words:"
        " nouns decide which phrase it is, attributes come from the prompt, what is missing"
        " gets free room. *Re-weighted Attention* keeps the phrases to these regions while"
        " the same noise is drawn again.\n\nPut your own detector in the place of *Shapes"
        " Demo Detector* (SAM 3, Grounded SAM, Florence-2, RT-DETR, Impact Pack ...): masks"
        " and labels, or boxes with labels. Look at `report` with *Preview Any*. For SD1.5"
        " and SDXL leave the node's own numbers."
    ), (620, 320))  # fmt: skip


def from_latent(graph: Graph) -> None:
    """On top of the coarse latent, and with a detector that looks for one phrase at a time."""
    # the first part of the schedule is over where this begins
    given = _coarse(graph, SEED_LATENT, per_phrase=True, fraction=1.0)
    title, name = "Fine: from the coarse latent", "realcompo_fine_latent"
    _finish(graph, given, title, given["latent"], SEED_AGAIN, DENOISE, name)
    graph.note((0, 560), (
        "## From the coarse latent\n\nThe fine pass starts from the coarse picture with"
        " noise on it (*denoise* below 1): more of the picture stays, less can be put"
        " right, missing things least. Its seed is another one: the noise that a picture came"
        " from is no fresh noise to it, and *fraction* is 1, as the first part of the schedule is"
        " over.\n\n*Prompt Phrases* gives a list, so that the"
        " detector runs once for each thing; *Dense Captions* puts masks and names together"
        " again. Names leave the attributes out: the thing is found in whatever colour it was"
        " drawn."
    ), (620, 260))  # fmt: skip


SEED_NOISE, SEED_LATENT = 12, 11
# The noise that a picture came from is no fresh noise to it: put on its own latent, what both share
# would count twice.
SEED_AGAIN, DENOISE = 101, 0.8
FINE_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_fine": same_noise,
    "realcompo_fine_latent": from_latent,
}
