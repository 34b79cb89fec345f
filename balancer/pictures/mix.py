"""Who had the say where: the mix of a run's steps as pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import RealCompoError
from ..layouts.layout import Layout
from ..realcompo.trace import Trace, require_steps
from .layout import backdrop, paint_region
from .overlay import Cell, coloured, draw_sheet, laid_over
from .palette import MIX_COLOURS

OPACITY = 0.7
TITLE = "Realism share (blue: spatial model, yellow: realism model): step, phase, median"


def draw_mix(
    trace: Trace,
    step: int = 0,
    maps: int = 8,
    columns: int = 4,
    side: int = 256,
    sample: int = 0,
    image: Tensor | None = None,
    layout: Layout | None = None,
) -> Tensor:
    """The mix of step ``step`` (counted from 1) or, for 0, of ``maps`` steps spread over the run.

    ``image`` (B, H, W, C) lies below it, ``layout``'s regions are outlined; ``side`` is the longer
    side of a map in pixels. Returns (1, height, width, 3) in 0..1. Raises RealCompoError for an
    empty trace, and a step or sample that it does not hold.
    """
    require_steps(trace, sample)
    if step == 0:
        indices = np.unique(np.linspace(0, len(trace.steps) - 1, maps).round().astype(int))
    else:
        numbers = [record.step + 1 for record in trace.steps]
        if step not in numbers:
            raise RealCompoError(
                "step", f"the run has no step {step}", f"Use {numbers[0]} to {numbers[-1]}, or 0."
            )
        indices = np.array([numbers.index(step)])
    height, width = trace.steps[0].mix.shape[-2:]
    if image is not None and image.ndim == 4:
        height, width = image.shape[1:3]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if image is not None and image.ndim == 4 and sample < image.shape[0]:
        image = image[sample][None]
    cells = []
    for index in indices:
        record = trace.steps[index]
        values = record.mix[sample, 0]
        if image is None:
            picture = coloured(values, *size, MIX_COLOURS)
        else:
            picture = laid_over(backdrop(image, *size), values, MIX_COLOURS, OPACITY)
        for number, region in enumerate(layout.regions if layout is not None else ()):
            paint_region(picture, region, number)
        middle = float(torch.median(values))
        caption = f"{record.step + 1}  {record.phase}  {middle:.2f}"
        cells.append(Cell(picture, caption))
    return draw_sheet(cells, columns, TITLE)
