"""The spatial model says where things stand, not how light the room is.

At high noise a prediction is little more than its tint, so every position outside the regions that
is given to the spatial model, to keep a stray object away, takes that model's background with it,
and the realism model cannot undo it later. An offset per channel that is the same at all positions
moves nothing: with it the spatial prediction keeps its places in the realism model's colours.
"""

from __future__ import annotations

from torch import Tensor


def match_background(spatial: Tensor, realism: Tensor, outside: Tensor, amount: float) -> Tensor:
    """The denoised prediction ``spatial`` with its mean outside the regions moved to ``realism``'s.

    Both (B, C, H, W); ``outside`` (1 or B, 1, H, W) in 0..1 is one minus the regions' coverage;
    ``amount`` 0..1. Per sample and channel, with w = outside:
    spatial + amount * w * (sum(w * (realism - spatial)) / sum(w)). Positions inside the regions
    stay as they are; a layout that covers everything changes nothing. Works on every prediction
    that is affine in the noise, before the mix of RealCompo Eq. 3.
    """
    room = outside.sum(dim=(-2, -1), keepdim=True)
    offset = ((realism - spatial) * outside).sum(dim=(-2, -1), keepdim=True)
    # a fully covered frame has no background: 0 / 0 is no offset there
    offset = offset / room.clamp_min(1e-6)
    return spatial + amount * outside * offset
