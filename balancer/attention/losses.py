"""Losses on cross-attention maps. Pure functions: maps in, one number per sample out."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

SeparateForm = Literal["pairwise", "product"]
Peak = Literal["max", "soft"]
SEPARATE_FORMS, PEAKS = get_args(SeparateForm), get_args(Peak)


def realcompo_loss(shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """RealCompo Eq. 6 for one model: sum over regions of one minus the share inside.

    shares (B, R) in 0..1; weights (R,) or (B, R) >= 0 scale the regions' terms (None: all 1).
    Returns (B,) in 0..R. The full loss of Eq. 6 is the sum of this over both models.
    """
    missing = 1.0 - shares
    return (missing if weights is None else missing * weights).sum(dim=-1)


def smooth(maps: Tensor) -> Tensor:
    """3x3 Gaussian of Separate-and-Enhance, sum 1, reflecting at the edges.

    maps (..., h, w) of any leading shape; maps of a side below 2 have no edge to reflect at and
    come back as they are. The released kernel is exp(-(x / (2 sigma))^2) with sigma 0.5.
    """
    if min(maps.shape[-2:]) < 2:
        return maps
    line = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0], device=maps.device) ** 2))
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    planes = maps.reshape(-1, 1, *maps.shape[-2:])
    padded = functional.pad(planes, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, kernel[None, None]).reshape(maps.shape)


def separate_loss(maps: Tensor, form: str = "pairwise", peak: str = "max") -> Tensor:
    """Separate loss of Separate-and-Enhance: the strongest overlap of objects' attention.

    maps (B, heads, K, h, w) in 0..1: one map per head and object, of one softmax over the prompt.
    Two objects: max(M1 M2 / (M1 + M2)) over heads and positions, in 0..0.25. For more, ``form``
    'pairwise' is the mean of that over all pairs (ours), 'product' the paper's max(prod M / sum M),
    which vanishes quickly. ``peak``: see ``peak_of``. Returns (B,) in float32; zeros for K = 1.

    Raises ValueError for another form.
    """
    if form not in SEPARATE_FORMS:
        raise ValueError(f"form {form!r}: use one of {', '.join(SEPARATE_FORMS)}")
    maps = maps.float()
    count = maps.shape[2]
    if count < 2:
        return maps.sum(dim=(1, 2, 3, 4)) * 0.0
    # two maps may underflow at one position; then nothing overlaps there
    tiny = torch.finfo(torch.float32).tiny
    if form == "product":
        return peak_of(maps.prod(dim=2) / maps.sum(dim=2).clamp_min(tiny), peak)
    one, other = torch.triu_indices(count, count, 1, device=maps.device)
    first, second = maps[:, :, one], maps[:, :, other]
    overlap = first * second / (first + second).clamp_min(tiny)
    return peak_of(overlap.transpose(1, 2), peak).mean(dim=1)


def enhance_loss(maps: Tensor, peak: str = "max") -> Tensor:
    """Enhance loss of Separate-and-Enhance: how far the faintest object is from full attention.

    maps (B, heads, K, h, w) in 0..1, smoothed here. Returns (B,) in 0..1, float32: one minus the
    smallest peak of any object over heads and positions. ``peak``: see ``peak_of``.
    """
    peaks = peak_of(smooth(maps.float()).transpose(1, 2), peak)
    return 1.0 - peaks.amin(dim=-1)


def peak_of(values: Tensor, peak: str) -> Tensor:
    """The peak of values (..., heads, h, w) over the last three dimensions.

    'max': the largest, as in the paper, so that one position of one head gets the gradient.
    'soft': the mean of values weighted by exp(value / (a tenth of the largest)); ours, it reaches
    everything near the peak. Raises ValueError for another name.
    """
    flat = values.flatten(-3)
    if peak == "max":
        return flat.amax(dim=-1)
    if peak != "soft":
        raise ValueError(f"peak {peak!r}: use one of {', '.join(PEAKS)}")
    tiny = torch.finfo(flat.dtype).tiny
    width = (0.1 * flat.detach().amax(dim=-1, keepdim=True)).clamp_min(tiny)
    return ((flat / width).softmax(dim=-1) * flat).sum(dim=-1)
