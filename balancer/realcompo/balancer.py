"""The balancer: one logit map per sample, moved against a loss by a closed-form gradient."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from .settings import BalancerSettings


def probe_latent(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One deterministic DDIM step (RealCompo Eq. 12, eta 0) in the host's sigma space.

    x and denoised (B, C, H, W) at noise level ``sigma`` > 0; returns the latent at ``sigma_next``.
    x' = x + (sigma_next - sigma) * eps with eps = (x - denoised) / sigma; the same line for eps-,
    v- and flow models, since each is affine in its prediction.
    """
    return x + (x - denoised) * ((sigma_next - sigma) / sigma)


def logit_gradient(
    latent_gradient: Tensor,
    realism: Tensor,
    spatial: Tensor,
    mix: Tensor,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """dL/dd per position, in closed form: no graph through mix, noise and DDIM step is needed.

    latent_gradient (B, C, H, W) is dL/dx' at the probe latent; realism and spatial are the two
    denoised predictions that the probe was made of; mix (B, 1, H, W) = sigmoid(d). With
    eps_c = (x - denoised_c) / sigma this is
    k * mix * (1 - mix) * sum_channels(dL/dx' * (eps_realism - eps_spatial)) with
    k = sigma_next - sigma. It equals dL/dCoe_text of RealCompo Eq. 7, and minus dL/dCoe_spatial.
    Returns (B, 1, H, W).
    """
    difference = (spatial - realism) / sigma
    along = (latent_gradient * difference).sum(dim=1, keepdim=True)
    return (sigma_next - sigma) * mix * (1.0 - mix) * along


def smooth(gradient: Tensor, side: int) -> Tensor:
    """Mean of ``gradient`` (B, 1, H, W) over ``side`` x ``side`` positions (made odd), same shape;
    borders are not padded with zeros."""
    if side <= 1:
        return gradient
    side += 1 - side % 2
    return functional.avg_pool2d(gradient, side, 1, side // 2, count_include_pad=False)


class Phase(Enum):
    """What one step does: one model alone, a balanced mix, or the mix as it stands."""

    SPATIAL = "spatial"
    BALANCE = "balance"
    MIX = "mix"
    REALISM = "realism"


class Balancer:
    """The logit map of one sampling run, and the rule that moves it (see BalancerSettings).

    What the settings say in shares of the noise schedule comes in the host's sigmas: ``window`` =
    (first, last) sigma between which it balances; ``alone`` = the sigma above which the spatial
    model is alone and the one from which on (downwards) the realism model is; ``prior_sigma`` =
    the sigma above which the region prior holds. So a run that is cut in two, or starts in the
    middle, does at every noise level what the whole run does there. ``coverage`` (1, 1, H, W) in
    0..1 says how much of each latent position lies in a region; ``map_factor`` latent positions
    make one attention map cell.
    """

    # relative; levels that are equal but for rounding lie on the border itself, and the later phase
    # has it. Schedulers count to the last noise level, shares to none: that is within it as well.
    TOLERANCE = 1e-3

    def __init__(
        self,
        settings: BalancerSettings,
        batch: int,
        coverage: Tensor,
        window: tuple[float, float] = (math.inf, 0.0),
        alone: tuple[float, float] = (math.inf, 0.0),
        prior_sigma: float = math.inf,
        map_factor: int = 1,
    ) -> None:
        self.settings = settings
        self._coverage = coverage
        self._window = window
        self._alone = alone
        self._prior_sigma = prior_sigma
        self._side = settings.smoothing * map_factor if settings.smoothing > 1 else 0
        self._base = _logit(settings.initial_mix)
        self._deviation = coverage.new_zeros(batch, 1, *coverage.shape[-2:])
        if settings.initial_noise > 0:
            # a generator of its own: the host's random numbers stay as they are
            generator = torch.Generator().manual_seed(settings.noise_seed)
            noise = torch.randn(1, 1, *coverage.shape[-2:], generator=generator)
            self._deviation += settings.initial_noise * noise.to(coverage)
        self._first_balanced: int | None = None

    def phase(self, step: int, sigma: float) -> Phase:
        """What to do at outer step ``step`` (0, 1, ... in this run) from noise level ``sigma`` on.

        ``sigma`` is the step's, also for calls in between: no step changes its phase half-way.
        """
        spatial, realism = self._alone
        if sigma > spatial * (1.0 + self.TOLERANCE):
            return Phase.SPATIAL
        if self.settings.realism_only > 0.0 and sigma <= realism * (1.0 + self.TOLERANCE):
            return Phase.REALISM
        first, last = self._window
        # without noise there is no next latent to look at
        if self.settings.mode == "fixed" or not last <= sigma <= first or sigma <= 0.0:
            return Phase.MIX
        if self._first_balanced is None:
            self._first_balanced = step
        due = (step - self._first_balanced) % self.settings.every == 0
        return Phase.BALANCE if due else Phase.MIX

    def base(self, sigma: float) -> Tensor:
        """The logits without any deviation at this noise level, (1, 1, H, W)."""
        prior = self.settings.region_prior if sigma > self._prior_sigma else 0.0
        return self._base - prior * self._coverage

    def constant_mix(self, sigma: float) -> float | None:
        """The realism share if it is one number everywhere, can never move, and is all that counts;
        else None."""
        settings = self.settings
        moves = settings.mode != "fixed" or settings.initial_noise > 0
        prior = settings.region_prior != 0.0 and sigma > self._prior_sigma
        # the spatial model's share may be all, but its colours are then still the realism model's
        asks_both = settings.match_background > 0.0 and settings.initial_mix == 0.0
        return None if moves or prior or asks_both else settings.initial_mix

    def restart(self, sigma: float) -> Tensor:
        """Logits (B, 1, H, W) that a balanced step starts from and probes with."""
        self._deviation = self._deviation * self.settings.memory
        return self.logits(sigma)

    def logits(self, sigma: float) -> Tensor:
        """The logits as they stand, (B, 1, H, W)."""
        return self.base(sigma) + self._deviation

    def mix(self, sigma: float) -> Tensor:
        """The realism share as it stands, (B, 1, H, W) in 0..1 (Eq. 2)."""
        return torch.sigmoid(self.logits(sigma))

    def update(self, gradient: Tensor, remaining: Tensor, part: float) -> None:
        """Move the map against dL/dd ``gradient`` (B, 1, H, W); Eq. 7.

        ``part`` (0..1) is the share of the noise schedule that lies behind the step.
        ``remaining`` (B,) in 0..1 is the mean over regions of one minus the share inside; it
        weights the step when the rate is normalised, so that a solved layout is left alone.
        """
        gradient = smooth(gradient, self._side)
        rate = self.settings.rate_at(part)
        if self.settings.normalize_rate:
            size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            direction = gradient / size.clamp_min(torch.finfo(gradient.dtype).tiny)
            self._deviation = self._deviation - rate * remaining.view(-1, 1, 1, 1) * direction
        else:
            # two maps move by rate * gradient each, in opposite directions: d moves by twice that
            self._deviation = self._deviation - 2.0 * rate * gradient


def _logit(share: float) -> float:
    """Inverse of the sigmoid; 0 and 1 give minus and plus infinity."""
    if share <= 0.0:
        return -math.inf
    return math.inf if share >= 1.0 else math.log(share / (1.0 - share))
