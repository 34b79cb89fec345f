"""Finetuning by a captioner's reward, after RealignDiff's coarse stage."""

from __future__ import annotations

from typing import Any, ClassVar

from .checked import checked
from .training_inputs import (
    SIDE,
    given,
    given_settings,
    seed_input,
    training_inputs,
    training_options,
)

CATEGORY = "RealCompo/finetune"
REFL = "RealCompo ReFL Train (after RealignDiff)"


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

        from ..balancer.comfy.finetune.refl import ReflSettings
        from ..balancer.comfy.finetune.training import TARGETS
        from ..balancer.values.setting_fields import widgets

        side = {**SIDE, "min": 64}
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
                "seed": seed_input("Of the start values, prompts, noise and steps."),
            },
            "optional": {
                **widgets(ReflSettings, "sampling_steps"),
                "scheduler": (list(comfy.samplers.KSampler.SCHEDULERS), {
                    "default": ReflSettings.scheduler,
                    "tooltip": "Noise levels of the sampling.",
                }),
                **widgets(
                    ReflSettings, "cfg", "stop_from", "stop_to", "margin", "reward_weight",
                    "keep_weight",
                ),
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
        from ..balancer.captions.rewards import read_prompts
        from ..balancer.comfy.finetune.refl import ReflSettings, train_by_reward
        from ..balancer.values.setting_fields import from_inputs

        how = given_settings(steps, batch_size, learning_rate, rank, seed, more)
        rewards = from_inputs(ReflSettings, more)
        return train_by_reward(
            model, clip, vae, captioner, read_prompts(prompts), (width, height), how, rewards,
            **given(more, "targets", "on_cancel", "save_every"),
        )  # fmt: skip


NODE_CLASS_MAPPINGS = {"RealCompoReFLTrain": RealCompoReFLTrain}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoReFLTrain": REFL}
