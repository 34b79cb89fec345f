"""A training's losses as a small picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .palette import BLUE, SKY, hex_of

WIDTH, HEIGHT = 512, 320


def draw_curve(losses: Mapping[str, Sequence[float]]) -> Any:
    """Every loss over the steps, smoothed and at its own scale, as a PIL image WIDTH x HEIGHT."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(losses) or 1, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, losses.items(), strict=False):
        numbers = np.asarray(values)
        width = max(1, len(numbers) // 20)
        axis.plot(np.arange(1, len(numbers) + 1), numbers, color=hex_of(SKY), linewidth=0.6)
        mean = np.convolve(numbers, np.ones(width) / width, mode="valid")
        axis.plot(np.arange(width, len(numbers) + 1), mean, color=hex_of(BLUE), linewidth=1.6)
        axis.set_ylabel(name, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("step", fontsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
