"""One model call that the host was about to make, kept so that it can be made differentiably."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...layouts.grid import Area
from ..attention.family import StopProbe
from .probe_request import ProbeResult
from .region_targets import in_whole
from .shared_encoder import call_model

# float16 cannot hold gradients below 6e-8; the loss is scaled up before and down after
HALF_PRECISION_SCALE = 4096.0


def compute_dtype(model: Any) -> torch.dtype:
    """What the host's model object computes in, which may not be what its weights are kept in."""
    return getattr(model, "manual_cast_dtype", None) or model.get_dtype()


@dataclass
class ModelCall:
    """The model call in whose place a probe works: run it with other options.

    ``x`` is the whole latent of the probe, ``area`` the part that the call sees of it. A ``whole``
    call is wanted for its ``output`` too. ``modules`` are those that its forward goes through.
    """

    apply_model: Callable[..., Tensor]
    args: dict[str, Any]
    inner: Callable[..., Tensor] | None
    x: Tensor
    area: Area | None
    model: Any
    whole: bool = False
    modules: tuple[torch.nn.Module, ...] = ()
    output: Tensor | None = None

    @property
    def input(self) -> Tensor:
        """The latent (B, C, h, w) of this call, as an ordinary tensor."""
        return self.args["input"].clone()

    @property
    def options(self) -> dict[str, Any]:
        """The host's transformer options for this call."""
        return self.args["c"]["transformer_options"]

    @property
    def context(self) -> Tensor:
        """The encoded prompt (B, T, width)."""
        return self.args["c"]["c_crossattn"]

    @property
    def loss_scale(self) -> float:
        """Factor for a loss whose gradient passes through this call."""
        half = compute_dtype(self.model) == torch.float16
        return HALF_PRECISION_SCALE if half else 1.0

    def run(self, latent: Tensor, transformer_options: dict[str, Any]) -> Tensor | None:
        """The model's prediction for ``latent`` (B, C, h, w); None if a reader stopped the run."""
        conditions = {**self.args["c"], "transformer_options": transformer_options}
        # a cache may write to what it is given, which autograd forbids where a graph begins
        given = latent.clone() if latent.is_leaf and latent.requires_grad else latent
        call = {**self.args, "input": given, "c": conditions}
        call["timestep"] = self.args["timestep"].clone()
        try:
            return call_model(self.inner, self.apply_model, call)
        except StopProbe:
            return None

    def with_gradient(self, result: ProbeResult, gradient: Tensor) -> ProbeResult:
        """``result`` out of its graph, with the gradient (B, C, h, w) of its loss, scaled by
        ``loss_scale``, at this call's latent. That of the whole latent is zero outside ``area``."""
        gradient = in_whole(gradient / self.loss_scale, self.x, self.area, 1)
        finite = torch.isfinite(gradient)
        gradient = torch.where(finite, gradient, 0.0)
        return replace(result.without_graph(), gradient=gradient, finite=finite.all())
