"""What a look at a model's attention gives: maps per noise level, site and phrase, and shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import RealCompoError, shown
from ..layouts.grid import region_grid
from ..layouts.layout import Layout
from .maps import inside_share

GROUPINGS = ("mean", "blocks", "layers")
MOST_LEVELS = 16


@dataclass(frozen=True)
class SiteMap:
    """One transformer layer's maps (B, R, h, w), mean over heads and a phrase's tokens, >= 0.

    ``block`` and ``layer`` name it: ``input 7`` and the number of the layer in it.
    """

    block: str
    layer: int
    maps: Tensor


@dataclass(frozen=True)
class Column:
    """Maps (B, R, h, w) of some sites together, and each region's share (B, R) inside its area."""

    name: str
    maps: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Reading:
    """Looks at one latent: ``columns[level]`` belong to ``levels[level]``, parts of the noise
    schedule (0 = only noise, 1 = none), where the noise level is ``sigmas[level]``."""

    levels: tuple[float, ...]
    sigmas: tuple[float, ...]
    columns: tuple[tuple[Column, ...], ...]

    def summary(self, layout: Layout, sample: int) -> dict[str, object]:
        """Every share of one sample as plain numbers, by level, site and phrase."""
        return {
            "levels": [
                {
                    "part": level, "sigma": round(sigma, 4),
                    "sites": {
                        column.name: [
                            {"phrase": region.phrase, "share": round(share, 4)}
                            for region, share in zip(
                                layout.regions, column.shares[sample].tolist(), strict=True
                            )
                        ]
                        for column in columns
                    },
                }
                for level, sigma, columns in zip(
                    self.levels, self.sigmas, self.columns, strict=True
                )
            ]
        }  # fmt: skip


def parse_levels(text: str) -> tuple[float, ...]:
    """Parts of the noise schedule from text such as ``0.2, 0.5 0.8``; RealCompoError if unclear."""
    words = str(text).replace(",", " ").replace(";", " ").split()
    remedy = "Give numbers from 0 (only noise) to 1 (the finished picture), such as 0.2, 0.5, 0.8."
    try:
        levels = tuple(float(word) for word in words)
    except ValueError:
        problem = f"{shown(text)} holds more than numbers"
        raise RealCompoError("noise_levels", problem, remedy) from None
    if not levels or not all(0.0 <= level <= 1.0 for level in levels):
        raise RealCompoError("noise_levels", f"{shown(text)} is no list of levels", remedy)
    if len(levels) > MOST_LEVELS:
        raise RealCompoError(
            "noise_levels", f"{len(levels)} noise levels are asked for",
            f"Each is a pass through the model; up to {MOST_LEVELS} are drawn.",
        )  # fmt: skip
    return levels


def columns_of(sites: Sequence[SiteMap], grouping: str, layout: Layout) -> tuple[Column, ...]:
    """Group sites as ``grouping`` says (one of GROUPINGS), in the order of the model's forward.

    Maps of different sizes are laid over each other at the finest one. Shares are those of the
    resulting map, with the regions' areas as the balancer takes them (Eq. 6).
    """
    groups: dict[str, list[SiteMap]] = {}
    for site in sites:
        name = {
            "mean": "mean of all sites", "blocks": site.block,
            "layers": f"{site.block}.{site.layer}",
        }[grouping]  # fmt: skip
        groups.setdefault(name, []).append(site)
    return tuple(_column(name, members, layout) for name, members in groups.items())


def _column(name: str, members: list[SiteMap], layout: Layout) -> Column:
    sizes = [(int(site.maps.shape[-2]), int(site.maps.shape[-1])) for site in members]
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    total = torch.zeros(())
    for site in members:
        maps = site.maps
        if maps.shape[-2:] != (height, width):
            maps = interpolate(maps, (height, width), mode="bilinear")
        total = total + maps
    mean = total / len(members)
    return Column(name, mean, inside_share(mean, region_grid(layout, height, width)))
