"""Maps of every word while a model is trained, read as the pack reads them while sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..balancer.attention.losses import realcompo_loss
from ..balancer.attention.maps import RegionMaps, attention_probabilities, inside_share
from ..balancer.comfy.attention.families import find_sites
from ..balancer.comfy.attention.readers import MapReader
from .grounding import box_coverage


class WordMaps(RegionMaps):
    """Each site's map by itself, of every token: (B, T, h, w), mean over heads, with its gradient.

    ``each`` holds them in the order of the forward.
    """

    def __init__(self) -> None:
        super().__init__(torch.zeros(0, 0))
        self.each: list[Tensor] = []

    def add(self, probabilities: Tensor, height: int, width: int) -> None:
        """Take in one site's maps (B, heads, height * width, T)."""
        maps = probabilities.mean(dim=1).transpose(1, 2)
        self.each.append(maps.unflatten(-1, (height, width)))


def reading(unet: nn.Module, maps: WordMaps | None) -> dict[str, Any]:
    """Transformer options with a reader into ``maps`` at every cross-attention site; None: none."""
    if maps is None:
        return {}
    readers = {site.key: MapReader(maps, site.factor, None, None) for site in find_sites(unet)}
    return {"patches_replace": {"attn2": readers}}


class ControlMaps:
    """Word maps of a ControlNet, which takes none of the host's attention patches."""

    def __init__(self, control: nn.Module) -> None:
        self._projected: list[dict[str, Tensor]] = []
        self._heads: list[int] = []
        for name, module in control.named_modules():
            if name.endswith(".attn2"):
                self._watch(module)

    def _watch(self, attention: Any) -> None:
        projected: dict[str, Tensor] = {}
        self._projected.append(projected)
        self._heads.append(attention.heads)
        for name in ("to_q", "to_k"):

            def keep(module: nn.Module, args: Any, out: Tensor, name: str = name) -> None:
                projected[name] = out

            getattr(attention, name).register_forward_hook(keep)

    def maps(self) -> list[Tensor]:
        """Maps (B, T, h, w) of square latents in the last forward, as ``WordMaps.each``."""
        maps = WordMaps()
        for projected, heads in zip(self._projected, self._heads, strict=True):
            probabilities = attention_probabilities(projected["to_q"], projected["to_k"], heads)
            side = math.isqrt(probabilities.shape[2])
            maps.add(probabilities, side, side)
        return maps.each


def map_shares(
    maps: Sequence[Tensor], boxes: Tensor, owners: Tensor, groups: Tensor
) -> list[Tensor]:
    """In-box share of every word's map: a list of (B, T), zero where no word is grounded.

    ``maps`` (B, T, h, w) each; ``boxes`` (B, N, 4), ``owners`` (B, T) the group of each token or
    -1, ``groups`` (B, N) the group of each box: a word counts as inside in any box of its group.
    """
    together = (groups[:, :, None] == torch.arange(groups.shape[1])).float()
    index = owners.clamp(min=0)[..., None, None]
    shares = []
    for words in maps:
        height, width = words.shape[2:]
        cover = together.transpose(1, 2) @ box_coverage(boxes, height, width).flatten(2)
        masks = cover.unflatten(2, (height, width))
        inside = torch.gather(masks, 1, index.expand(-1, -1, height, width))
        shares.append(inside_share(words, inside) * (owners >= 0))
    return shares


def stray_attention(
    maps: Sequence[Tensor],
    boxes: Tensor,
    owners: Tensor,
    groups: Tensor,
    trust: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How far grounded words look beside their boxes (0..1, with its gradient), and their share.

    The loss of RealCompo's Eq. 6 as a mean over words, of shares that are means over ``maps``.
    Inputs as of ``map_shares``; ``trust`` (B,) weighs the pictures.
    """
    grounded = (owners >= 0).float()
    total = grounded.sum().clamp(min=1)
    share = torch.stack(map_shares(maps, boxes, owners, groups)).mean(0)
    weights = grounded if trust is None else grounded * trust[:, None]
    return realcompo_loss(share, weights).sum() / total, share.detach().sum() / total
