"""A training's progress where a user looks: the node's bar, a loss curve on it, the console."""

from __future__ import annotations

import time
from typing import Any

import comfy.utils
from tqdm import tqdm

_SECONDS = 1.0
"""Between two pictures of the curve."""


class Progress:
    """The host's progress bar with the losses so far."""

    def __init__(self, steps: int, done: int = 0) -> None:
        self._steps, self._done = steps, done
        self._bar = comfy.utils.ProgressBar(steps)
        self._console = tqdm(
            total=steps, initial=done, desc="Training",
            disable=not comfy.utils.PROGRESS_BAR_ENABLED,
        )  # fmt: skip
        self._drawn = 0.0
        if done:
            self._bar.update_absolute(done, steps)

    def step(self, last: dict[str, float], losses: dict[str, list[float]]) -> None:
        """One more step is made; ``last`` are its losses, ``losses`` all of them so far."""
        self._done += 1
        self._console.set_postfix({name: f"{value:.4f}" for name, value in last.items()}, False)
        self._console.update(1)
        preview: Any = None
        now = time.monotonic()
        # the host drops pictures that nobody looks at, but not the work of drawing them
        if comfy.utils.PROGRESS_BAR_HOOK is not None and now - self._drawn > _SECONDS:
            from ...pictures.curve import draw_curve

            self._drawn = now
            preview = ("PNG", draw_curve(losses), 512)
        self._bar.update_absolute(self._done, self._steps, preview)

    def close(self) -> None:
        """The training is over, one way or another."""
        self._console.close()
