"""One method on one pair, counted: the guider or the host's own sampler, as a user would run it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import comfy.samplers
import torch
from torch import Tensor

from ...balancer.comfy.realcompo import differentiable_pass
from ...balancer.comfy.realcompo.guider import RealCompoGuider
from ...balancer.realcompo.settings import MODES, BalancerSettings, preset
from ..hollow import FlopCount, Kept, counted, kept_activations
from ..passes import Passes, counting
from ..rows import fixed
from .networks import CFG, Pair, steady_host

STEPS = 50
SHORT = 3
"""Steps of a run on networks of true size. Every phase of a method occurs in them, a step of one
phase always costs the same (which is checked), and a run of 50 steps says how often each occurs."""
T0 = 0.4

ALONE = ("realism", "spatial")
FLOOR, MIXED = "static-floor", "fixed-0.50"
PAPER, EVERY_2, EQUILIBRIUM, LAGGED = (
    "realcompo-paper", "realcompo-paper-every-2", "realcompo-equilibrium", "realcompo-lagged",
)  # fmt: skip


def methods() -> dict[str, BalancerSettings]:
    """Settings of every row that the guider makes.

    ``static-floor``: no balancing, but as in the paper's preset the spatial model alone for 40 % of
    the steps and then both. ``realcompo-lagged`` is there when the pack has that mode.
    """
    paper = preset("paper", spatial_only=T0)
    rows = {
        MIXED: fixed(0.5),
        FLOOR: fixed(0.5, spatial_only=T0),
        PAPER: paper,
        EVERY_2: preset("paper", spatial_only=T0, every=2),
        EQUILIBRIUM: preset("equilibrium"),
    }  # fmt: skip
    if "lagged" in MODES:
        rows[LAGGED] = preset("paper", spatial_only=T0, mode="lagged")
    return rows


@dataclass
class Step:
    """One step of a run: its phase, FLOPs, and samples by ``Passes``."""

    phase: str
    flops: int
    passes: dict[str, int]


@dataclass
class Run:
    """A counted run. ``outside``: FLOPs outside the steps; ``kept``: bytes kept for backwards;
    ``trace``: what the guider says it cost, None for the host's own guider."""

    steps: list[Step]
    outside: int
    kept: Kept
    trace: dict[str, float] | None = None

    @property
    def phases(self) -> dict[str, int]:
        """How many steps each phase takes."""
        return dict(Counter(step.phase for step in self.steps))

    def total(self, what: str) -> int:
        """A count of ``Passes`` over all steps."""
        return sum(step.passes[what] for step in self.steps)


@dataclass
class Meter:
    """Reads the counters of a run; without one of them its figures are zero."""

    count: FlopCount | None = None
    passes: Passes = field(default_factory=Passes)
    steps: list[Step] = field(default_factory=list)

    def read(self) -> tuple[int, dict[str, int]]:
        """FLOPs and passes so far."""
        flops = 0 if self.count is None else self.count.get_total_flops()
        return flops, asdict(self.passes)

    def note(self, phase: str, before: tuple[int, dict[str, int]]) -> None:
        """A step of ``phase`` has ended that began at ``before``."""
        flops, passes = self.read()
        gone = {name: value - before[1][name] for name, value in passes.items()}
        self.steps.append(Step(phase, flops - before[0], gone))


class _StepGuider(RealCompoGuider):
    """The pack's guider, metered step by step."""

    meter = Meter()

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        before = self.meter.read()
        out = super().predict_noise(*args, **kwargs)
        self.meter.note(self.trace.steps[-1].phase, before)
        return out


class _PlainGuider(comfy.samplers.CFGGuider):
    """The host's own guider with one model, metered in the same way."""

    meter = Meter()

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        before = self.meter.read()
        out = super().predict_noise(*args, **kwargs)
        self.meter.note("alone", before)
        return out


def guider(pair: Pair, settings: BalancerSettings) -> _StepGuider:
    """The pack's guider on a pair."""
    return _StepGuider(
        pair.realism, pair.spatial, pair.positive, pair.negative, pair.spatial_positive,
        pair.spatial_negative, pair.layout, pair.tokens, CFG, settings,
    )  # fmt: skip


