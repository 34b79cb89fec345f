"""What a layout asks of one model's maps: token weights, masks and loss weights, made once a size.

A conditioning entry may see a part of the picture only, so masks are cut to it and what was found
there is put back in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ...attention.regions import LayoutBatch
from ...layouts.grid import Area
from ..attention.map_rows import grid_size


class RegionTargets:
    """Tensors of a batch of layouts for maps of one level: ``factor`` latent positions per cell."""

    def __init__(self, regions: LayoutBatch, factor: int) -> None:
        self._regions, self._factor = regions, factor
        self._cache: dict[Hashable, Tensor] = {}

    def _kept(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def token_weights(self, context: Tensor) -> Tensor:
        """What averages each region's tokens, (T, R) or (B, T, R), for an encoded prompt
        (B, T, width)."""
        length, device = context.shape[1], context.device
        make = self._regions.token_weights
        return self._kept(("tokens", length, device), lambda: make(length).to(device))

    def loss_weights(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the regions' terms in the loss, and 1 where there is a region at all (else 0);
        both (R,) or (B, R), for shares (B, R)."""
        device = shares.device
        weights = self._kept(("weights", device), lambda: self._regions.weights().to(device))
        return weights, self._kept(("present", device), lambda: (weights > 0).to(shares))

    def masks(self, maps: Tensor, x: Tensor, area: Area | None) -> Tensor:
        """Masks (R, h, w) or (B, R, h, w) in 0..1 for maps (B, R, h, w) of ``area`` of ``x``."""
        key = ("masks", maps.shape[-2:], x.shape[-2:], area, maps.device)
        return self._kept(key, lambda: self._masks(maps, x, area).to(maps.device))

    def _masks(self, maps: Tensor, x: Tensor, area: Area | None) -> Tensor:
        height, width = maps.shape[-2:]
        if area is None:
            return self._regions.grid(height, width)
        # the entry sees a part of the picture: cut the same part out of the whole picture's grid
        grid = self._regions.grid(*grid_size(x.shape[-2], x.shape[-1], self._factor))
        top, left = area[2] // self._factor, area[3] // self._factor
        part = grid[..., top : top + height, left : left + width]
        out = torch.zeros(*grid.shape[:-2], height, width)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def in_whole(part: Tensor, x: Tensor, area: Area | None, factor: int) -> Tensor:
    """``part`` (..., h, w), which belongs to ``area`` of the latent ``x`` at ``factor`` positions
    per cell, in its place among zeros (..., H, W)."""
    if area is None:
        return part
    height, width = grid_size(x.shape[-2], x.shape[-1], factor)
    top, left = area[2] // factor, area[3] // factor
    whole = part.new_zeros(*part.shape[:-2], height, width)
    target = whole[..., top : top + part.shape[-2], left : left + part.shape[-1]]
    target.copy_(part[..., : target.shape[-2], : target.shape[-1]])
    return whole
