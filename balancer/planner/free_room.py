"""A box for a thing that was not found: where the planner would put it, moved to what is free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from ..layouts.grid import region_grid
from ..layouts.layout import Box, Layout, Region
from ..text.parse import Parsed, parse_prompt
from .place import place

GRID = 32
"""Cells of a side in which free room is counted."""
_SHRUNK = (1.0, 0.9, 0.8, 0.7, 0.6)
_STEPS = 16
_EDGE = 0.02
"""Things that are cut off by the picture's edge are rarely meant."""
_OFFSET = 0.05
"""A relation needs this much between the centres, as a share of the picture's side."""


def planned_boxes(prompt: str, aspect: float = 1.0) -> tuple[Parsed, list[list[Box]]]:
    """The things of ``prompt`` (without weights) by the planner's rules, with their boxes."""
    parsed = parse_prompt(prompt)
    return parsed, place(parsed, aspect)[0]


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _wrong(box: Box, thing: int, parsed: Parsed, known: dict[int, Box]) -> int:
    """How many relations between the thing and what stands already the box would break."""
    broken = 0
    for relation in parsed.relations:
        axis = {"left": 0, "above": 1, "on": 1}.get(relation.kind)
        other = relation.other if relation.one == thing else relation.one
        if axis is None or thing not in (relation.one, relation.other) or other not in known:
            continue
        before, after = (box, known[other]) if relation.one == thing else (known[other], box)
        broken += _centre(before)[axis] + _OFFSET > _centre(after)[axis]
    return broken


def free_box(
    wish: Box, taken: Tensor, thing: int, parsed: Parsed, known: dict[int, Box]
) -> tuple[Box, float]:
    """The box most like ``wish`` in free room, and the share of it that is taken all the same.

    ``taken`` (GRID, GRID) in 0..1; ``known`` are the boxes of the things that stand already. Room
    goes before relations, relations before size, size before nearness: a small box is easily
    overlooked by the model.
    """
    sums = torch.zeros(GRID + 1, GRID + 1, dtype=torch.float64)
    sums[1:, 1:] = taken.double().cumsum(0).cumsum(1)
    width, height = wish[2] - wish[0], wish[3] - wish[1]
    wished = _centre(wish)
    best: tuple[tuple[float, ...], Box, float] | None = None
    for shrunk, row, column in product(_SHRUNK, range(_STEPS + 1), range(_STEPS + 1)):
        w, h = width * shrunk, height * shrunk
        left, top = (
            edge + (1 - side - 2 * edge) * step / _STEPS
            for side, step in ((w, column), (h, row))
            for edge in (min(_EDGE, (1 - side) / 2),)
        )
        box = (left, top, left + w, top + h)
        x0, y0 = math.floor(left * GRID), math.floor(top * GRID)
        x1, y1 = math.ceil(box[2] * GRID - 1e-9), math.ceil(box[3] * GRID - 1e-9)
        inside = float(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0])
        share = inside / max(1, (x1 - x0) * (y1 - y0))
        away = math.dist(_centre(box), wished)
        order = (round(share, 2), _wrong(box, thing, parsed, known), -shrunk, away)
        if best is None or order < best[0]:
            best = (order, box, share)
    assert best is not None
    return best[1], best[2]


def taken_room(regions: Sequence[Region]) -> Tensor:
    """(GRID, GRID) in 0..1: what the regions' boxes cover, with a cell of air around them."""
    if not regions:
        return torch.zeros(GRID, GRID)
    boxes = tuple(Region(region.phrase or "thing", region.box) for region in regions)
    grid = region_grid(Layout(boxes), GRID, GRID, soft=True).amax(dim=0)
    return functional.max_pool2d(grid[None, None], 3, 1, 1)[0, 0]
