"""Inputs that all training nodes share, so that they read alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIDE = {"default": 512, "min": 8, "max": 16384, "step": 8}
"""Width or height of pictures in pixels."""


def seed_input(tooltip: str) -> tuple[str, dict[str, Any]]:
    """A seed that ComfyUI may change after every run."""
    return ("INT", {
        "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True,
        "tooltip": tooltip,
    })  # fmt: skip


def given_prompts(prompts: str, layout: Any, read: Callable[[str], list[Any]]) -> list[Any]:
    """Training prompts: the layout's, if there is one, and those that ``read`` finds in the text.

    The text may be empty beside a layout.
    """
    from ..balancer.comfy.finetune.separate_enhance import layout_prompt

    chosen = [] if layout is None else [layout_prompt(layout)]
    return chosen + (read(prompts) if prompts.strip() or not chosen else [])


def given_settings(
    steps: int, batch_size: int, learning_rate: float, rank: int, seed: int, more: dict[str, Any]
) -> Any:
    """``TrainingSettings`` of a node's inputs; ``more`` holds those of ``training_options``."""
    from ..balancer.finetune.optimisation import TrainingSettings

    return TrainingSettings(
        steps, batch_size, learning_rate, rank, float(rank or 1),
        clip=more.get("gradient_clip", 1.0), seed=seed,
        **given(more, "weight_decay", "ema", "checkpointing"),
    )  # fmt: skip


def clean_latents_and_size(
    model: Any, latents: Any, width: int, height: int
) -> tuple[Any, tuple[int, int]]:
    """Clean latents (N, C, H, W) of a LATENT, or None, and the latents' height and width."""
    from ..balancer.comfy.finetune.separate_enhance import clean_latents

    if latents is None:
        return None, (height // 8, width // 8)
    clean = clean_latents(model, latents)
    return clean, (int(clean.shape[-2]), int(clean.shape[-1]))


def training_inputs(steps: int, rank: int, learning_rate: float) -> dict[str, Any]:
    """Inputs that all training nodes share, with these defaults."""
    return {
        "steps": ("INT", {
            "default": steps, "min": 1, "max": 1_000_000,
            "tooltip": "Optimiser steps.",
        }),
        "batch_size": ("INT", {
            "default": 4, "min": 1, "max": 256,
            "tooltip": "Prompts and noise levels per step. More is steadier and needs more memory.",
        }),
        "learning_rate": ("FLOAT", {
            "default": learning_rate, "min": 1e-7, "max": 1.0, "step": 1e-6, "round": 1e-7,
            "tooltip": "Step size of AdamW. For whole matrices (rank 0) about a hundredth of a"
            " LoRA's.",
        }),
        "rank": ("INT", {
            "default": rank, "min": 0, "max": 512,
            "tooltip": "Rank of the LoRA. 0 trains whole difference matrices.",
        }),
    }  # fmt: skip


def training_options() -> dict[str, Any]:
    """Optional inputs that all training nodes share."""
    from ..balancer.finetune.optimisation import CHECKPOINTING, ON_CANCEL, TrainingSettings

    base = TrainingSettings()
    return {
        "weight_decay": ("FLOAT", {
            "default": base.weight_decay, "min": 0.0, "max": 1.0, "step": 0.001,
            "tooltip": "AdamW's pull of the learned matrices towards zero.",
        }),
        "gradient_clip": ("FLOAT", {
            "default": base.clip, "min": 0.0, "max": 1000.0, "step": 0.1,
            "tooltip": "Largest norm of the gradient. 0: any.",
        }),
        "ema": ("FLOAT", {
            "default": base.ema, "min": 0.0, "max": 0.9999, "step": 0.001, "round": 0.0001,
            "tooltip": "Keep a running average of the learned matrices and give that out. 0: off.",
        }),
        "checkpointing": (list(CHECKPOINTING), {
            "default": base.checkpointing,
            "tooltip": "Compute activations again in the backward instead of keeping them: about a"
            " third slower, far less memory. auto: where memory is short.",
        }),
        "on_cancel": (list(ON_CANCEL), {
            "default": "resume next time",
            "tooltip": "What cancelling does. resume: the run stops, and the same inputs go on"
            " from there next time. finish: this node ends with what it has, and the nodes"
            " behind it run.",
        }),
        "save_every": ("INT", {
            "default": 0, "min": 0, "max": 1_000_000,
            "tooltip": "Write a checkpoint every so many steps, to go on from after a crash. 0:"
            " only when cancelled.",
        }),
    }  # fmt: skip


def given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of ``values`` that a workflow has; an older one lacks newer inputs."""
    return {name: values[name] for name in names if name in values}
