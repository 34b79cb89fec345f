"""One model's predictions at a step, and how two of them become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..background import match_background


@dataclass(frozen=True)
class Prediction:
    """One model's denoised predictions (B, C, H, W): after guidance, conditional, unconditional.

    The last two are None where another pack's wrapper gave the first without asking the model.
    """

    guided: Tensor
    positive: Tensor | None
    negative: Tensor | None

    def mixed(self, spatial: Prediction, mix: Tensor) -> Prediction:
        """This and the spatial model's, with this one's share ``mix`` (B, 1, H, W); Eq. 3."""
        mix = over_frames(mix, self.guided)
        other = 1.0 - mix
        return self._with(spatial, lambda own, their: mix * own + other * their)

    def with_background_of(self, realism: Prediction, outside: Tensor, amount: float) -> Prediction:
        """This in the realism model's colours where ``outside`` (1 or B, 1, H, W) is; see
        ``match_background``."""
        if amount == 0.0:
            return self
        outside = over_frames(outside, realism.guided)
        return self._with(realism, lambda own, their: match_background(own, their, outside, amount))

    def _with(self, other: Prediction, combine: Callable[[Tensor, Tensor], Tensor]) -> Prediction:
        def each(own: Tensor | None, their: Tensor | None) -> Tensor | None:
            return None if own is None or their is None else combine(own, their)

        return Prediction(
            combine(self.guided, other.guided),
            each(self.positive, other.positive),
            each(self.negative, other.negative),
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
