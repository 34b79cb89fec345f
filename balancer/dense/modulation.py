"""DenseDiffusion's attention modulation (Kim et al., ICCV 2023, arXiv 2308.12964), exactly.

With scores s_ij = q_i . k_j / sqrt(dim), where i is a position of the image and j a key, the paper
pulls the positive pairs (R_ij = 1) of a row towards its maximum and pushes the others towards its
minimum (Eq. 2):

    s'_ij = s_ij + c_i (max_j s_ij - s_ij)   where R_ij = 1
    s'_ij = s_ij - c_i (s_ij - min_j s_ij)   where R_ij = 0

Up to a constant of the row, which softmax does not see, that is

    s'_ij = (1 - c_i) s_ij + c_i r_i R_ij      r_i = max_j s_ij - min_j s_ij

a temperature and one number added at the row's positive keys. In self-attention the number is
folded into a few extra dimensions of q and k, so that any fused kernel does the rest; only r_i
needs a pass of its own (modulation_range.py). No N x N tensor is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.maps import attention_output
from ..values.setting_fields import check, choice, number
from .row_range import row_range

Outside = Literal["flatten", "neutral", "background"]
Words = Literal["push down", "neutral"]
OUTSIDE, WORDS = get_args(Outside), get_args(Words)
# head dimensions in steps that fused kernels take
STEP = 8
# Cross-attention scores held at a time; see ``cross_attention``.
SCORES_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class DenseSettings:
    """How strongly and how long attention is modulated.

    ``cross_strength`` and ``self_strength`` are the paper's w_c and w_s (the released code has 1
    and 0.3), ``power`` is that of lambda_t = (t / 1000) ** power; with S_i, the share of the image
    that a position's segments cover, c_i = w * lambda_t * (1 - area * S_i).

    Raises RealCompoError for a number outside its range.
    """

    cross_strength: float = number(
        1.0, 0.0, 2.0, 0.05,
        "How firmly words are kept to their regions (the paper's w_c). 0 = off.", round=0.005,
    )  # fmt: skip
    self_strength: float = number(
        0.3, 0.0, 2.0, 0.05,
        "How firmly positions of one region keep to each other (w_s). 0 = off.", round=0.005,
    )  # fmt: skip
    end_fraction: float = number(
        0.3, 0.0, 1.0, 0.01,
        "Share of the noise schedule in which it acts, counted as ComfyUI's end_percent. After"
        " that the model runs untouched.", round=0.001,
    )  # fmt: skip
    power: float = number(
        5.0, 0.0, 20.0, 0.1,
        "How fast it fades: (t / 1000) to this power. 0: not before the end.", round=0.01,
    )  # fmt: skip
    area: float = number(
        1.0, 0.0, 1.0, 0.05,
        "How much large regions are spared. 1: as in the paper. 0: all alike.", round=0.005,
    )  # fmt: skip
    outside: Outside = choice(
        "flatten", OUTSIDE,
        "Positions in no region. flatten: their attention spreads out, as in the released code."
        " neutral: they are left alone. background: they are one more region, without words.",
    )  # fmt: skip
    words: Words = choice(
        "push down", WORDS,
        "Words that belong to no region. push down: everywhere, as in the paper. neutral: they are"
        " left alone; weaker.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    def fading(self, time: float) -> float:
        """lambda_t at ``time`` = t / 1000, which is held to 0..1."""
        return min(max(time, 0.0), 1.0) ** self.power


@dataclass(frozen=True)
class Segments:
    """A layout on one attention grid of N positions. The first dimension S is 1, or the batch.

    ``masks`` (S, R, N) 0 or 1: the regions; ``strength`` (S, N) in 0..1 is 1 - area * S_i;
    ``queries`` and ``keys`` (S, N, U) factor the pairs of self-attention: R_ij is 1 or 0 and equals
    queries_i . keys_j. ``ranged`` (M,) are the positions that have any positive key and are
    modulated; None for all.
    """

    masks: Tensor
    strength: Tensor
    queries: Tensor
    keys: Tensor
    ranged: Tensor | None
    idle: bool

    @classmethod
    def of(cls, masks: Tensor, settings: DenseSettings) -> Segments:
        """From binary ``masks`` (S, R, N); ``idle`` when no position would be modulated at all."""
        masks = (masks > 0.5).to(masks.dtype)
        covered = masks.sum(dim=1) > 0
        parts = masks
        if settings.outside == "background":
            parts = torch.cat([masks, (~covered).to(masks).unsqueeze(1)], dim=1)
        # |m_n| / N of every segment that covers the position; more than 1 would turn the effect
        # round, which only overlapping segments can bring about
        share = (parts * parts.mean(dim=-1, keepdim=True)).sum(dim=1).clamp(0.0, 1.0)
        strength = 1.0 - settings.area * share
        if settings.outside == "neutral":
            strength = strength * covered
        sides = [_signatures(part) for part in parts]
        columns = max(query.shape[-1] for query, _ in sides)
        queries, keys = (
            torch.stack(
                [functional.pad(pair[n], (0, columns - pair[n].shape[-1])) for pair in sides]
            )
            for n in range(2)
        )
        ranged = ((strength > 0) & (queries.sum(dim=-1) > 0)).any(dim=0)
        return cls(
            masks, strength, queries, keys,
            None if bool(ranged.all()) else ranged.nonzero()[:, 0],
            idle=not bool((strength > 0).any()),
        )  # fmt: skip

    def to(self, device: torch.device) -> Segments:
        """The same on another device."""
        return replace(
            self,
            masks=self.masks.to(device),
            strength=self.strength.to(device),
            queries=self.queries.to(device),
            keys=self.keys.to(device),
            ranged=None if self.ranged is None else self.ranged.to(device),
        )

    def positive(self, tokens: Tensor) -> Tensor:
        """R of cross-attention (S, N, T), 0 or 1; ``tokens`` (S, R, T) are the regions' own."""
        return (self.masks.transpose(1, 2) @ tokens > 0).to(tokens)


