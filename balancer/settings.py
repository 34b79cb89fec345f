"""The balancer's documented numbers, and the presets, which are nothing but sets of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import checked
from .errors import RealCompoError

MODES = ("dynamic", "lagged", "fixed")
MAP_LEVELS = ("auto", "1", "2", "4", "8")
PROBE_TIMESTEPS = ("current", "next")


@dataclass(frozen=True)
class BalancerSettings:
    """Every number that steers the mix. ``mix`` is the realism model's share, 0..1.

    The balancer keeps one logit map d per sample; mix = sigmoid(d) (RealCompo Eq. 2-3). At a
    balanced step it restarts from ``base + memory * deviation``, where the base is
    ``logit(initial_mix)``, less ``region_prior`` inside the regions while noise is high, and then
    steps against the gradient of the loss (Eq. 6-7).

    mode             ``dynamic`` probes the mixed latent, as the paper; ``lagged`` reads the step's
                     own predictions, without passes beside them; ``fixed`` never balances
    rate, rate_end   step size at the start and the end of the noise schedule; the square changes
                     linearly between
    normalize_rate   False: step = 2 * rate * dL/dd (two coefficient maps, Eq. 7).
                     True: gradient divided by its own RMS and weighted by the remaining loss,
                     so that ``rate`` is in logits whatever the model and the latent size
    memory           1 accumulates as the paper does, 0 restarts from the base at every step
    smoothing        side of the box that averages the gradient, in attention map cells; 0 = none
    initial_mix      realism share to start from; 0.5 is the paper's equal start
    region_prior     logits given to the spatial model inside the regions at high noise
    prior_until      the region prior ends here (0..1 of the noise schedule, as start_percent)
    spatial_only     share of the noise schedule that the spatial model does alone, first (t0)
    realism_only     share of the noise schedule that the realism model does alone, last
    match_background how far (0..1) the spatial prediction's mean outside the regions is moved to
                     the realism prediction's before they are mixed (see background.py)
    start, end       balance only in this part of the noise schedule (0..1)
    every            balance at every n-th step of that part, hold the deviation between
    map_level        downsample factor of the attention maps; ``auto`` = 4 where the model has it
    probe_timestep   timestep given to the models with the probe latent (Alg. 1: ``current``)
    initial_noise    standard deviation of noise on the starting logits (released code: sqrt 2)
    noise_seed       seed of that noise
    preset           name that these numbers go by

    Shares of the noise schedule are the host's (start_percent): of the timesteps, not of one run's
    steps. Where steps are even in timesteps the two are the same; a run over a part of the
    schedule (split samplers, denoise below 1) does that part of the whole run. What is counted
    within one run is ``every`` (from the first balanced step) and the deviation (with ``memory``,
    and between balanced steps): the second of two runs starts with a fresh mix.

    Raises RealCompoError when a number is outside its range.
    """

    mode: str = "dynamic"
    rate: float = 16.0
    rate_end: float = 16.0
    normalize_rate: bool = True
    memory: float = 0.0
    smoothing: int = 3
    initial_mix: float = 0.95
    region_prior: float = 20.0
    prior_until: float = 0.5
    spatial_only: float = 0.0
    start: float = 0.0
    end: float = 0.6
    every: int = 2
    map_level: str = "auto"
    probe_timestep: str = "current"
    initial_noise: float = 0.0
    noise_seed: int = 31
    realism_only: float = 0.0
    match_background: float = 0.0
    preset: str = "custom"

    def __post_init__(self) -> None:
        shares = ("initial_mix", "prior_until", "spatial_only", "realism_only", "memory")
        for name in (*shares, "start", "end", "match_background"):
            self._within(name, 0.0, 1.0)
        for name in ("rate", "rate_end", "initial_noise"):
            self._within(name, 0.0, 1e12)
        self._within("region_prior", -100.0, 100.0)
        self._set("smoothing", checked.whole(self.smoothing, "smoothing", 0, 65))
        self._set("every", checked.whole(self.every, "every", 1, 10_000))
        self._set("noise_seed", checked.whole(self.noise_seed, "noise_seed", 0, (1 << 64) - 1))
        self._set("normalize_rate", checked.flag(self.normalize_rate, "normalize_rate"))
        checked.choice(self.mode, "mode", MODES)
        checked.choice(self.map_level, "map_level", MAP_LEVELS)
        checked.choice(self.probe_timestep, "probe_timestep", PROBE_TIMESTEPS)
        if self.start > self.end:
            raise RealCompoError(
                "start", f"start {self.start} lies after end {self.end}", "Make start <= end."
            )
        if self.spatial_only + self.realism_only > 1.0:
            raise RealCompoError(
                "realism_only", "spatial_only and realism_only are more than the whole schedule",
                "Lower one of them; their sum may be 1 at most.",
            )  # fmt: skip

    def _within(self, name: str, low: float, high: float) -> None:
        self._set(name, checked.number(getattr(self, name), name, low, high))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def rate_at(self, part: float) -> float:
        """Step size at ``part`` (0..1) of the noise schedule: square root of a line from rate^2 to
        rate_end^2."""
        return math.sqrt(self.rate**2 + (self.rate_end**2 - self.rate**2) * part)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        return asdict(self)


# The paper prints neither rho nor t0. Its Fig. 1b shows positions settled by 20 of 50 steps (t0);
# the released code uses rho = 1e6 * sqrt(linspace(1, 0.5)), two independent N(0,1) maps from a
# fixed seed (so their difference has deviation sqrt 2), and the spatial model alone for 40 %.
_ALGORITHM_1 = BalancerSettings(
    preset="paper", rate=1e6, rate_end=1e6, normalize_rate=False, memory=1.0, smoothing=0,
    initial_mix=0.5, region_prior=0.0, prior_until=0.0, spatial_only=0.4, end=1.0, every=1,
)  # fmt: skip
PRESETS: dict[str, BalancerSettings] = {
    # Equal shares at the start, as in the paper; the regions are the spatial model's until the
    # realism model ends alone, and the background keeps the realism model's colours throughout.
    "equilibrium": BalancerSettings(
        preset="equilibrium",
        initial_mix=0.5,
        prior_until=0.6,
        realism_only=0.4,
        match_background=1.0,
    ),  # fmt: skip
    "paper": _ALGORITHM_1,
    "official": replace(
        _ALGORITHM_1, preset="official", rate_end=1e6 * math.sqrt(0.5), initial_noise=math.sqrt(2.0)
    ),
}


def preset(name: str, **changes: Any) -> BalancerSettings:
    """The named preset, with ``changes`` applied. Raises RealCompoError for an unknown name."""
    return replace(PRESETS[checked.choice(name, "preset", tuple(PRESETS))], **changes)
