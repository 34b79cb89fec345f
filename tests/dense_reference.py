"""DenseDiffusion's Eq. 2 as it is printed, with whole matrices: slow, and nothing to optimise.

    A' = softmax((Q K^T + M) / sqrt(d))
    M = lambda_t R (.) M_pos (.) (1 - S) - lambda_t (1 - R) (.) M_neg (.) (1 - S)
    M_pos = max(Q K^T) - Q K^T,   M_neg = Q K^T - min(Q K^T)   per row

``amount`` is w * lambda_t. Written from the equation alone; shares no code with the pack.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_of_positions(masks: Tensor) -> Tensor:
    """R of self-attention (N, N): some segment of ``masks`` (R, N) holds both positions."""
    related = torch.zeros(masks.shape[1], masks.shape[1], dtype=torch.bool)
    for mask in masks > 0.5:
        related |= mask[:, None] & mask[None, :]
    return related


def pairs_with_tokens(masks: Tensor, tokens: list[list[int]], length: int) -> Tensor:
    """R of cross-attention (N, length): the position is in a segment whose phrase has the token."""
    related = torch.zeros(masks.shape[1], length, dtype=torch.bool)
    for mask, positions in zip(masks > 0.5, tokens, strict=True):
        for token in positions:
            related[:, token] |= mask
    return related


def area_share(masks: Tensor) -> Tensor:
    """S (N,): the share of the image that the segments of a position cover, 1 at most."""
    share = torch.zeros(masks.shape[1], dtype=masks.dtype)
    for mask in masks:
        share += mask * mask.sum() / mask.numel()
    return share.clamp(max=1.0)


def probabilities(
    query: Tensor, key: Tensor, heads: int, related: Tensor, share: Tensor, amount: float | Tensor
) -> Tensor:
    """A' (B, heads, N, T) in the inputs' dtype; ``amount`` may be (T,), one for every key."""
    maps = []
    for q, k in zip(query, key, strict=True):
        for head in range(heads):
            width = q.shape[1] // heads
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T
            towards = scores.max(dim=1, keepdim=True).values - scores
            away = scores - scores.min(dim=1, keepdim=True).values
            size = (amount * (1 - share)[:, None]).clamp(0, 1).to(scores)
            moved = torch.where(related, size * towards, -(size * away))
            maps.append(((scores + moved) / width**0.5).softmax(dim=1))
    return torch.stack(maps).view(query.shape[0], heads, query.shape[1], key.shape[1])


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    related: Tensor,
    share: Tensor,
    amount: float | Tensor,
) -> Tensor:
    """softmax(...) V (B, N, heads * dim)."""
    maps = probabilities(query, key, heads, related, share, amount)
    split = value.view(value.shape[0], value.shape[1], heads, -1).transpose(1, 2)
    return (maps @ split).transpose(1, 2).reshape(query.shape)
