"""A picture of a trace: loss, attention shares per region, mix over the steps, mix maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..realcompo.trace import StepRecord, Trace, require_steps
from .palette import MIX_COLOURS, PALETTE, REALISM, SPATIAL, hex_of, region_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("", "o", "s", "^", "D", "v")
MAPS = 6


def plot_trace(trace: Trace, width: int = 1024, height: int = 768, sample: int = 0) -> Tensor:
    """Draw ``trace`` for one sample of the batch; returns an image (1, height, width, 3), 0..1.

    Raises RealCompoError when the trace is empty or has no such sample.
    """
    require_steps(trace, sample)
    # the object-oriented interface: pyplot would keep global state and look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    loss, shares, mix = rows[0].subplots(1, 3)
    for axis in (loss, shares, mix):
        axis.xaxis.get_major_locator().set_params(integer=True)
    balanced = [
        record
        for record in trace.steps
        if record.loss_realism is not None or record.loss_spatial is not None
    ]
    _draw_losses(loss, balanced, sample)
    _draw_shares(shares, balanced, trace.phrases, sample)
    _draw_mix(mix, trace.steps, sample)
    chosen = np.unique(np.linspace(0, len(trace.steps) - 1, MAPS).round().astype(int))
    panels = np.atleast_1d(rows[1].subplots(1, len(chosen)))
    rows[1].suptitle("Realism share per position (dark: spatial model, bright: realism model)")
    image = None
    for axis, index in zip(panels, chosen, strict=True):
        record = trace.steps[index]
        image = axis.imshow(record.mix[sample, 0].numpy(), vmin=0, vmax=1, cmap=MIX_COLOURS)
        axis.set_title(f"step {record.step + 1}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    if image is not None:
        rows[1].colorbar(image, ax=list(panels), shrink=0.8)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)[None]


def _draw_losses(axis: Axes, records: list[StepRecord], sample: int) -> None:
    axis.set_title("Loss (Eq. 6)", fontsize=10)
    axis.set_xlabel("step")
    for name, label, colour, style in (
        ("loss_realism", "realism model", REALISM, "-"),
        ("loss_spatial", "spatial model", SPATIAL, ":"),
    ):
        points = [(r.step + 1, value) for r in records if (value := getattr(r, name)) is not None]
        axis.plot(
            [step for step, _ in points], [float(value[sample]) for _, value in points],
            style, marker="o", markersize=3, color=hex_of(colour), label=label,
        )  # fmt: skip
    if records:
        # room above the curves: a loss that hardly moves must still be seen against zero
        drawn = [float(y) for line in axis.lines for y in np.asarray(line.get_ydata())]
        # a run whose gradients were not finite has such losses: gaps in the curve
        axis.set_ylim(0, 1.15 * max([y for y in drawn if np.isfinite(y)], default=0.0) + 1e-3)
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "not balanced", ha="center", transform=axis.transAxes)


def _draw_shares(
    axis: Axes, records: list[StepRecord], phrases: tuple[str, ...], sample: int
) -> None:
    axis.set_title("Attention inside its region", fontsize=10)
    axis.set_xlabel("step")
    axis.set_ylim(0, 1)
    from matplotlib.patheffects import withStroke

    # a dark rim, as the page's lines have: some of the regions' colours are faint on white
    rim = [withStroke(linewidth=2.3, foreground="#505050")]
    seen = [s for r in records for s in (r.shares_realism, r.shares_spatial) if s is not None]
    count = max((shares.shape[-1] for shares in seen), default=0)
    for region in range(count):
        # a batch of layouts has no phrases in common
        phrase = phrases[region] if region < len(phrases) else f"region {region + 1}"
        colour = hex_of(region_colour(region))
        marker = MARKERS[region // len(PALETTE) % len(MARKERS)]
        for name, style in (("shares_realism", "-"), ("shares_spatial", ":")):
            points = [(r.step + 1, s) for r in records if (s := getattr(r, name)) is not None]
            axis.plot(
                [step for step, _ in points], [float(s[sample, region]) for _, s in points],
                style, color=colour, marker=marker, markersize=4, path_effects=rim,
                label=phrase if style == "-" else None,
            )  # fmt: skip
    if records:
        axis.legend(
            fontsize=7, title="solid: realism, dotted: spatial", title_fontsize=7,
            ncols=1 + count // 9,
        )  # fmt: skip


def _draw_mix(axis: Axes, records: list[StepRecord], sample: int) -> None:
    axis.set_title("Realism share of the mix", fontsize=10)
    colour = hex_of(REALISM)
    axis.set_xlabel("step")
    axis.set_ylim(0, 1)
    steps = [record.step + 1 for record in records]
    flat = torch.stack([record.mix[sample].flatten() for record in records])
    # numpy's: torch's refuses a long run at a large size
    lowest, low, middle, high, highest = np.quantile(
        flat.numpy(), (0.1, 0.25, 0.5, 0.75, 0.9), axis=1
    )
    axis.fill_between(steps, lowest, highest, color=colour, alpha=0.2, label="10 to 90 %")
    axis.fill_between(steps, low, high, color=colour, alpha=0.3, label="25 to 75 %")
    axis.plot(steps, middle, color=colour, label="median")
    axis.legend(fontsize=8)
