"""Which outer step a model call belongs to, by its noise level."""

from __future__ import annotations

from collections.abc import Sequence


class StepClock:
    """Maps noise levels to outer steps, under samplers that call the model as they like.

    ``sigmas`` are the run's noise levels, steps + 1 of them, falling. A call belongs to the step
    whose noise level is the last one not below the call's; a step opens at its first call. So a
    second-order sampler's call ahead at the next noise level opens the next step, and its calls
    between two levels, or back at one already seen, find the mix as it stands: the mix is a
    function of the noise level, as the samplers assume of a model.
    """

    # samplers rebuild noise levels through logarithms; that must not move a call to another step
    TOLERANCE = 1e-4

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = list(sigmas)
        self._open = -1

    @property
    def steps(self) -> int:
        """Number of outer steps."""
        return max(len(self._sigmas) - 1, 0)

    def tick(self, sigma: float) -> tuple[int, bool]:
        """(step of a call at this noise level, whether this call opens the step)."""
        reached = sigma * (1.0 - self.TOLERANCE)
        step = 0
        for index in range(self.steps):
            if self._sigmas[index] >= reached:
                step = index
        opens = step > self._open
        self._open = max(self._open, step)
        return step, opens

    def level(self, sigma: float) -> float:
        """The run's noise level that a call at ``sigma`` belongs to: the last one not below it.

        That of the call's step, but that a call at the level where an unfinished run stops is
        already at that level, as it is in the run that goes on from there.
        """
        reached = sigma * (1.0 - self.TOLERANCE)
        return min((own for own in self._sigmas if own >= reached), default=sigma)

    def begins(self, step: int) -> float:
        """Noise level at the start of an outer step."""
        return self._sigmas[step]

    def next_sigma(self, step: int) -> float:
        """Noise level at the end of an outer step."""
        return self._sigmas[step + 1]
