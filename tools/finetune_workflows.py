"""The example workflows about finetuning: Separate-and-Enhance, before and after."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

FINETUNE_CLASSES = (
    "RealCompoSeparateEnhance", "RealCompoSeparationReport", "RealCompoSaveLoRA",
    "LoraModelLoader", "LossGraphNode", "KSamplerAdvanced",
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
SEED, STEPS = 12, 20
TUNED_STEPS = 4
SAMPLING = {"seed": SEED, "steps": STEPS, **parts.DEMO_SAMPLING, "denoise": 1.0}
# What suits the demo's tiny models; for SD1.5 the node's own numbers go out from the paper's.
TRAINING = {
    "steps": 100, "batch_size": 8, "learning_rate": 1e-3, "separate": 1.0, "enhance": 0.5,
    "norm": 0.0, "seed": 1, "lines": "concepts", "template": "{a} and {b}", "pairs": 40,
    "targets": "to_q", "heads": "mean", "map_level": "2", "end": 0.2, "states": "own sampling",
    "sampling_steps": STEPS, "sampling_cfg": SAMPLING["cfg"], "width": 128, "height": 128,
}  # fmt: skip


def separate_enhance(graph: Graph) -> None:
    """Finetune on pairs of concepts, then draw a pair that was not among them."""
    model, clip, vae, _ = parts.demo_model(graph, (0, 0), "One model")
    lora, loss, _ = graph.add(
        "RealCompoSeparateEnhance", (360, 0), model=model, clip=clip, prompts=CONCEPTS, **TRAINING
    )
    (tuned,) = graph.add("LoraModelLoader", (800, 0), model=model, lora=lora, strength_model=1.0)
    graph.add("LossGraphNode", (800, 180), loss=loss, filename_prefix="realcompo_sepen_loss")
    graph.add(
        "RealCompoSaveLoRA", (800, 560), lora=lora, loss=loss,
        filename_prefix="loras/realcompo_sepen",
    )  # fmt: skip
    positive, negative = parts.encode_both(graph, (0, 220), clip, PROMPT)
    latent = parts.empty_latent(graph, (0, 660), batch=4)
    shared = {"positive": positive, "negative": negative, "latent_image": latent}
    _before(graph, model, shared, vae)
    _after(graph, model, tuned, shared, vae)
    for row, (name, chosen) in enumerate((("before", model), ("after", tuned))):
        _report(graph, row, name, chosen, clip)
    graph.note((360, 900), (
        "## Separate and Enhance\n\nFinetunes the model's cross-attention, so that the"
        " objects of a prompt are all there and do not mix. It needs no pictures: the losses look"
        " at attention maps alone. The LoRA goes into Load LoRA Model at once, and into a file.\n\n"
        "What is where is settled in the first steps, so the finetuned model draws these and the"
        " model as it was the others: as many objects are won, and the look is kept better.\n\n"
        "Here: a short training on pairs of twelve concepts. The prompt on the right is not among"
        " them; its seed is one that the model as it was fails at. Over many prompts and with a"
        " longer training both things were there in 11 of 100 pictures more. The numbers suit the"
        " demo's tiny models. For SD1.5 begin with the node's own."
    ), (420, 300))  # fmt: skip


def _before(graph: Graph, model: Slot, shared: dict[str, Slot], vae: Slot) -> None:
    (sampled,) = graph.add(
        "KSampler", (1180, 0), "KSampler: before", model=model, **shared, **SAMPLING
    )
    _picture(graph, (1860, 0), "before", sampled, vae)


def _after(graph: Graph, model: Slot, tuned: Slot, shared: dict[str, Slot], vae: Slot) -> None:
    """The same run, its first steps by the finetuned model."""
    sampling = {name: value for name, value in SAMPLING.items() if name not in ("seed", "denoise")}
    both = {**sampling, **shared, "noise_seed": SEED}
    (begun,) = graph.add(
        "KSamplerAdvanced", (1180, 320), "First steps: after", model=tuned, **both,
        add_noise="enable", start_at_step=0, end_at_step=TUNED_STEPS,
        return_with_leftover_noise="enable",
    )  # fmt: skip
    (sampled,) = graph.add(
        "KSamplerAdvanced", (1520, 320), "The other steps: after", model=model,
        **{**both, "latent_image": begun}, add_noise="disable", start_at_step=TUNED_STEPS,
        end_at_step=10000, return_with_leftover_noise="disable",
    )  # fmt: skip
    _picture(graph, (1860, 320), "after", sampled, vae)


def _picture(graph: Graph, at: tuple[int, int], name: str, latent: Slot, vae: Slot) -> None:
    parts.decode_and_save(graph, at, latent, vae, "realcompo_sepen", name, apart=(300, 0))


def _report(graph: Graph, row: int, name: str, model: Slot, clip: Slot) -> None:
    image, _, _, _ = graph.add(
        "RealCompoSeparationReport", (1180, 700 + row * 320), f"Report: {name}", model=model,
        clip=clip, prompts=f"{PROMPT} | {PHRASES}", noise_levels="0.05, 0.2, 0.35",
        map_level="2", seed=SEED, width=128, height=128,
    )  # fmt: skip
    at = (1520, 700 + row * 320)
    parts.save(graph, at, image, f"realcompo_sepen/maps_{name}", f"maps {name}")


FINETUNE_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_separate_enhance": separate_enhance,
}
