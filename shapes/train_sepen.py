"""Finetuning stage ``sepen``: Separate-and-Enhance on the realism models, on pairs to train on.

It runs what *Separate and Enhance Finetune* runs, and leaves LoRA files in the training folder,
which ``export`` puts into ``shapes/weights/tuned``. Prompts are of the pairs that ``pairs.py``
leaves to training, so that what is gained can be measured on the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .host_models import load_demo
from .pairs import pair_scenes, training_pairs
from .weights_file import write_file
from .world import make_caption

SEED = 7
PROMPTS = 320
LATENT = (16, 16)
TRAINING: dict[str, Any] = {
    "steps": 600, "batch_size": 16, "learning_rate": 5e-4, "rank": 8, "alpha": 8.0, "seed": SEED,
}  # fmt: skip
# Chosen on pictures of pairs to train on. Half the latent's sides is where the demo's models have
# most of their cross-attention; in the first third of the schedule they settle what is where.
LOSSES: dict[str, Any] = {
    "heads": "mean", "states": "own sampling", "sampling_steps": 12, "sampling_cfg": 3.0,
    "end": 0.34,
}  # fmt: skip
MAP_LEVEL = "2"


# The paper trains keys (to_k). The demo's text encoder gives a word a vector that depends on the
# word before it and no other, so a key cannot know which pair its word is in; a query can, by what
# earlier layers have gathered.
@dataclass(frozen=True)
class Variant:
    """One LoRA file: the realism model of ``style``, and what is not as ``LOSSES`` and ``TRAINING``
    have it."""

    style: str = "realistic"
    targets: str = "to_q"
    losses: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


# Chosen on pairs to train on, too: where the numbers of the realistic model taught little.
EARLY: dict[str, Any] = {"sampling_steps": 20, "end": 0.2}
QUICK: dict[str, Any] = {"steps": 300, "learning_rate": 1e-3}
VARIANTS = {
    "sepen-realistic": Variant(),
    "sepen-sketch": Variant("sketch", losses={**EARLY, "heads": "each"}, training=QUICK),
    "sepen-neon": Variant("neon", losses={**EARLY, "enhance": 1.0}, training=QUICK),
    "sepen-to-k": Variant(targets="to_k"),
    "sepen-to-k-sep-only": Variant(targets="to_k", losses={"enhance": 0.0}),
    "sepen-to-k-en-only": Variant(targets="to_k", losses={"separate": 0.0}),
    "sepen-to-v": Variant(targets="to_v"),
}


def train_sepen(folder: Path, names: Sequence[str] = (), steps: int | None = None) -> list[Path]:
    """Train and write the LoRAs ``names`` (all of ``VARIANTS``) to ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_train(folder, name, steps) for name in names or VARIANTS]


def _train(folder: Path, name: str, steps: int | None) -> Path:
    from ..balancer.comfy.finetune.lora_file import file_notes
    from ..balancer.comfy.finetune.separate_enhance import Where, separate_enhance
    from ..balancer.comfy.finetune.separation import SeparationSettings
    from ..balancer.finetune.optimisation import TrainingSettings
    from ..balancer.finetune.prompts import TrainingPrompt

    variant = VARIANTS[name]
    started = time.monotonic()
    scenes = pair_scenes(training_pairs(), PROMPTS, SEED)
    prompts = [TrainingPrompt(make_caption(scene).text, scene.phrases) for scene in scenes]
    numbers: dict[str, Any] = TRAINING | variant.training | ({"steps": steps} if steps else {})
    training = TrainingSettings(**numbers)
    with torch.inference_mode():
        model, clip, _, _ = load_demo(variant.style, "realism")
        lora, _, made = separate_enhance(
            model, clip, prompts, SeparationSettings(**(LOSSES | variant.losses)), training,
            Where(LATENT, variant.targets, MAP_LEVEL),
        )  # fmt: skip
    lora.notes["prompts"] = f"captions of pair_scenes(training_pairs(), {PROMPTS}, {SEED})"
    path = folder / f"{name}.safetensors"
    about = {
        "about": f"LoRA for the {variant.style} realism model, by Separate-and-Enhance",
        "license": "same as the pack",
        "trained_by": f"shapes.train sepen --parts {name}",
        "steps": str(made),
        "images": str(made * training.batch_size),
        "minutes": f"{(time.monotonic() - started) / 60:.1f}",
    }
    write_file(path, lora, {**file_notes(lora), **about})
    print(f"{name}: {made} steps, {about['minutes']} minutes", flush=True)
    return path
