"""What happened at each step of a run, as plain tensors. Nothing here touches the host per step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RealCompoError
from ..log import LOG

MAPS_KEPT = 4
"""Samples of a batch whose attention maps are kept: a picture shows one of them."""


@dataclass
class StepRecord:
    """One outer step. Tensors stay on the run's device until the run ends.

    phase is ``spatial``, ``balance``, ``mix`` or ``realism``; mix (B, 1, H, W) is the realism share
    used; shares, losses and maps exist at balanced steps: shares (B, R), losses (B,), mean
    attention maps (up to ``MAPS_KEPT`` samples, R, h, w) as float16, one of each per model.
    """

    step: int
    sigma: float
    phase: str
    mix: Tensor
    shares_realism: Tensor | None = None
    shares_spatial: Tensor | None = None
    loss_realism: Tensor | None = None
    loss_spatial: Tensor | None = None
    maps_realism: Tensor | None = None
    maps_spatial: Tensor | None = None

    def to_cpu(self) -> None:
        """Move every tensor to the CPU: maps as float16, the others as float32."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                dtype = torch.float16 if name.startswith("maps") else torch.float32
                setattr(self, name, value.detach().to("cpu", dtype).clone())


def kept_maps(maps: Tensor | None) -> Tensor | None:
    """What a record keeps of attention maps (B, R, h, w), on their own device."""
    return None if maps is None else maps[:MAPS_KEPT].detach().half()


@dataclass
class Trace:
    """The record of a run: one entry per outer step, plus what the run cost.

    Forwards count samples through a whole network (a guided step of one model is two), partial
    forwards stop at the last attention map they need, backwards run through one partial forward.
    ``shared_halves`` of both took their first half (down path and middle) from the other branch.
    """

    phrases: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    forwards: int = 0
    partial_forwards: int = 0
    backwards: int = 0
    shared_halves: int = 0
    skipped_gradients: int = 0
    seconds: float = 0.0
    _finite: list[Tensor] = field(default_factory=list, repr=False)

    def reset(self) -> None:
        """Forget the last run; phrases and settings stay."""
        self.steps = []
        self.forwards = self.partial_forwards = self.backwards = self.skipped_gradients = 0
        self.shared_halves = 0
        self.seconds = 0.0
        self._finite = []

    def note_finite(self, finite: Tensor) -> None:
        """Keep a probe's 0-dim verdict whether its gradient was finite, without reading it."""
        self._finite.append(finite)

    def finish(self) -> None:
        """Bring every tensor to the CPU, once, after the last step; say what went wrong."""
        if self._finite:
            self.skipped_gradients = int((~torch.stack(self._finite)).sum())
            self._finite = []
        if self.skipped_gradients:
            LOG.warning(
                "RealCompo: %d of %d gradients were not finite and moved nothing there. Half "
                "precision may be too coarse for this model: start the host with --force-fp32.",
                self.skipped_gradients, self.backwards,
            )  # fmt: skip
        for record in self.steps:
            record.to_cpu()

    def cost(self) -> dict[str, float]:
        """Forwards, partial forwards, backwards, shared halves and seconds of the run."""
        return {
            "forwards": self.forwards,
            "partial_forwards": self.partial_forwards,
            "backwards": self.backwards,
            "shared_halves": self.shared_halves,
            "seconds": round(self.seconds, 3),
        }


def require_trace(value: object) -> Trace:
    """``value`` if it is a trace; RealCompoError otherwise."""
    if not isinstance(value, Trace):
        raise RealCompoError(
            "trace", f"got a {type(value).__name__}, not a REALCOMPO_TRACE",
            "Connect a RealCompo sampler's trace.",
        )  # fmt: skip
    return value


def require_steps(trace: Trace, sample: int = 0) -> None:
    """Raise RealCompoError when the trace is empty or has no such sample of the batch."""
    if not trace.steps:
        raise RealCompoError(
            "trace", "the trace is empty, nothing was sampled yet",
            "Connect the sampler's latent to this node too, so that it waits for it.",
        )  # fmt: skip
    batch = trace.steps[0].mix.shape[0]
    if not 0 <= sample < batch:
        raise RealCompoError(
            "sample", f"there is no sample {sample} in a batch of {batch}", f"Use 0 to {batch - 1}."
        )
