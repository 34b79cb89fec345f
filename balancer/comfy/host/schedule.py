"""The noise schedule in shares, as the host counts ``start_percent`` and ``end_percent``."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

_POINTS = 200
"""Equal shares at which the host is asked, for finding the share of a noise level."""


class NoiseSchedule:
    """A model's noise levels by the share of the schedule that lies behind: 0 is only noise, 1 the
    finished picture. ``sampling`` is the host's ``model_sampling``."""

    def __init__(self, sampling: Any) -> None:
        self._sampling = sampling

    def sigma(self, part: float) -> float:
        """The noise level at a share; 0 and 1 give levels that no step lies above or below."""
        return float(self._sampling.percent_to_sigma(part))

    def parts(self, sigmas: list[float]) -> list[float]:
        """Shares (0..1) of noise levels, exact to a thousandth. Reads back from the device; call it
        before sampling starts."""
        low, high = float(self._sampling.sigma_min), float(self._sampling.sigma_max)
        inner = (self.sigma(n / _POINTS) for n in range(_POINTS - 1, 0, -1))
        # rising, as bisect wants them: index n is the share 1 - n / _POINTS
        table = [low, *(min(max(s, low), high) for s in inner), high]
        return [_part(sigma, table) for sigma in sigmas]


def _part(sigma: float, table: list[float]) -> float:
    index = bisect_left(table, sigma)
    if index == 0:
        return 1.0
    if index == len(table):
        return 0.0
    below, above = table[index - 1], table[index]
    return 1.0 - (index - 1 + (sigma - below) / (above - below)) / _POINTS
