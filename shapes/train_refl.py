"""Finetuning stage ``refl``: the realism model by the captioner's reward, on pairs to train on.

It runs what *RealCompo ReFL Train* runs, and leaves a LoRA file in the training folder, which
``export`` puts into ``shapes/weights/tuned``. Prompts are of the pairs that ``pairs.py`` leaves to
training, so that what is gained can be measured on the others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from .captioner import FOLDER
from .host_models import load_demo
from .pairs import pair_scenes, training_pairs
from .weights_file import write_file
from .world import make_caption

STYLE = "realistic"
NAME = f"refl-{STYLE}.safetensors"
ABOUT = "LoRA for realism.safetensors, by reward feedback of the captioner (ReFL)"
SEED = 91
PROMPTS = 652
SIDE = 128
TRAINING: dict[str, Any] = {
    # The reward of its own sampling goes on rising after that, the pictures get no better.
    "steps": 120, "batch_size": 4, "learning_rate": 2e-3, "rank": 4, "alpha": 4.0, "seed": SEED,
}  # fmt: skip
# The demo's models settle what is there sooner than SD does, so that gradients are taken sooner.
REWARDS: dict[str, Any] = {"sampling_steps": 10, "start": 0.3, "keep": 15.0}
TARGETS = "attention"


def prompts(count: int = PROMPTS) -> list[str]:
    """Captions of pairs to train on, every pair as often as any other, in either order."""
    return [make_caption(s).text for s in pair_scenes(training_pairs(), count, SEED)]


def train_refl(folder: Path, steps: int | None = None) -> Path:
    """Train and write ``refl-realistic.safetensors`` to ``folder``; returns its path."""
    from ..balancer.comfy.captions.captioner_folder import load_captioner
    from ..balancer.comfy.finetune.lora_file import file_notes
    from ..balancer.comfy.finetune.refl import ReflSettings, train_by_reward
    from ..balancer.finetune.optimisation import TrainingSettings

    started = time.monotonic()
    training: dict[str, Any] = TRAINING | ({"steps": steps} if steps else {})
    with torch.inference_mode():
        model, clip, vae, _ = load_demo(STYLE, "realism")
        lora, _, made = train_by_reward(
            model, clip, vae, load_captioner(FOLDER), prompts(), (SIDE, SIDE),
            TrainingSettings(**training),
            ReflSettings(**REWARDS), targets=TARGETS,
        )  # fmt: skip
    facts = {
        "trained_by": "shapes.train refl",
        "steps": str(made),
        "images": str(made * TRAINING["batch_size"]),
        "minutes": f"{(time.monotonic() - started) / 60:.1f}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    about = {"about": ABOUT, "license": "same as the pack"}
    write_file(path, lora, {**file_notes(lora), **about, **facts})
    return path
