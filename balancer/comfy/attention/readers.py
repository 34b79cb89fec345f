"""Attention patches that read the maps of cross-attention while the host runs the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...attention.maps import RegionMaps, attention_output, attention_probabilities
from ...errors import RealCompoError
from ..host.compat import attend
from .family import AttentionPatch, ReadablePatch, Site
from .map_rows import Picture, RowMaps, rows_and_size


def differentiable_attention(
    query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]
) -> Tensor:
    """Plain attention that autograd can go through, whatever attention the host was started with.

    The host's memory-saving kernels have no backward pass. Same arguments and result as the
    host's attention patches: (B, N, heads * dim) each, heads not split.
    """
    heads, dtype = extra["n_heads"], query.dtype
    if extra.get("attn_precision") == torch.float32:
        query, key = query.float(), key.float()
    query, key, value = (
        t.view(t.shape[0], t.shape[1], heads, -1).transpose(1, 2) for t in (query, key, value)
    )
    out = functional.scaled_dot_product_attention(query, key, value.to(query.dtype))
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1).to(dtype)


def plain_map(query: Tensor, key: Tensor, extra: dict[str, Any]) -> Tensor:
    """The map (B, heads, N, T) of attention that nothing modulates."""
    return attention_probabilities(query, key, extra["n_heads"])


@dataclass
class MapReader:
    """Attention patch that adds its map to ``maps``, calls ``then`` and goes on.

    ``other`` is a replacement to be called for the result; ``map_of`` gives the map
    (B, heads, N, T) that the site really uses, where something modulates it.
    """

    maps: RegionMaps
    factor: int
    other: AttentionPatch | None
    then: Callable[[], None] | None
    map_of: Callable[[Tensor, Tensor, dict[str, Any]], Tensor] = field(default=plain_map)
    seen: bool = field(default=False, init=False)
    picture: Picture | None = None

    def over(self, patch: ReadablePatch) -> MapReader:
        """The same reader of an attention that ``patch`` modulates, in the place of ``other``."""
        below = None if self.other is None else patch
        return replace(self, map_of=patch.probabilities, other=below)

    def read(self, query: Tensor, key: Tensor, extra: dict[str, Any]) -> tuple[Tensor, RowMaps]:
        """The map (B, heads, N, T) that the site uses, and what of it is the prompt's."""
        probabilities = self.map_of(query, key, extra)
        return probabilities, rows_and_size(probabilities, extra, self.factor, self.picture)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        probabilities, (own, height, width) = self.read(query, key, extra)
        # a checkpointed block runs again in the backward: the same operations, counted once
        target = self.maps.scratch() if self.seen else self.maps
        target.add(own, height, width)
        self.seen = True
        if self.then is not None:
            self.then()
        if self.other is not None:
            return self.other(query, key, value, extra)
        return attention_output(probabilities, value)


@dataclass
class SiteReader(MapReader):
    """Reads one site's map by itself into ``found``, and leaves the result as it was.

    ``weights`` gives the matrix (T, R) for a prompt of T tokens. A ``MapReader``, so that what
    modulates attention tells it the map that is really used.
    """

    site: Site | None = None
    weights: Callable[[int], Tensor] | None = None
    found: dict[Site, Tensor] = field(default_factory=dict)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        assert self.site is not None and self.weights is not None
        try:
            probabilities, (own, height, width) = self.read(query, key, extra)
        except RealCompoError as error:
            raise RealCompoError("model", error.problem, "Take that node out.") from None
        maps = RegionMaps(self.weights(key.shape[1]).to(query.device))
        maps.add(own, height, width)
        self.found[self.site] = maps.mean()
        if self.other is not None:
            return self.other(query, key, value, extra)
        if self.map_of is not plain_map:
            return attention_output(probabilities, value)
        return attend(query, key, value, extra)
