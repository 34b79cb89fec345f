"""Separate-and-Enhance from a node's inputs: prompts to objective, a model to a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import RealCompoError
from ...finetune.optimisation import OnCancel, TrainingSettings
from ...finetune.prompts import TrainingPrompt
from ...layouts.layout import require_layout
from ..attention.family import choose_level
from ..host.latents import check_pictures
from ..inputs.checks import require_ability
from ..inputs.encoded import check_width
from .lora_file import LoraModel
from .separation import SeparateEnhance, SeparationSettings, prepare
from .session import encode
from .training import train_lora


@dataclass(frozen=True)
class Where:
    """What of the model is trained, and at which maps; ``size`` is the latents' (height, width)."""

    size: tuple[int, int]
    targets: str = "to_k"
    map_level: str = "auto"
    on_cancel: OnCancel = "resume next time"
    save_every: int = 0


def layout_prompt(layout: Any) -> TrainingPrompt:
    """A layout's prompt and phrases as one training prompt."""
    layout = require_layout(layout)
    phrases = tuple(dict.fromkeys(region.phrase for region in layout.require_regions()))
    if not layout.prompt:
        raise RealCompoError(
            "layout", "it knows no prompt", "Connect the prompt's text to the layout node"
        )
    return TrainingPrompt(layout.prompt, phrases)


def level_of(patcher: Any, map_level: str) -> int:
    """Downsample factor of the maps, RealCompoError where the model has none such."""
    try:
        return choose_level(require_ability(patcher, "train"), map_level)
    except RealCompoError as error:
        raise error.at("", "map_level") if error.where == "balancer" else error from None


def clean_latents(patcher: Any, latents: Any) -> Tensor:
    """A LATENT's samples in the model's own scale: (N, C, H, W), ordinary float32."""
    samples = latents["samples"]
    check_pictures(patcher, samples, "latents", "they have", "pictures' latents")
    with torch.inference_mode(False):
        return patcher.model.process_latent_in(samples.clone().float())


def separate_enhance(
    patcher: Any,
    clip: Any,
    prompts: Sequence[TrainingPrompt],
    losses: SeparationSettings,
    training: TrainingSettings,
    where: Where,
    latents: Tensor | None = None,
) -> tuple[LoraModel, dict[str, list[float]], int]:
    """Finetune ``patcher`` on ``prompts`` and return a LoRA, its losses and the steps made.

    ``latents`` as ``clean_latents`` gives them, of the size ``where`` names. The model stays as
    it is. Raises RealCompoError for what cannot be trained, before anything is.
    """
    factor = level_of(patcher, where.map_level)
    singles = bool(losses.norm) and losses.norm_form == "frozen prediction"
    prepared = prepare(clip, prompts, singles)
    check_width(patcher, [prompt.encoded.text for prompt in prepared])
    guided = losses.states == "own sampling" and losses.sampling_cfg > 1.0
    empty = encode(clip, "") if guided else None
    objective = SeparateEnhance(
        prepared, losses, training.batch_size, factor, latents, empty, training.seed
    )
    about = {
        "losses": asdict(losses), "prompts": [asdict(p) for p in prompts], "level": factor,
        "latents": None if latents is None else [*latents.shape, float(latents.double().sum())],
    }  # fmt: skip
    return train_lora(
        patcher, objective, "separate-and-enhance", about, training, where.size, where.targets,
        where.on_cancel, where.save_every, whole=bool(losses.norm),
    )  # fmt: skip
