"""The example workflows of the coarse stage after RealignDiff."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

REALIGN_CLASSES = (
    *("RealCompoPromptList", "RealCompoLoadCaptioner", "RealCompoShapesCaptioner"),
    *("RealCompoCaption", "RealCompoCaptionReward", "RealCompoLikelihoodReward"),
    *("RealCompoPickBest", "RealCompoRewardRankedSet", "RealCompoReFLTrain", "ImageFromBatch"),
    *("TrainLoraNode", "RealCompoSaveLoRA", "LossGraphNode", "LoraModelLoader"),
)
PROMPTS = "a yellow triangle and an orange star\na red star and a blue circle\n" + (
    "a green cross and a purple square"
)
TRAINED_ON = (
    *("a red circle and a blue square", "a green star and a yellow cross"),
    *("a purple triangle and a red square", "an orange cross and a blue star"),
    *("a yellow circle and a green triangle", "a blue cross and a purple circle"),
    *("a red triangle and an orange square", "a green square and a yellow star"),
)
SAMPLING = {"steps": 20, **parts.DEMO_SAMPLING}


def _save(graph: Graph, at: tuple[int, int], image: Slot, name: str) -> None:
    parts.save(graph, at, image, f"realcompo_realign/{name}", name)


def coarse(graph: Graph) -> None:
    """Best of N for each of several prompts, by captions."""
    model, clip, vae, _ = parts.demo_model(graph, (0, 0), "The model")
    (captioner,) = graph.add("RealCompoShapesCaptioner", (0, 200))
    prompts, _ = graph.add("RealCompoPromptList", (0, 320), prompts=PROMPTS)
    positive, negative = parts.encode_both(graph, (360, 0), clip, prompts)
    latent = parts.empty_latent(graph, (360, 440), batch=4)
    (sampled,) = graph.add(
        "KSampler", (740, 0), model=model, positive=positive, negative=negative,
        latent_image=latent, seed=3, denoise=1.0, **SAMPLING,
    )  # fmt: skip
    images = parts.decode(graph, (740, 320), sampled, vae)
    rewards = parts.caption_rewards(
        graph, (1120, 0), captioner, images, prompts, clip, max_tokens=24
    )
    _, best, _, _ = graph.add(
        "RealCompoPickBest", (1120, 480), rewards=rewards, keep=1, among="each batch",
        images=images, latents=sampled,
    )  # fmt: skip
    likely, _ = graph.add(
        "RealCompoLikelihoodReward", (1120, 760), prompt=prompts, captioner=captioner,
        images=images,
    )  # fmt: skip
    _, likeliest, _, _ = graph.add(
        "RealCompoPickBest", (1120, 1020), "RealCompo Pick Best: by likelihood", rewards=likely,
        keep=1, among="each batch", images=images,
    )  # fmt: skip
    (first,) = graph.add(
        "ImageFromBatch", (740, 460), "The first, unchosen", image=images, batch_index=0, length=1
    )
    _save(graph, (1500, 0), first, "first")
    _save(graph, (1500, 340), best, "best")
    _save(graph, (1500, 1020), likeliest, "likeliest")
    graph.note((0, 620), (
        "## Best of four (after RealignDiff)\n\nEvery prompt of the list is drawn four times. A"
        " captioner says what it sees, the reward says how near that is to the prompt, and the best"
        " picture of each prompt is kept.\n\n*Caption Reward* takes captions from any captioner."
        " For your own models use *Load Captioner* with a BLIP, BLIP-2 or Florence-2 folder."
    ), (660, 240))  # fmt: skip


def refl(graph: Graph) -> None:
    """A LoRA by the captioner's reward, and the same seed before and after."""
    model, clip, vae, _ = parts.demo_model(graph, (0, 0), "The model")
    (captioner,) = graph.add("RealCompoShapesCaptioner", (0, 200))
    lora, losses, _ = graph.add(
        "RealCompoReFLTrain", (360, 0), model=model, clip=clip, vae=vae, captioner=captioner,
        prompts="\n".join(TRAINED_ON), width=128, height=128, **TRAINING,
    )  # fmt: skip
    (tuned,) = graph.add("LoraModelLoader", (740, 0), model=model, lora=lora, strength_model=1.0)
    graph.add(
        "RealCompoSaveLoRA", (740, 160), lora=lora, filename_prefix="loras/realcompo_refl",
        loss=losses,
    )  # fmt: skip
    graph.add("LossGraphNode", (740, 300), loss=losses, filename_prefix="realcompo_refl_loss")
    positive, negative = parts.encode_both(graph, (740, 440), clip, "a red star and a blue circle")
    latent = parts.empty_latent(graph, (740, 880))
    for row, (name, used) in enumerate((("before", model), ("after", tuned))):
        (sampled,) = graph.add(
            "KSampler", (1120, row * 340), f"KSampler: {name}", model=used, positive=positive,
            negative=negative, latent_image=latent, seed=5, denoise=1.0, **SAMPLING,
        )  # fmt: skip
        image = parts.decode(graph, (1480, row * 340), sampled, vae)
        _save(graph, (1480, 120 + row * 340), image, name)
    graph.note((0, 320), (
        "## Reward feedback learning (after RealignDiff)\n\nEach step draws a picture down to a"
        " late step and changes the LoRA so that the captioner finds the prompt likelier for it.\n"
        "\nFor real use: many different prompts, a hundred steps and more, and an eye on pictures"
        " of other prompts. The reward goes on rising when they no longer get better; stop before."
    ), (340, 320))  # fmt: skip


