"""Attention patches that modulate some rows of a model call and leave the others to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..attention_maps import attention_probabilities
from ..errors import RealCompoError
from ..modulation import Segments, cross_attention, cross_probabilities, self_attention
from ..modulation_plan import SCALE, DensePlan, View
from .attention.unet import (
    AttentionPatch,
    MapReader,
    differentiable_attention,
    find_sites,
    map_size,
)
from .compat import attend

SMALL = 1024
"""Keys up to which doing the bent rows' plain attention in vain costs next to nothing."""


@dataclass(frozen=True)
class Bend:
    """One entry's modulation at one noise level: of which part of the latent, and how much in
    cross- and self-attention (w * lambda_t)."""

    plan: DensePlan
    view: View
    cross: float
    itself: float

    @property
    def is_placed(self) -> bool:
        """Whether it depends on where a position is; scaling a word's attention does not."""
        return self.plan.weighting != SCALE


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch of ``batch`` rows are bent: a slice for every entry, in order."""

    chunks: tuple[tuple[slice, Bend | None], ...]
    batch: int

    @classmethod
    def of(cls, bends: Sequence[Bend | None], each: int, x: Tensor) -> Rows:
        """For entries of ``each`` rows in the model's input ``x`` (B, C, H, W).

        Raises RealCompoError where another pack has cut the latent up, or multiplied it.
        """
        node = next((bend.plan.node for bend in bends if bend is not None), "")
        sizes = {bend.view.size for bend in bends if bend is not None and bend.is_placed}
        if x.shape[0] != each * len(bends) or any(size != tuple(x.shape[-2:]) for size in sizes):
            raise RealCompoError(
                "model", "another node cuts the latent into parts of its own (tiles, windows)",
                "Remove it, or end the modulation before", node,
            )  # fmt: skip
        for bend in bends:
            layouts = 1 if bend is None else len(bend.plan.regions.layouts)
            if layouts not in (1, each):
                raise RealCompoError(
                    "layout", f"{layouts} layouts for {each} latents",
                    "Make both the same number, or use one layout for all", node,
                )  # fmt: skip
        chunks = tuple(
            (slice(number * each, (number + 1) * each), bend) for number, bend in enumerate(bends)
        )
        return cls(chunks, x.shape[0])


def bent_options(network: torch.nn.Module, options: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """A copy of a call's ``transformer_options`` whose attention bends ``rows``.

    Replacements that are there already stay in force (see ``DensePatch``), and readers of maps are
    told what the map is now. The input dictionary is not changed.
    """
    replaced = dict(options.get("patches_replace", {}))
    bends = [bend for _, bend in rows.chunks if bend is not None]
    for kind in ("attn1", "attn2"):
        if not any(bend.itself if kind == "attn1" else bend.cross for bend in bends):
            continue
        existing = replaced.get(kind, {})
        patches = dict(existing)
        for site in find_sites(network):
            other = existing.get(site.key, existing.get(site.key[:2]))
            if isinstance(other, MapReader):
                patch = DensePatch(kind, site.factor, rows, other.other)
                below = None if other.other is None else patch
                patches[site.key] = replace(other, look=patch.probabilities, other=below)
            elif not isinstance(other, DensePatch):
                patches[site.key] = DensePatch(kind, site.factor, rows, other)
        replaced[kind] = patches
    return {**options, "patches_replace": replaced}


class DensePatch:
    """Modulated attention of a site's bent rows, the host's own attention of all others.

    Where another pack has replaced the attention (``other``), its result stays, and what modulation
    changes in plain attention is added to it: exact for replacements that add to plain attention,
    as IPAdapter's do.
    """

    def __init__(self, kind: str, factor: int, rows: Rows, other: AttentionPatch | None) -> None:
        self._kind, self._factor, self._rows = kind, factor, rows
        bends = [bend for _, bend in rows.chunks if bend is not None]
        self._node = bends[0].plan.node if bends else ""
        self._placed = any(bend.is_placed for bend in bends)
        # the probe's stand-in for plain attention is no other pack's
        self._other = None if other is differentiable_attention else other

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        size = self._size(query, extra)
        other, plain = self._other, _plain
        whole = None if other is None else other(query, key, value, extra)
        kept = [self._amount(bend, size, query.device) for _, bend in self._rows.chunks]
        if whole is None and (not any(kept) or not all(kept) and _small(key)):
            whole = plain(query, key, value, extra)
        if whole is not None and not any(kept):
            return whole
        parts = []
        for (at, bend), amount in zip(self._rows.chunks, kept, strict=True):
            q, k, v = query[at], key[at], value[at]
            if bend is None or not amount:
                parts.append(plain(q, k, v, extra) if whole is None else whole[at])
                continue
            bent = self._bent(q, k, v, extra, bend, size)
            if other is not None and whole is not None:
                bent = whole[at] + (bent - plain(q, k, v, extra))
            parts.append(bent)
        return torch.cat(parts)

    def probabilities(self, query: Tensor, key: Tensor, extra: dict[str, Any]) -> Tensor:
        """The map (B, heads, N, T) that cross-attention uses, bent rows and others."""
        size, heads = self._size(query, extra), extra["n_heads"]
        parts = []
        for at, bend in self._rows.chunks:
            q, k = query[at], key[at]
            if bend is None or not self._amount(bend, size, q.device):
                parts.append(attention_probabilities(q, k, heads))
            elif not bend.is_placed:
                words = bend.plan.words(k.shape[1], k.device)[:, None, None, :]
                parts.append(attention_probabilities(q, k, heads) * words)
            else:
                terms = self._cross(bend, size, k)
                parts.append(cross_probabilities(q, k, heads, *terms, bend.cross))
        return torch.cat(parts)

    def _size(self, query: Tensor, extra: dict[str, Any]) -> tuple[int, int]:
        """Height and width of the site's grid, which must be the query's; (0, 0) where nobody
        needs to know."""
        if not self._placed:
            return 0, 0
        try:
            height, width = map_size(extra, query.shape[1], self._factor)
        except RuntimeError:
            height = width = 0
        if query.shape[:2] != (self._rows.batch, height * width):
            raise RealCompoError(
                "model",
                "another node changes the positions or rows that attention sees (token merging, "
                "HyperTile, regional prompts)",
                "Remove it, or end the modulation before", self._node,
            )  # fmt: skip
        return height, width

    def _amount(self, bend: Bend | None, size: tuple[int, int], device: torch.device) -> float:
        """w * lambda_t of this kind of attention; 0 where nothing would be bent."""
        if bend is None:
            return 0.0
        amount = bend.itself if self._kind == "attn1" else bend.cross
        if not bend.is_placed:
            return amount
        idle = amount == 0.0 or bend.plan.segments(*size, bend.view, device).idle
        return 0.0 if idle else amount

    def _bent(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        extra: dict[str, Any],
        bend: Bend,
        size: tuple[int, int],
    ) -> Tensor:
        heads = extra["n_heads"]
        if self._kind == "attn1":
            if key.shape[1] != query.shape[1]:
                raise RealCompoError(
                    "model", "another node adds positions to self-attention (reference pictures)",
                    "Remove it, or set the strength of self-attention to 0", self._node,
                )  # fmt: skip
            segments: Segments = bend.plan.segments(*size, bend.view, query.device)
            full = extra.get("attn_precision") == torch.float32
            return self_attention(query, key, value, heads, segments, bend.itself, full)
        if not bend.is_placed:
            # (A w) V = A (w V): any kernel that the host has does the rest
            words = bend.plan.words(key.shape[1], value.device).to(value.dtype)
            return _plain(query, key, value * words.unsqueeze(-1), extra)
        terms = self._cross(bend, size, key)
        return cross_attention(query, key, value, heads, *terms, bend.cross)

    def _cross(
        self, bend: Bend, size: tuple[int, int], key: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """strength, positive and words of ``cross_probabilities``."""
        plan, tokens, device = bend.plan, key.shape[1], key.device
        return (
            plan.segments(*size, bend.view, device).strength,
            plan.positive(*size, bend.view, device, tokens),
            plan.words(tokens, device),
        )


def _small(key: Tensor) -> bool:
    """Whether rows that are not bent go through the host's attention together with those that are.

    The last bit of a small matrix product can depend on how many there are in one call, and those
    rows must come out as if nothing were bent. Kernels for large ones work block by block.
    """
    return key.shape[1] <= SMALL


def _plain(query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
    """The host's attention; one that has a backward where gradients are asked for."""
    if torch.is_grad_enabled():
        return differentiable_attention(query, key, value, extra)
    return attend(query, key, value, extra)
