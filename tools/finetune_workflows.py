"""The example workflows about finetuning: Separate-and-Enhance, before and after."""

from __future__ import annotations

from collections.abc import Callable

from workflow_graph import Graph, Slot

FINETUNE_CLASSES = (
    "RealCompoSeparateEnhance", "RealCompoSeparationReport", "RealCompoSaveLoRA",
    "LoraModelLoader", "LossGraphNode",
)  # fmt: skip
PROMPT, PHRASES = "an orange star and a purple circle", "an orange star | a purple circle"
CONCEPTS = "\n".join(
    f"{'an' if colour == 'orange' else 'a'} {colour} {shape}"
    for colour, shape in (
        ("red", "circle"), ("orange", "square"), ("yellow", "star"), ("green", "cross"),
        ("blue", "triangle"), ("purple", "circle"), ("red", "square"), ("orange", "star"),
        ("yellow", "cross"), ("green", "triangle"), ("blue", "circle"), ("purple", "square"),
    )
)  # fmt: skip
SEED, STEPS, CFG = 5, 20, 3.0
SAMPLING = {
    "seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal",
    "denoise": 1.0,
}  # fmt: skip
# What suits the demo's tiny models; for SD1.5 the node's own numbers go out from the paper's.
TRAINING = {
    "steps": 100, "batch_size": 8, "learning_rate": 1e-3, "separate": 1.0, "enhance": 0.5,
    "norm": 0.0, "seed": 1, "lines": "concepts", "template": "{a} and {b}", "pairs": 40,
    "targets": "to_q", "heads": "mean", "map_level": "2", "end": 0.34, "states": "own sampling",
    "sampling_cfg": CFG, "width": 128, "height": 128,
}  # fmt: skip


def separate_enhance(graph: Graph) -> None:
    """Finetune on pairs of concepts, then draw a pair that was not among them."""
    model, clip, vae, _ = graph.add(
        "RealCompoShapesLoader", (0, 0), "One model", style="realistic", part="realism"
    )
    lora, loss, _ = graph.add(
        "RealCompoSeparateEnhance", (360, 0), model=model, clip=clip, prompts=CONCEPTS, **TRAINING
    )
    (tuned,) = graph.add("LoraModelLoader", (800, 0), model=model, lora=lora, strength_model=1.0)
    graph.add("LossGraphNode", (800, 180), loss=loss, filename_prefix="realcompo_sepen_loss")
    graph.add(
        "RealCompoSaveLoRA", (800, 560), lora=lora, loss=loss,
        filename_prefix="loras/realcompo_sepen",
    )  # fmt: skip
    (positive,) = graph.add("CLIPTextEncode", (0, 220), "Positive", clip=clip, text=PROMPT)
    (negative,) = graph.add("CLIPTextEncode", (0, 440), "Negative", clip=clip, text="")
    (latent,) = graph.add("EmptyLatentImage", (0, 660), width=128, height=128, batch_size=4)
    for row, (name, chosen) in enumerate((("before", model), ("after", tuned))):
        _picture(graph, row, name, chosen, positive, negative, latent, vae)
        _report(graph, row, name, chosen, clip)
    graph.note((360, 900), (
        "## Separate and Enhance\n\nFinetunes the keys of the model's cross-attention, so that the"
        " objects of a prompt are all there and do not mix. It needs no pictures: the losses look"
        " at attention maps alone. The LoRA goes into Load LoRA Model at once, and into a file.\n\n"
        "Here: pairs of twelve concepts; the prompt on the right is not among them. The numbers"
        " suit the demo's tiny models. For SD1.5 begin with the node's own."
    ), (420, 300))  # fmt: skip


def _picture(
    graph: Graph, row: int, name: str, model: Slot, positive: Slot, negative: Slot, latent: Slot,
    vae: Slot,
) -> None:  # fmt: skip
    (sampled,) = graph.add(
        "KSampler", (1180, row * 320), f"KSampler: {name}", model=model, positive=positive,
        negative=negative, latent_image=latent, **SAMPLING,
    )  # fmt: skip
    (image,) = graph.add("VAEDecode", (1520, row * 320), samples=sampled, vae=vae)
    graph.add(
        "SaveImage", (1860, row * 320), name, images=image,
        filename_prefix=f"realcompo_sepen/{name}",
    )  # fmt: skip


def _report(graph: Graph, row: int, name: str, model: Slot, clip: Slot) -> None:
    image, _, _, _ = graph.add(
        "RealCompoSeparationReport", (1180, 700 + row * 320), f"Report: {name}", model=model,
        clip=clip, prompts=f"{PROMPT} | {PHRASES}", noise_levels="0.05, 0.2, 0.35",
        map_level="2", seed=SEED, width=128, height=128,
    )  # fmt: skip
    graph.add(
        "SaveImage", (1520, 700 + row * 320), f"maps {name}", images=image,
        filename_prefix=f"realcompo_sepen/maps_{name}",
    )  # fmt: skip


FINETUNE_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_separate_enhance": separate_enhance,
}
