"""Inputs that all training nodes share, so that they read alike."""

from __future__ import annotations

from typing import Any


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
    from ..balancer.training import CHECKPOINTING, ON_CANCEL, TrainingSettings

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
