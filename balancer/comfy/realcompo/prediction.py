"""One model's predictions at a step, and how several of them become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any

import torch
from torch import Tensor

from ...realcompo.background import match_background


@dataclass(frozen=True)
class Prediction:
    """One model's denoised predictions (B, C, H, W): after guidance, conditional, unconditional.

    The last two are None where another pack's wrapper gave the first without asking the model.
    """

    guided: Tensor
    conditional: Tensor | None
    unconditional: Tensor | None

    def with_background_of(self, realism: Prediction, outside: Tensor, amount: float) -> Prediction:
        """This in the realism model's colours where ``outside`` (1 or B, 1, H, W) is; see
        ``match_background``."""
        if amount == 0.0:
            return self
        outside = over_frames(outside, realism.guided)
        return _combined(
            (self, realism), lambda own, their: match_background(own, their, outside, amount)
        )


def mixed(predictions: Sequence[Prediction], coefficients: Sequence[Tensor]) -> Prediction:
    """The models' predictions, weighted by ``coefficients`` (B, 1, H, W) in 0..1 that sum to one
    (RealCompo Eq. 3)."""
    return _combined(predictions, lambda *latents: weighted_sum(latents, coefficients))


def weighted_sum(latents: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """Sum of the models' latents (B, C, H, W), each times its coefficients (B, 1, H, W) (Eq. 3)."""
    return reduce(add, map(mul, coefficients, latents))


def coefficients_of(mix: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the realism and of the spatial model (Eq. 2) by the first one's share ``mix``
    (B, 1, H, W), shaped to go with ``latent``; in 0..1, and their sum is 1."""
    realism = over_frames(mix, latent)
    return realism, 1.0 - realism


def _combined(predictions: Sequence[Prediction], combine: Callable[..., Tensor]) -> Prediction:
    def each(*latents: Tensor | None) -> Tensor | None:
        return None if any(latent is None for latent in latents) else combine(*latents)

    return Prediction(
        combine(*(one.guided for one in predictions)),
        each(*(one.conditional for one in predictions)),
        each(*(one.unconditional for one in predictions)),
    )


def over_frames(positions: Tensor, latent: Tensor) -> Tensor:
    """``positions`` (B, 1, H, W), shaped to go with ``latent`` (B, C, H, W) or (B, C, T, H, W)."""
    return positions.unsqueeze(2) if latent.ndim == 5 else positions


def input_scale(sampling: Any, sigma: float) -> float:
    """Factor by which a model scales its input at this noise level (1 for flow models)."""
    one = torch.ones(1, 1, 1, 1)
    return float(sampling.calculate_input(torch.tensor([sigma], dtype=torch.float32), one))


def active_entry(entries: list[dict[str, Any]], sigma: float) -> dict[str, Any] | None:
    """The first conditioning entry in force at this noise level: the layout's prompt.

    Further entries take part in the prediction, not in the loss; their tokens are another text's.
    """
    for entry in entries:
        if "default" in entry or sigma > entry.get("timestep_start", float("inf")):
            continue
        if sigma >= entry.get("timestep_end", 0.0):
            return entry
    return None