def _signatures(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (N, U), (N, U) of R_ij = "some segment of ``masks`` (R, N) holds both i and j".

    U is the number of different sets of segments that positions lie in, however they overlap:
    the key says which set, the query which sets share a segment with its own.
    """
    kinds, which = masks.unique(dim=1, return_inverse=True)
    related = (kinds.T @ kinds > 0).to(masks)
    inside = kinds.sum(dim=0) > 0
    own = torch.eye(len(related), dtype=masks.dtype, device=masks.device)
    return related[which][:, inside], own[which][:, inside]


def _heads(tensor: Tensor, heads: int) -> Tensor:
    return tensor.view(tensor.shape[0], tensor.shape[1], heads, -1).transpose(1, 2)


def self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    segments: Segments,
    amount: float,
    full: bool = False,
) -> Tensor:
    """Modulated self-attention (B, N, heads * dim) of projected q, k, v, heads not split.

    ``amount`` = w_s * lambda_t; ``full`` computes in float32 whatever the inputs are. Exact, by any
    fused kernel that the device has, and differentiable.
    """
    dtype = query.dtype
    if full and dtype in (torch.float16, torch.bfloat16):
        query, key, value = query.float(), key.float(), value.float()
    q, k, v = (_heads(tensor, heads) for tensor in (query, key, value))
    width = q.shape[-1]
    scale = width**-0.5
    share = (amount * segments.strength).clamp(0.0, 1.0)
    columns = segments.queries.shape[-1]
    # products in the coefficients' precision, rounded once
    cool = (q * (1.0 - share)[:, None, :, None]).to(q.dtype)
    if columns:
        # what is added to a score is not scaled by the kernel, so it is given unscaled
        rows = segments.ranged
        at = slice(None) if rows is None else rows
        push = row_range(q if rows is None else q[:, :, rows], k) * share[:, None, at]
        extra = (push.unsqueeze(-1) * segments.queries[:, None, at]).to(q.dtype)
        if rows is not None:
            room = q.new_zeros(*q.shape[:3], columns)
            extra = room.index_copy(2, rows, extra)
        more = -(width + columns) % STEP
        cool = functional.pad(torch.cat([cool, extra], dim=-1), (0, more))
        mark = segments.keys[:, None].to(k).expand(k.shape[0], heads, -1, -1)
        k = functional.pad(torch.cat([k, mark], dim=-1), (0, more))
        v = functional.pad(v, (0, columns + more))
    out = functional.scaled_dot_product_attention(cool, k, v, scale=scale)[..., :width]
    return out.transpose(1, 2).reshape(query.shape).to(dtype)


@dataclass(frozen=True)
class CrossTerms:
    """What modulates cross-attention from N positions to T tokens; S is 1, or the batch.

    ``strength`` (S, N) of the positions, ``positive`` (S, N, T) as ``Segments.positive`` gives it,
    ``words`` (S, T) each token's own factor >= 0 (1; 0 leaves it alone), ``amount`` = w_c *
    lambda_t. A pair is moved by the product, 1 at most: all the way.
    """

    strength: Tensor
    positive: Tensor
    words: Tensor
    amount: float

    def part(self, at: slice) -> CrossTerms:
        """The same for some of the positions."""
        return replace(self, strength=self.strength[:, at], positive=self.positive[:, at])


def cross_probabilities(query: Tensor, key: Tensor, heads: int, terms: CrossTerms) -> Tensor:
    """The modulated map (B, heads, N, T) that cross-attention really uses, at least in float32.

    query (B, N, heads * dim), key (B, T, heads * dim). Rows sum to 1. Differentiable.
    """
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    q, k = _heads(query, heads), _heads(key, heads)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    lowest = scores.amin(dim=-1, keepdim=True)
    spread = scores.amax(dim=-1, keepdim=True) - lowest
    share = terms.amount * terms.strength.unsqueeze(-1) * terms.words.unsqueeze(1)
    share = share.clamp(0.0, 1.0).unsqueeze(1).to(scores)
    target = spread * terms.positive.unsqueeze(1).to(scores)
    # measured from the row's minimum, which softmax does not see
    return torch.lerp(scores - lowest, target, share).softmax(dim=-1)


def cross_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, terms: CrossTerms
) -> Tensor:
    """Modulated cross-attention (B, N, heads * dim); arguments as of ``cross_probabilities``.

    Goes over the positions in parts, so that its memory does not grow with the picture.
    """
    step = max(1, SCORES_AT_A_TIME // (query.shape[0] * heads * key.shape[1]))
    parts = [slice(start, start + step) for start in range(0, query.shape[1], step)]
    done = [
        attention_output(cross_probabilities(query[:, at], key, heads, terms.part(at)), value)
        for at in parts
    ]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1)
