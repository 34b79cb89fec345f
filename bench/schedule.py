"""The gradient-free control: a fixed schedule of shares inside and outside the regions.

A balancer differs from a hand-set schedule only if its gradient knows something about the picture
at hand. So its mean shares per step, measured on other scenes, are replayed without any gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..balancer.attention.regions import LayoutBatch
from ..balancer.comfy.realcompo.guider import RealCompoGuider
from ..balancer.comfy.realcompo.run import Run
from ..balancer.realcompo.balancer import Balancer, Phase
from ..balancer.realcompo.settings import plain_settings
from ..balancer.realcompo.trace import Trace


@dataclass(frozen=True)
class Schedule:
    """Mean realism share per outer step, inside and outside the regions (0..1 each)."""

    inside: tuple[float, ...]
    outside: tuple[float, ...]


def mean_schedule(runs: Sequence[tuple[Trace, LayoutBatch]]) -> Schedule:
    """Shares of traced runs, averaged over all their positions by coverage."""
    inside = outside = covered = bare = torch.zeros((), dtype=torch.float64)
    for trace, regions in runs:
        mix = torch.stack([record.mix for record in trace.steps]).double()
        cover = regions.coverage(*mix.shape[-2:]).double().expand(mix.shape[1:])
        inside = inside + (mix * cover).flatten(1).sum(1)
        outside = outside + (mix * (1 - cover)).flatten(1).sum(1)
        covered, bare = covered + cover.sum(), bare + (1 - cover).sum()
    return Schedule(tuple((inside / covered).tolist()), tuple((outside / bare).tolist()))


class Scheduled(Balancer):
    """A balancer that never looks: its mix is a schedule's, laid over the regions' coverage."""

    def __init__(self, schedule: Schedule, batch: int, coverage: Tensor) -> None:
        settings = plain_settings(mode="fixed", initial_mix=0.5, region_prior=0.0)
        super().__init__(settings, batch, coverage)
        self._schedule, self._step, self._cover = schedule, 0, coverage

    def phase(self, step: int, sigma: float) -> Phase:
        """Steps that the schedule gives to the realism model alone cost one model only."""
        self._step = step
        ends = self._schedule.inside[step], self._schedule.outside[step]
        return Phase.REALISM if min(ends) == 1.0 else Phase.MIX

    def constant_mix(self, sigma: float) -> float | None:
        """Two different shares are no constant."""
        return None

    def mix(self, sigma: float) -> Tensor:
        """(B, 1, H, W) realism share of the present step."""
        inside = self._schedule.inside[self._step]
        outside = self._schedule.outside[self._step]
        mix = outside + (inside - outside) * self._cover
        return mix.expand(self._deviation.shape)


class ScheduledGuider(RealCompoGuider):
    """The guider of the pack, with ``Scheduled`` in the balancer's place."""

    def __init__(self, *args: Any, schedule: Schedule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._schedule = schedule

    def new_run(self, noise: Tensor, sigmas: Tensor) -> Run:
        """The pack's run with the scheduled balancer."""
        run = super().new_run(noise, sigmas)
        coverage = self.regions.coverage(*noise.shape[-2:]).to(noise)
        run.balancer = Scheduled(self._schedule, noise.shape[0], coverage)
        return run