# A tenth of what the pack's own LoRA took (120 steps of 4): the template shall end soon.
TRAINING = {
    "steps": 24, "batch_size": 2, "learning_rate": 2e-3, "rank": 4, "seed": 91, "cfg": 1.0,
    "sampling_steps": 10, "stop_from": 0.3, "keep_weight": 15.0,
}  # fmt: skip


def sd15(graph: Graph) -> None:
    """The user's own files: the best of eight for each prompt, and a LoRA trained on them."""
    model, clip, vae = graph.add(
        "CheckpointLoaderSimple", (0, 0), "Any SD1.5 checkpoint",
        ckpt_name="v1-5-pruned-emaonly.safetensors",
    )  # fmt: skip
    (captioner,) = graph.add(
        "RealCompoLoadCaptioner", (0, 200), folder="blip-image-captioning-large"
    )
    prompts, _ = graph.add(
        "RealCompoPromptList", (0, 320),
        prompts="a blue bus and a green traffic light\na red apple and a yellow cup on a table\n"
        "a black cat and a brown dog on a sofa",
    )  # fmt: skip
    positive, negative = parts.encode_both(graph, (360, 0), clip, prompts)
    latent = parts.empty_latent(graph, (360, 440), 512, batch=8)
    (sampled,) = graph.add(
        "KSampler", (740, 0), model=model, positive=positive, negative=negative,
        latent_image=latent, seed=1, steps=25, cfg=7.0, sampler_name="dpmpp_2m",
        scheduler="karras", denoise=1.0,
    )  # fmt: skip
    images = parts.decode(graph, (740, 320), sampled, vae)
    rewards = parts.caption_rewards(graph, (1120, 0), captioner, images, prompts, clip)
    latents, best, _, kept = graph.add(
        "RealCompoPickBest", (1120, 480), rewards=rewards, keep=2, among="each batch",
        images=images, latents=sampled,
    )  # fmt: skip
    _save(graph, (1500, 0), best, "sd15_best")
    chosen, conditioning, _ = graph.add(
        "RealCompoRewardRankedSet", (1500, 340), latents=latents, positive=positive, rewards=kept
    )
    lora, losses, _ = graph.add(
        "TrainLoraNode", (1880, 0), model=model, latents=chosen, positive=conditioning,
        batch_size=2, steps=200, learning_rate=1e-4, rank=8,
    )  # fmt: skip
    graph.add(
        "RealCompoSaveLoRA", (2260, 0), lora=lora, filename_prefix="loras/reward_ranked",
        loss=losses,
    )  # fmt: skip
    graph.add("LossGraphNode", (2260, 160), loss=losses, filename_prefix="reward_ranked_loss")
    graph.note((0, 620), (
        "## Finetune on the best of eight (after RealignDiff)\n\nReward-ranked finetuning: the best"
        " pictures of every prompt, by their captions, are what ComfyUI's own trainer learns from."
        " Use many more prompts than here.\n\nPut a captioner's Hugging Face folder into"
        " models/captioners.\n\nMade for ComfyUI 0.33. *Train LoRA* of releases that still give a"
        " MODEL first (0.3.64 and its like) has other widgets: there, add the node anew, set it as"
        " here, and connect *lora* and *loss*."
    ), (660, 300))  # fmt: skip


REALIGN_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_coarse": coarse,
    "realcompo_refl": refl,
    "realcompo_sd15_coarse": sd15,
}
