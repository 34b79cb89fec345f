"""Finetuning by a captioner's reward, after RealignDiff's coarse stage."""

from __future__ import annotations

from typing import Any, ClassVar

CATEGORY = "RealCompo/realignment"
REFL = "RealCompo ReFL Train (after RealignDiff)"
MAX_SIDE = 16384


class RealCompoReFLTrain:
    """A LoRA by reward feedback."""

    RETURN_TYPES = ("LORA_MODEL", "LOSS_MAP", "INT")
    RETURN_NAMES = ("lora", "loss", "steps")
    OUTPUT_TOOLTIPS = (
        "What was learned. Connect to Save LoRA Weights, or to Load LoRA Model to use it at once.",
        "The losses of every step. Connect to Plot Loss Graph.",
        "Steps that were made. Connect to Save LoRA Weights for the file's name.",
    )
    FUNCTION = "train"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Finetunes a U-Net model so that a captioner finds the prompts likely for its pictures, and"
        " gives a LoRA. Each step samples down to a random late step, predicts the clean picture"
        " there with a gradient, decodes it and raises the mean log-probability of the prompt's"
        " tokens under the captioner (reward feedback learning, ReFL). After RealignDiff, whose own"
        " loss is not public; likelihood, margin and the distance kept from the untrained model are"
        " our choices. Stop early: a reward can rise while pictures get worse."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["refl", "reward finetuning", "alignment"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Models, prompts, how to train, and how to take rewards."""
        from ..balancer.comfy.training import ON_CANCEL, TARGETS
        from ..balancer.training import CHECKPOINTING

        side = {"default": 512, "min": 64, "max": MAX_SIDE, "step": 8}
        import comfy.samplers

        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A U-Net model: SD1.5, SD2, SDXL and the like."}),
                "clip": ("CLIP", {"tooltip": "Encodes the prompts."}),
                "vae": ("VAE", {"tooltip": "Decodes pictures for the captioner."}),
                "captioner": ("REALCOMPO_CAPTIONER", {
                    "tooltip": "Judges the pictures. From Load Captioner.",
                }),
                "prompts": ("STRING", {
                    "multiline": True,
                    "default": "a red circle and a blue square\na green star and a yellow cross",
                    "tooltip": "One prompt per line; lines that begin with # are left out. The more"
                    " they differ, the less is learned by heart.",
                }),
                "width": ("INT", {**side, "tooltip": "Width of the pictures in pixels."}),
                "height": ("INT", {**side, "tooltip": "Height of the pictures in pixels."}),
                "steps": ("INT", {
                    "default": 100, "min": 1, "max": 100000,
                    "tooltip": "Training steps.",
                }),
                "batch_size": ("INT", {
                    "default": 4, "min": 1, "max": 256,
                    "tooltip": "Pictures per step, each of a prompt of its own.",
                }),
                "learning_rate": ("FLOAT", {
                    "default": 1e-4, "min": 1e-8, "max": 1.0, "step": 1e-6, "round": 1e-8,
                    "tooltip": "Of AdamW.",
                }),
                "rank": ("INT", {
                    "default": 8, "min": 0, "max": 512,
                    "tooltip": "Rank of the LoRA; 0 = whole difference matrices.",
                }),
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True,
                    "tooltip": "Of the start values, prompts, noise and steps.",
                }),
            },
            "optional": {
                "sampling_steps": ("INT", {
                    "default": 20, "min": 2, "max": 1000,
                    "tooltip": "Steps of the sampling (Euler) that training cuts short.",
                }),
                "scheduler": (list(comfy.samplers.KSampler.SCHEDULERS), {
                    "default": "normal",
                    "tooltip": "Noise levels of the sampling.",
                }),
                "cfg": ("FLOAT", {
                    "default": 1.0, "min": 1.0, "max": 30.0, "step": 0.1,
                    "tooltip": "Guidance of the sampling against the empty prompt. 1 = none, as"
                    " ReFL was released; the value you draw with shows the pictures you will get,"
                    " and doubles the time.",
                }),
                "stop_from": ("FLOAT", {
                    "default": 0.75, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "The step with a gradient is drawn from here on, as a part of the"
                    " sampling: 0.75 = its last quarter. Earlier steps decide more, but show it"
                    " less clearly.",
                }),
                "stop_to": ("FLOAT", {
                    "default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "And up to here.",
                }),
                "margin": ("FLOAT", {
                    "default": 0.0, "min": -100.0, "max": 0.0, "step": 0.01,
                    "tooltip": "A picture with a reward (mean log-probability) above this teaches"
                    " nothing more. Good value: what Likelihood Reward gives good pictures.",
                }),
                "reward_weight": ("FLOAT", {
                    "default": 1.0, "min": 0.000001, "max": 1000.0, "step": 0.000001,
                    "tooltip": "Factor of the reward's loss.",
                }),
                "keep_weight": ("FLOAT", {
                    "default": 1.0, "min": 0.0, "max": 1000.0, "step": 0.01,
                    "tooltip": "Factor of the distance from the untrained model's predicted noise:"
                    " higher keeps its look better and learns less. 0 = off, and faster.",
                }),
                "prefix": ("STRING", {
                    "default": "",
                    "tooltip": "What the captioner's captions begin with, such as 'a photography"
                    " of'; its words do not count. Florence-2 takes it as the task.",
                }),
                "targets": (list(TARGETS), {
                    "default": "attention",
                    "tooltip": "Layers to train.",
                }),
                "alpha": ("FLOAT", {
                    "default": 8.0, "min": 0.01, "max": 1024.0, "step": 0.01,
                    "tooltip": "Scale of the LoRA: alpha / rank.",
                }),
                "ema": ("FLOAT", {
                    "default": 0.0, "min": 0.0, "max": 0.9999, "step": 0.0001, "round": 0.0001,
                    "tooltip": "Share that a running average of the weights keeps at each step;"
                    " the average is what comes out. 0 = off.",
                }),
                "checkpointing": (list(CHECKPOINTING), {
                    "default": "auto",
                    "tooltip": "Compute activations again instead of keeping them: less memory,"
                    " more time. auto: where memory is short.",
                }),
                "on_cancel": (list(ON_CANCEL), {
                    "default": ON_CANCEL[0],
                    "tooltip": "What the stop button does: keep the state for the next run of the"
                    " same graph, or give out what was learned.",
                }),
                "save_every": ("INT", {
                    "default": 0, "min": 0, "max": 100000,
                    "tooltip": "Steps between saved states, from which a broken run goes on. 0 ="
                    " only when stopped.",
                }),
            },
        }  # fmt: skip

    def train(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        captioner: Any,
        prompts: str,
        width: int,
        height: int,
        steps: int,
        batch_size: int,
        learning_rate: float,
        rank: int,
        seed: int,
        sampling_steps: int = 20,
        scheduler: str = "normal",
        cfg: float = 1.0,
        stop_from: float = 0.75,
        stop_to: float = 1.0,
        margin: float = 0.0,
        reward_weight: float = 1.0,
        keep_weight: float = 1.0,
        prefix: str = "",
        targets: str = "attention",
        alpha: float = 8.0,
        ema: float = 0.0,
        checkpointing: str = "auto",
        on_cancel: str = "resume next time",
        save_every: int = 0,
    ) -> tuple[Any, Any, int]:
        """(LORA_MODEL, LOSS_MAP, steps)."""
        from ..balancer.comfy.refl import ReflSettings, read_prompts, train_by_reward
        from ..balancer.errors import RealCompoError
        from ..balancer.training import TrainingSettings

        try:
            how = TrainingSettings(
                steps=steps, batch_size=batch_size, learning_rate=learning_rate, rank=rank,
                alpha=alpha, ema=ema, seed=seed, checkpointing=checkpointing,
            )  # fmt: skip
            rewards = ReflSettings(
                sampling_steps=sampling_steps, scheduler=scheduler, cfg=cfg, start=stop_from,
                end=stop_to, margin=margin, weight=reward_weight, keep=keep_weight, prefix=prefix,
            )  # fmt: skip
            trained = train_by_reward(
                model, clip, vae, captioner, read_prompts(prompts), (width, height), how, rewards,
                targets, on_cancel, save_every,
            )  # fmt: skip
        except RealCompoError as error:
            raise error.at(REFL) from None
        return (trained.lora, {"loss": trained.losses["loss"]}, trained.steps)


NODE_CLASS_MAPPINGS = {"RealCompoReFLTrain": RealCompoReFLTrain}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoReFLTrain": REFL}