def alone(pair: Pair, which: str) -> _PlainGuider:
    """The host's guider with one model of a pair: ``realism`` or ``spatial``."""
    spatial = which == "spatial"
    plain = _PlainGuider(pair.spatial if spatial else pair.realism)
    positive, negative = (
        (pair.spatial_positive, pair.spatial_negative)
        if spatial
        else (pair.positive, pair.negative)
    )
    plain.set_conds(positive, negative)
    plain.set_cfg(CFG)
    return plain


@torch.inference_mode()
def sample(one: Any, pair: Pair, steps: int) -> Tensor:
    """Sample with a guider; inference mode as in the host's executor."""
    noise = pair.noise()
    return one.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), pair.sigmas(steps),
        disable_pbar=True, seed=0,
    )  # fmt: skip


def make(pair: Pair, method: str) -> Any:
    """The guider of a row."""
    return alone(pair, method) if method in ALONE else guider(pair, methods()[method])


def measure(
    pair: Pair, method: str, steps: int, flops: bool = True, hollow: bool = True,
    checkpointed: bool = False,
) -> Run:  # fmt: skip
    """Run a row and meter it; without ``flops`` passes only, on networks that can be computed.

    ``checkpointed``: probes are, as where memory is short. Raises KeyError for an unknown method.
    """
    one = make(pair, method)
    kept = Kept()
    with ExitStack() as stack:
        stack.enter_context(steady_host())
        decision = patch.object(
            differentiable_pass, "must_be_checkpointed", lambda *about: checkpointed
        )
        stack.enter_context(decision)
        passes = stack.enter_context(counting(pair.networks, pair.controls))
        count = stack.enter_context(counted(hollow)) if flops else None
        if flops:
            kept = stack.enter_context(kept_activations(pair.modules))
        meter = one.meter = Meter(count, passes)
        sample(one, pair, steps)
        total, _ = meter.read()
    trace = None if method in ALONE else one.trace.cost()
    return Run(meter.steps, total - sum(step.flops for step in meter.steps), kept, trace)


@dataclass
class Cost:
    """A method's cost: FLOPs of one step of each phase, and how many steps of it an image takes.

    ``passes`` per image by ``Passes``; ``trace`` likewise as the guider counts it. ``saved`` and
    ``alive``: bytes kept for each backward of a balanced step, see ``Kept``; ``checkpointed``:
    those saved by checkpointed probes.
    """

    flops: dict[str, int]
    steps: dict[str, int]
    passes: dict[str, int]
    trace: dict[str, float] | None
    saved: list[int]
    alive: list[int]
    checkpointed: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """FLOPs of one image."""
        return sum(self.flops[phase] * number for phase, number in self.steps.items())


def compose(short: Run, whole: Run) -> Cost:
    """The cost of an image from a short run on networks of true size, which gives a step of each
    phase, and from a whole run on narrow ones, which says how many steps of each there are.

    Raises RuntimeError where the two disagree on anything: steps of a phase that cost differently,
    FLOPs outside the steps, a phase that the short run lacks, or another number of passes.
    """
    flops: dict[str, int] = {}
    passes: dict[str, dict[str, int]] = {}
    for step in short.steps:
        if flops.setdefault(step.phase, step.flops) != step.flops:
            raise RuntimeError(f"steps of phase {step.phase} cost {flops} and {step.flops} FLOPs")
        passes[step.phase] = step.passes
    if short.outside:
        raise RuntimeError(f"{short.outside} FLOPs were counted outside the steps")
    if set(whole.phases) - set(flops):
        raise RuntimeError(f"phases {list(whole.phases)}, but only {list(flops)} were measured")
    names = list(asdict(Passes()))
    counts = {name: whole.total(name) for name in names}
    expected = {
        name: sum(passes[phase][name] * number for phase, number in whole.phases.items())
        for name in names
    }
    if counts != expected:
        raise RuntimeError(f"passes of the whole run {counts}, by the short run {expected}")
    balanced = max(1, sum(step.passes["backward"] > 0 for step in short.steps))
    each = len(short.kept.saved) // balanced
    return Cost(
        flops, whole.phases, counts, whole.trace, short.kept.saved[:each], short.kept.alive[:each]
    )
