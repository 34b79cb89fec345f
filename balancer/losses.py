"""Losses on cross-attention maps. Pure functions: maps in, one number per sample out."""

from __future__ import annotations

from torch import Tensor


def realcompo_loss(shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """RealCompo Eq. 6 for one model: sum over regions of one minus the share inside.

    shares (B, R) in 0..1; weights (R,) or (B, R) >= 0 scale the regions' terms (None: all 1).
    Returns (B,) in 0..R. The full loss of Eq. 6 is the sum of this over both models.
    """
    missing = 1.0 - shares
    return (missing if weights is None else missing * weights).sum(dim=-1)
