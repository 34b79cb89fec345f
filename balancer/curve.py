"""A training's losses as a small picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 512, 320


def draw_curve(losses: Mapping[str, Sequence[float]]) -> Any:
    """A PIL image of every loss over the steps, each smoothed and scaled to its own range."""
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
        axis.plot(np.arange(1, len(numbers) + 1), numbers, color="#56B4E9", linewidth=0.6)
        mean = np.convolve(numbers, np.ones(width) / width, mode="valid")
        axis.plot(np.arange(width, len(numbers) + 1), mean, color="#0072B2", linewidth=1.6)
        axis.set_ylabel(name, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("step", fontsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
