"""Finetuning by a captioner's reward, after RealignDiff's coarse stage."""

from __future__ import annotations

from typing import Any, ClassVar

from .checked import checked
from .training_inputs import given, training_inputs, training_options

CATEGORY = "RealCompo/finetune"
REFL = "RealCompo ReFL Train (after RealignDiff)"
MAX_SIDE = 16384


@checked(REFL, data=("prompts",))
class RealCompoReFLTrain:
    """A LoRA by reward feedback."""

    RETURN_TYPES = ("LORA_MODEL", "LOSS_MAP", "INT")
    RETURN_NAMES = ("lora", "loss", "steps")
    OUTPUT_TOOLTIPS = (
        "What was learned, for Load LoRA Model, Save LoRA Weights or RealCompo Save LoRA.",
        "Losses per step, for Plot Loss Graph; the reward is among them.",
        "Optimiser steps made.",
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
        import comfy.samplers

        from ..balancer.comfy.refl import ReflSettings
        from ..balancer.comfy.training import TARGETS

        base = ReflSettings()
        side = {"default": 512, "min": 64, "max": MAX_SIDE, "step": 8}

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
                **training_inputs(100, 8, 1e-4),
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True,
                    "tooltip": "Of the start values, prompts, noise and steps.",
                }),
            },
            "optional": {
                "sampling_steps": ("INT", {
                    "default": base.sampling_steps, "min": 2, "max": 1000,
                    "tooltip": "Steps of the sampling (Euler) that training cuts short.",
                }),
                "scheduler": (list(comfy.samplers.KSampler.SCHEDULERS), {
                    "default": base.scheduler,
                    "tooltip": "Noise levels of the sampling.",
                }),
                "cfg": ("FLOAT", {
                    "default": base.cfg, "min": 1.0, "max": 30.0, "step": 0.1,
                    "tooltip": "Guidance of the sampling against the empty prompt. 1 = none, as"
                    " ReFL was released; the value you draw with shows the pictures you will get,"
                    " and doubles the time.",
                }),
                "stop_from": ("FLOAT", {
                    "default": base.start, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "The step with a gradient is drawn from here on, as a part of the"
                    " sampling: 0.75 = its last quarter. Earlier steps decide more, but show it"
                    " less clearly.",
                }),
                "stop_to": ("FLOAT", {
                    "default": base.end, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "And up to here.",
                }),
                "margin": ("FLOAT", {
                    "default": base.margin, "min": -100.0, "max": 0.0, "step": 0.01,
                    "tooltip": "A picture with a reward (mean log-probability) above this teaches"
                    " nothing more. Good value: what Likelihood Reward gives good pictures.",
                }),
                "reward_weight": ("FLOAT", {
                    "default": base.weight, "min": 0.000001, "max": 1000.0, "step": 0.000001,
                    "tooltip": "Factor of the reward's loss.",
                }),
                "keep_weight": ("FLOAT", {
                    "default": base.keep, "min": 0.0, "max": 1000.0, "step": 0.01,
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
                **training_options(),
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
        **more: Any,
    ) -> tuple[Any, Any, int]:
        """(LORA_MODEL, LOSS_MAP, steps)."""
        from ..balancer.comfy.refl import ReflSettings, train_by_reward
        from ..balancer.rewards import read_prompts
        from ..balancer.training import TrainingSettings

        how = TrainingSettings(
            steps, batch_size, learning_rate, rank, float(rank or 1),
            clip=more.get("gradient_clip", 1.0), seed=seed,
            **given(more, "weight_decay", "ema", "checkpointing"),
        )  # fmt: skip
        names = {
            "stop_from": "start", "stop_to": "end", "reward_weight": "weight",
            "keep_weight": "keep",
        }  # fmt: skip
        told = given(more, *names, "sampling_steps", "scheduler", "cfg", "margin", "prefix")
        rewards = ReflSettings(**{names.get(name, name): v for name, v in told.items()})
        return train_by_reward(
            model, clip, vae, captioner, read_prompts(prompts), (width, height), how, rewards,
            **given(more, "targets", "on_cancel", "save_every"),
        )  # fmt: skip


NODE_CLASS_MAPPINGS = {"RealCompoReFLTrain": RealCompoReFLTrain}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoReFLTrain": REFL}
