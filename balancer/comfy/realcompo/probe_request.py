"""What a probe of one model is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ProbeRequest:
    """Probe ``model`` (the host's ``BaseModel``) with ``entry``, one conditioning entry as the host
    has processed it.

    ``latent`` (B, C, H, W), or (B, C, T, H, W), times ``scale`` is what the model sees, at noise
    level ``sigma`` (B,); gradients are with respect to ``latent``. ``model_options`` are the
    model's own.
    """

    model: Any
    entry: dict[str, Any]
    latent: Tensor
    scale: float
    sigma: Tensor
    model_options: dict[str, Any]


@dataclass(frozen=True)
class ProbeResult:
    """What one model's maps say of a latent: shares (B, R) in 0..1, losses (B,) in 0..R (Eq. 6),
    and the losses' gradient, shaped as the latent.

    ``remaining`` (B,) in 0..1 is the mean over a sample's regions of one minus the share.
    ``finite`` (0-dim bool) is False when some gradient was not; those entries are zero then.
    Gradient and ``finite`` are None for a result whose gradient is part of its partner's (see
    pair_probe.py).
    ``maps`` (B, R, h, w) are the regions' mean attention maps of the whole latent, out of any
    graph.
    """

    shares: Tensor
    loss: Tensor
    remaining: Tensor
    gradient: Tensor | None = None
    finite: Tensor | None = None
    maps: Tensor | None = None

    def without_graph(self) -> ProbeResult:
        """The same with shares and losses detached."""
        return replace(self, shares=self.shares.detach(), loss=self.loss.detach())
