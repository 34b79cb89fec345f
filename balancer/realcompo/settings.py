"""The balancer's documented numbers, and the presets, which are nothing but sets of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ..errors import RealCompoError
from ..values import checked
from ..values.setting_fields import check, choice, flag, number, whole

Mode = Literal["dynamic", "lagged", "fixed"]
MapLevel = Literal["auto", "1", "2", "4", "8"]
ProbeTimestep = Literal["current", "next"]
MODES, MAP_LEVELS, PROBE_TIMESTEPS = get_args(Mode), get_args(MapLevel), get_args(ProbeTimestep)
DEFAULT_PRESET = "equilibrium"


def _share(default: float, tip: str) -> Any:
    return number(default, 0.0, 1.0, 0.01, tip, round=0.001)


def _rate(default: float, tip: str) -> Any:
    return number(default, 0.0, 1e9, 0.1, tip, round=0.01)


@dataclass(frozen=True)
class BalancerSettings:
    """Every number that steers the mix, with the preset ``equilibrium`` as defaults.

    The balancer keeps one logit map d per sample; mix = sigmoid(d) is the realism model's share
    (RealCompo Eq. 2-3). At a balanced step it restarts from ``base + memory * deviation``, where
    the base is ``logit(initial_mix)``, less ``region_prior`` inside the regions while noise is
    high, and then steps against the gradient of the loss (Eq. 6-7). What each number is stands at
    its field: this is the table that the node's widgets and texts are made of.

    Shares of the noise schedule are the host's (start_percent): of the timesteps, not of one run's
    steps. Where steps are even in timesteps the two are the same; a run over a part of the
    schedule (split samplers, denoise below 1) does that part of the whole run. What is counted
    within one run is ``every`` (from the first balanced step) and the deviation (with ``memory``,
    and between balanced steps): the second of two runs starts with a fresh mix.

    Raises RealCompoError when a number is outside its range.
    """

    mode: Mode = choice(
        "dynamic", MODES,
        "dynamic: balance by both models' attention maps one step ahead, as the paper does. lagged:"
        " by the maps of the step's own predictions, which needs no passes beside them. fixed: keep"
        " the starting mix (and the region prior).",
    )  # fmt: skip
    rate: float = _rate(
        16.0, "Step size at the start of the noise schedule. In logits when normalize_rate is on."
    )
    # between the two the square of the rate changes linearly
    rate_end: float = _rate(16.0, "Step size at the end of the noise schedule.")
    # False: step = 2 * rate * dL/dd (two coefficient maps, Eq. 7). True: the gradient over its own
    # RMS, so that the rate is in logits whatever the model and the latent size
    normalize_rate: bool = flag(
        True,
        "On: divide the gradient by its size and weight it by the loss that is left. Off: the"
        " paper's plain step.",
    )
    memory: float = _share(
        0.0, "1: changes accumulate over the steps, as in the paper. 0: start afresh."
    )
    smoothing: int = whole(
        3, 0, 65, "Average the gradient over this many attention cells. 0 = off."
    )
    initial_mix: float = _share(
        0.5, "Share of the realism model to start from. 0.5 = equal, as in the paper."
    )
    # the regions are the spatial model's until the realism model ends alone
    region_prior: float = number(
        20.0, -100.0, 100.0, 0.1,
        "Logits given to the spatial model inside the regions while noise is high.", round=0.01,
    )  # fmt: skip
    prior_until: float = _share(0.6, "The region prior ends at this part of the noise schedule.")
    spatial_only: float = _share(
        0.0, "Share of the noise schedule that the spatial model does alone, first."
    )
    start: float = _share(
        0.0, "Balance from this part of the noise schedule on (as start_percent)."
    )
    end: float = _share(0.6, "Balance up to this part of the noise schedule, then hold the mix.")
    every: int = whole(
        2, 1, 10_000, "Balance at every n-th step only; hold the mix between. Cheaper."
    )
    map_level: MapLevel = choice(
        "auto", MAP_LEVELS,
        "Which attention maps to read, by latent positions per map cell. auto: 4 (16x16 maps for"
        " SD1.5 at 512 px) or the model's finest.",
    )  # fmt: skip
    probe_timestep: ProbeTimestep = choice(
        "current", PROBE_TIMESTEPS,
        "Timestep told to the models with the probe latent. current: as Algorithm 1. next: the one"
        " that the probe latent belongs to.",
    )  # fmt: skip
    initial_noise: float = _rate(0.0, "Standard deviation of noise on the starting logits.")
    noise_seed: int = whole(31, 0, (1 << 64) - 1, "Seed of that noise.")
    realism_only: float = _share(
        0.4, "Share of the noise schedule that the realism model does alone, last. Cheaper."
    )
    # see background.py
    match_background: float = _share(
        1.0,
        "How far the spatial model's mean colours outside the regions are moved to the realism"
        " model's before mixing. 1 keeps the realism model's light and tint.",
    )
    preset: str = "custom"
    """The name that these numbers go by."""

    def __post_init__(self) -> None:
        check(self)
        if self.start > self.end:
            raise RealCompoError(
                "start", f"start {self.start} lies after end {self.end}", "Make start <= end."
            )
        if self.spatial_only + self.realism_only > 1.0:
            raise RealCompoError(
                "realism_only", "spatial_only and realism_only are more than the whole schedule",
                "Lower one of them; their sum may be 1 at most.",
            )  # fmt: skip

    def rate_at(self, part: float) -> float:
        """Step size at ``part`` (0..1) of the noise schedule: square root of a line from rate^2 to
        rate_end^2."""
        return math.sqrt(self.rate**2 + (self.rate_end**2 - self.rate**2) * part)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        return asdict(self)


def plain_settings(**changes: Any) -> BalancerSettings:
    """The defaults with two of their parts off: both models mix to the end, each in its colours."""
    numbers: dict[str, Any] = {"realism_only": 0.0, "match_background": 0.0, **changes}
    return BalancerSettings(**numbers)


# The paper prints neither rho nor t0. Its Fig. 1b shows positions settled by 20 of 50 steps (t0);
# the released code uses rho = 1e6 * sqrt(linspace(1, 0.5)), two independent N(0,1) maps from a
# fixed seed (so their difference has deviation sqrt 2), and the spatial model alone for 40 %.
_ALGORITHM_1 = plain_settings(
    preset="paper", rate=1e6, rate_end=1e6, normalize_rate=False, memory=1.0, smoothing=0,
    initial_mix=0.5, region_prior=0.0, prior_until=0.0, spatial_only=0.4, end=1.0, every=1,
)  # fmt: skip
PRESETS: dict[str, BalancerSettings] = {
    # Equal shares at the start, as in the paper; the regions are the spatial model's until the
    # realism model ends alone, and the background keeps the realism model's colours throughout.
    DEFAULT_PRESET: BalancerSettings(preset=DEFAULT_PRESET),
    "paper": _ALGORITHM_1,
    "official": replace(
        _ALGORITHM_1, preset="official", rate_end=1e6 * math.sqrt(0.5), initial_noise=math.sqrt(2.0)
    ),
}


def preset(name: str, **changes: Any) -> BalancerSettings:
    """The named preset, with ``changes`` applied. Raises RealCompoError for an unknown name."""
    return replace(PRESETS[checked.choice(name, "preset", tuple(PRESETS))], **changes)
