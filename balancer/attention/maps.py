"""From queries and keys to one cross-attention map per region, and its share inside the region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def attention_probabilities(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Cross-attention map softmax(q k^T / sqrt(dim)), in float32.

    query (B, N, heads * dim) and key (B, T, heads * dim), heads not split; returns
    (B, heads, N, T) in 0..1, each row summing to 1. Float32 because half precision loses the
    small gradients that the balancer lives on.
    """
    batch, positions, width = query.shape
    split_q = query.float().view(batch, positions, heads, width // heads).transpose(1, 2)
    split_k = key.float().view(batch, key.shape[1], heads, width // heads).transpose(1, 2)
    return (split_q @ split_k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)


def attention_output(probabilities: Tensor, value: Tensor) -> Tensor:
    """Attended values (B, N, heads * dim) of maps (B, heads, N, T), value (B, T, heads * dim)."""
    batch, heads, positions, _ = probabilities.shape
    split_v = value.view(batch, value.shape[1], heads, -1).transpose(1, 2)
    return (probabilities.to(value.dtype) @ split_v).transpose(1, 2).reshape(batch, positions, -1)


def token_weights(tokens: Sequence[Sequence[int]], length: int) -> Tensor:
    """Matrix (length, regions) that averages each region's token positions; columns sum to 1."""
    weights = torch.zeros(length, len(tokens))
    for region, positions in enumerate(tokens):
        weights[list(positions), region] = 1.0 / len(positions)
    return weights


class RegionMaps:
    """Mean over heads and sites of the regions' maps, gathered site by site during one forward.

    The mean comes before any ratio, as the released RealCompo code has it (ratio of means).
    """

    def __init__(self, weights: Tensor) -> None:
        """``weights`` (T, R), or (B, T, R), as ``token_weights`` gives them, on the device."""
        self._weights = weights
        self._sum: Tensor | None = None
        self._sites = 0

    @property
    def weights(self) -> Tensor:
        """Share of every token in every region's map, (T, R) or (B, T, R)."""
        return self._weights

    def add(self, probabilities: Tensor, height: int, width: int) -> None:
        """Take in one site's maps (B, heads, height * width, T or more)."""
        mean = probabilities.mean(dim=1)
        # a pack that appends tokens of its own to the prompt takes attention, but names no region
        appended = mean.shape[-1] - self._weights.shape[-2]
        weights = functional.pad(self._weights, (0, 0, 0, appended)) if appended else self._weights
        self.add_regions(mean @ weights, height, width)

    def add_regions(self, per_region: Tensor, height: int, width: int) -> None:
        """Take in one site's maps when the regions' tokens are averaged already.

        ``per_region`` (B, height * width, R), the mean over heads.
        """
        maps = per_region.transpose(1, 2).reshape(per_region.shape[0], -1, height, width)
        if self._sum is None:
            self._sum = maps
        else:
            if maps.shape[-2:] != self._sum.shape[-2:]:
                # a pack that shrinks some blocks changes the size of one site among others
                maps = functional.interpolate(maps, self._sum.shape[-2:], mode="area")
            self._sum = self._sum + maps
        self._sites += 1

    def continued(self) -> tuple[RegionMaps, Tensor | None]:
        """A continuation cut off from the graph so far, and the tensor it starts from.

        So one first half may be followed by several second halves, and each differentiated by
        itself: the gradient at the returned sum (None when no site was seen) is what it passes
        back.
        """
        onward = RegionMaps(self._weights)
        onward._sites = self._sites
        if self._sum is not None:
            onward._sum = self._sum.detach().requires_grad_(True)
        return onward, onward._sum

    def scratch(self) -> RegionMaps:
        """Empty maps for the same tokens."""
        return RegionMaps(self._weights)

    @property
    def total(self) -> Tensor | None:
        """Sum over the sites taken in so far, (B, R, height, width)."""
        return self._sum

    @property
    def sites(self) -> int:
        """Number of sites taken in so far."""
        return self._sites

    def mean(self) -> Tensor:
        """The maps (B, R, height, width); raises RuntimeError when no site was seen."""
        if self._sum is None:
            raise RuntimeError("no cross-attention site was reached")
        return self._sum / self._sites


class HeadMaps(RegionMaps):
    """The same, head by head: the sum over sites of (B, heads, R, height, width).

    Heads that learned different things are kept apart where a loss looks for peaks.
    """

    def add(self, probabilities: Tensor, height: int, width: int) -> None:
        """Take in one site's maps (B, heads, height * width, T or more)."""
        appended = probabilities.shape[-1] - self._weights.shape[-2]
        weights = functional.pad(self._weights, (0, 0, 0, appended)) if appended else self._weights
        # (B, T, R) weights are the same for all heads of a sample
        weights = weights.unsqueeze(1) if weights.ndim == 3 else weights
        maps = (probabilities @ weights).transpose(2, 3)
        maps = maps.reshape(*maps.shape[:3], height, width)
        if self._sum is None:
            self._sum = maps
        else:
            if maps.shape[-2:] != self._sum.shape[-2:]:
                size = (maps.shape[2], *self._sum.shape[-2:])
                maps = functional.interpolate(maps, size, mode="area")
            if maps.shape[1] != self._sum.shape[1]:
                raise RuntimeError("sites of one level differ in their number of heads")
            self._sum = self._sum + maps
        self._sites += 1

    def scratch(self) -> HeadMaps:
        """Empty maps for the same tokens."""
        return HeadMaps(self._weights)


def inside_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each region's attention that falls inside the region (the ratio of Eq. 6).

    maps (B, R, h, w) >= 0, masks (R, h, w) or (B, R, h, w) in 0..1; returns (B, R) in 0..1.
    """
    inside = (maps * masks).sum(dim=(-2, -1))
    total = maps.sum(dim=(-2, -1))
    # a map may underflow as a whole; then nothing lies inside and the gradient is zero
    return inside / total.clamp_min(torch.finfo(total.dtype).tiny)
