"""One step of a run as a small message: what a page shows while the run goes on.

Everything is packed into one row of bytes where the run computes, so that it leaves the device in
one transfer.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..layouts.grid import region_grid
from ..layouts.layout import Layout
from .trace import StepRecord

MIX_SIDE, MAP_SIDE, MASK_SIDE = 64, 32, 64
"""Longest sides of what is sent: the mix, an attention map, a region's shape."""


def to_host(data: Tensor) -> bytes:
    """The one transfer of a step: a row of bytes (N,) uint8 from the run's device."""
    return data.cpu().numpy().tobytes()


def step_message(
    record: StepRecord, regions: int, fetch: Callable[[Tensor], bytes] = to_host
) -> dict[str, Any]:
    """The first sample of ``record`` in JSON's terms; ``regions`` is how many its layout has.

    ``step`` counts from 0, ``sigma`` and ``phase`` are the record's. ``mix`` is the realism share
    in bytes (255 = realism model alone) on a grid of at most ``MIX_SIDE``: ``{width, height,
    data}``, data in base64, row by row. ``models`` has an entry for each model whose attention was
    read at this step: ``shares`` (one per region) and ``loss`` as numbers, ``maps`` as a grid like
    the mix with one plane per region, each with its peak at 255. ``fetch`` is called once.
    """
    # as 32-bit numbers first, so that they are aligned in the row of bytes
    numbers: list[Tensor] = []
    planes = [_bytes(_fitted(record.mix[:1].float(), MIX_SIDE))]
    named: list[str] = []
    for name in ("realism", "spatial"):
        shares, loss = getattr(record, f"shares_{name}"), getattr(record, f"loss_{name}")
        maps = getattr(record, f"maps_{name}")
        if shares is None or loss is None or maps is None:
            continue
        named.append(name)
        numbers += [shares[0, :regions].float(), loss[:1].float()]
        fitted = _fitted(maps[:1, :regions].float(), MAP_SIDE)
        peak = fitted.amax(dim=(-2, -1), keepdim=True)
        planes.append(_bytes(fitted / peak.clamp_min(torch.finfo(torch.float32).tiny)))
    rows = [torch.cat(numbers).view(torch.uint8)] if numbers else []
    data = fetch(torch.cat([*rows, *(plane.flatten() for plane in planes)]))
    return _message(record, data, named, regions, [plane.shape for plane in planes])


def _fitted(planes: Tensor, side: int) -> Tensor:
    """(1, C, H, W) averaged down to at most ``side`` cells on its longer side."""
    height, width = planes.shape[-2:]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return planes
    return adaptive_avg_pool2d(planes, (math.ceil(height * scale), math.ceil(width * scale)))


def _bytes(planes: Tensor) -> Tensor:
    return (planes * 255.0).round().clamp(0, 255).to(torch.uint8)


def _message(
    record: StepRecord, data: bytes, named: list[str], regions: int, shapes: list[torch.Size]
) -> dict[str, Any]:
    each = regions + 1
    numbers = np.frombuffer(data, dtype=np.float32, count=each * len(named))
    values = [round(value, 5) if math.isfinite(value) else 0.0 for value in numbers.tolist()]
    start = 4 * each * len(named)
    grids: list[dict[str, Any]] = []
    for shape in shapes:
        end = start + shape.numel()
        grids.append(grid_message(data[start:end], shape[-2], shape[-1]))
        start = end
    models = {
        name: {
            "shares": values[index * each : index * each + regions],
            "loss": values[index * each + regions],
            "maps": grids[index + 1],
        }
        for index, name in enumerate(named)
    }
    return {
        "step": record.step, "sigma": round(record.sigma, 5), "phase": record.phase,
        "mix": grids[0], "models": models,
    }  # fmt: skip


def grid_message(data: bytes, height: int, width: int) -> dict[str, Any]:
    """Planes of bytes on a grid, in JSON's terms."""
    return {"width": width, "height": height, "data": b64encode(data).decode("ascii")}


def region_messages(layout: Layout) -> list[dict[str, Any]]:
    """Phrase, box and, where a region has one, mask of a layout's regions, in JSON's terms."""
    entries: list[dict[str, Any]] = []
    for number, region in enumerate(layout.regions, 1):
        entry: dict[str, Any] = {"phrase": region.phrase or str(number), "box": list(region.box)}
        if region.mask is not None:
            alone = region_grid(Layout((region,)), MASK_SIDE, MASK_SIDE, soft=True)
            covered = _bytes(alone).numpy().tobytes()
            entry["mask"] = grid_message(covered, MASK_SIDE, MASK_SIDE)
        entries.append(entry)
    return entries
