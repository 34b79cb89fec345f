"""Attention patches that modulate some rows of a model call and leave the others to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...attention.maps import attention_probabilities
from ...dense.modulation import (
    CrossTerms,
    Segments,
    cross_attention,
    cross_probabilities,
    self_attention,
)
from ...dense.plan import SCALE, DensePlan, View
from ...errors import RealCompoError
from ..attention.families import family_of
from ..attention.family import AttentionKind, AttentionPatch, Site
from ..attention.map_rows import map_size
from ..attention.readers import differentiable_attention
from ..host.compat import attend

_KINDS: tuple[AttentionKind, ...] = ("attn1", "attn2")
SMALL = 1024
"""Keys up to which doing the modulated rows' plain attention in vain costs next to nothing."""


@dataclass(frozen=True)
class Modulation:
    """One entry's modulation at one noise level: of which part of the latent, and how much in
    cross- and self-attention (w * lambda_t)."""

    plan: DensePlan
    view: View
    cross_attention: float
    self_attention: float

    def amount(self, kind: AttentionKind) -> float:
        """w * lambda_t of that kind of attention."""
        return self.self_attention if kind == "attn1" else self.cross_attention

    @property
    def is_placed(self) -> bool:
        """Whether it depends on where a position is; scaling a word's attention does not."""
        return self.plan.weighting != SCALE


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch of ``batch`` rows are modulated: a slice for every entry, in order."""

    chunks: tuple[tuple[slice, Modulation | None], ...]
    batch: int

    @classmethod
    def of(cls, modulations: Sequence[Modulation | None], each: int, x: Tensor) -> Rows:
        """For entries of ``each`` rows in the model's input ``x`` (B, C, H, W).

        Raises RealCompoError where another pack has cut the latent up, or multiplied it.
        """
        given = [modulation for modulation in modulations if modulation is not None]
        node = given[0].plan.node if given else ""
        sizes = {one.view.size for one in given if one.is_placed}
        if x.shape[0] != each * len(modulations) or not sizes <= {tuple(x.shape[-2:])}:
            raise RealCompoError(
                "model", "another node cuts the latent into parts of its own (tiles, windows)",
                "Remove it, or end the modulation before", node,
            )  # fmt: skip
        for layouts in (len(one.plan.regions.layouts) for one in given):
            if layouts not in (1, each):
                raise RealCompoError(
                    "layout", f"{layouts} layouts for {each} latents",
                    "Make both the same number, or use one layout for all", node,
                )  # fmt: skip
        slices = (slice(start, start + each) for start in range(0, x.shape[0], each))
        return cls(tuple(zip(slices, modulations, strict=True)), x.shape[0])

    @property
    def modulations(self) -> list[Modulation]:
        """Those of the rows that have one."""
        return [modulation for _, modulation in self.chunks if modulation is not None]


def modulated_options(
    network: torch.nn.Module, options: dict[str, Any], rows: Rows
) -> dict[str, Any]:
    """A copy of a call's ``transformer_options`` whose attention modulates ``rows``.

    Replacements that are there already stay in force (see ``DensePatch``), and readers of maps see
    what the map is now. The input dictionary is not changed.
    """
    kinds: list[AttentionKind] = [
        kind for kind in _KINDS if any(one.amount(kind) for one in rows.modulations)
    ]

    def patch(kind: AttentionKind, site: Site, other: AttentionPatch | None) -> DensePatch:
        # a call that is modulated already stays so
        if isinstance(other, DensePatch):
            return other
        return DensePatch(kind, site.factor, rows, other)

    return family_of(network).patched_options(options, network, kinds, patch)


class DensePatch:
    """Modulated attention of a site's modulated rows, the host's own attention of all others.

    Where another pack has replaced the attention (``other``), its result stays, and what modulation
    changes in plain attention is added to it: exact for replacements that add to plain attention,
    as IPAdapter's do.
    """

    def __init__(
        self, kind: AttentionKind, factor: int, rows: Rows, other: AttentionPatch | None
    ) -> None:
        self._kind: AttentionKind = kind
        self._factor, self._rows = factor, rows
        self._node = rows.modulations[0].plan.node if rows.modulations else ""
        self._placed = any(one.is_placed for one in rows.modulations)
        # the probe's stand-in for plain attention is no other pack's
        self._other = None if other is differentiable_attention else other

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        size = self._size(query, extra)
        other, plain = self._other, _plain
        whole = None if other is None else other(query, key, value, extra)
        kept = [self._amount(modulation, size, query.device) for _, modulation in self._rows.chunks]
        if whole is None and (not any(kept) or not all(kept) and _small(key)):
            whole = plain(query, key, value, extra)
        if whole is not None and not any(kept):
            return whole
        parts = []
        for (at, modulation), amount in zip(self._rows.chunks, kept, strict=True):
            q, k, v = query[at], key[at], value[at]
            if modulation is None or not amount:
                parts.append(plain(q, k, v, extra) if whole is None else whole[at])
                continue
            modulated = self._modulated(q, k, v, extra, modulation, size)
            if other is not None and whole is not None:
                modulated = whole[at] + (modulated - plain(q, k, v, extra))
            parts.append(modulated)
        return torch.cat(parts)

    def probabilities(self, query: Tensor, key: Tensor, extra: dict[str, Any]) -> Tensor:
        """The map (B, heads, N, T) that cross-attention uses, modulated rows and others."""
        size, heads = self._size(query, extra), extra["n_heads"]
        parts = []
        for at, modulation in self._rows.chunks:
            q, k = query[at], key[at]
            if modulation is None or not self._amount(modulation, size, q.device):
                parts.append(attention_probabilities(q, k, heads))
            elif not modulation.is_placed:
                words = modulation.plan.words(k.shape[1], k.device)[:, None, None, :]
                parts.append(attention_probabilities(q, k, heads) * words)
            else:
                terms = self._terms(modulation, size, k)
                parts.append(cross_probabilities(q, k, heads, terms))
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

    def _amount(
        self, modulation: Modulation | None, size: tuple[int, int], device: torch.device
    ) -> float:
        """w * lambda_t of this kind of attention; 0 where nothing would be modulated."""
        if modulation is None:
            return 0.0
        amount = modulation.amount(self._kind)
        if not modulation.is_placed:
            return amount
        idle = amount == 0.0 or modulation.plan.segments(*size, modulation.view, device).idle
        return 0.0 if idle else amount

    def _modulated(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        extra: dict[str, Any],
        modulation: Modulation,
        size: tuple[int, int],
    ) -> Tensor:
        heads = extra["n_heads"]
        if self._kind == "attn1":
            if key.shape[1] != query.shape[1]:
                raise RealCompoError(
                    "model", "another node adds positions to self-attention (reference pictures)",
                    "Remove it, or set the strength of self-attention to 0", self._node,
                )  # fmt: skip
            segments: Segments = modulation.plan.segments(*size, modulation.view, query.device)
            full = extra.get("attn_precision") == torch.float32
            amount = modulation.self_attention
            return self_attention(query, key, value, heads, segments, amount, full)
        if not modulation.is_placed:
            # (A w) V = A (w V): any kernel that the host has does the rest
            words = modulation.plan.words(key.shape[1], value.device).to(value.dtype)
            return _plain(query, key, value * words.unsqueeze(-1), extra)
        return cross_attention(query, key, value, heads, self._terms(modulation, size, key))

    def _terms(self, modulation: Modulation, size: tuple[int, int], key: Tensor) -> CrossTerms:
        plan, tokens, device = modulation.plan, key.shape[1], key.device
        return CrossTerms(
            plan.segments(*size, modulation.view, device).strength,
            plan.positive(*size, modulation.view, device, tokens),
            plan.words(tokens, device),
            modulation.cross_attention,
        )


def _small(key: Tensor) -> bool:
    """Whether all rows go through the host's attention together, modulated ones and others.

    The last bit of a small matrix product can depend on how many there are in one call, and those
    rows must come out as if nothing were modulated. Kernels for large ones work block by block.
    """
    return key.shape[1] <= SMALL


def _plain(query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
    """The host's attention; one that has a backward where gradients are asked for."""
    if torch.is_grad_enabled():
        return differentiable_attention(query, key, value, extra)
    return attend(query, key, value, extra)
