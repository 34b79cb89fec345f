"""The spread of every row of an attention score matrix that is never there as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Scores held at a time. Fits a processor's cache by and large, and is little beside q, k and v.
SCORES_AT_A_TIME = 1 << 20


class _RowRange(torch.autograd.Function):
    """max - min per row, with a backward that knows where both were.

    Autograd's own would keep every chunk of scores: the matrix that must not be.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        if not any(ctx.needs_input_grad):
            return _walk(query, key, positions=False)[0]
        found, high, low = _walk(query, key, positions=True)
        ctx.save_for_backward(query, key, high, low)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key, high, low = ctx.saved_tensors
        grad = grads[0].unsqueeze(-1)
        indices = [index.unsqueeze(-1).expand_as(query) for index in (high, low)]
        grad_query = grad * (key.gather(2, indices[0]) - key.gather(2, indices[1]))
        share = grad * query
        grad_key = torch.zeros_like(key).scatter_add(2, indices[0], share)
        return grad_query, grad_key.scatter_add(2, indices[1], -share)


def row_range(query: Tensor, key: Tensor) -> Tensor:
    """max_j - min_j of q_i . k_j, per row: (B, heads, M, dim), (B, heads, N, dim) -> (B, heads, M).

    Unscaled scores, in the dtype of ``query``. Differentiable; neither pass keeps a score.
    """
    return _RowRange.apply(query, key)  # type: ignore[return-value]


def _walk(query: Tensor, key: Tensor, positions: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Range per row, and where (M,) maximum and minimum are if ``positions``."""
    batch, heads, rows, _ = query.shape
    found = query.new_empty(batch, heads, rows)
    high, low = (
        torch.empty(batch, heads, rows if positions else 0, dtype=torch.long, device=query.device)
        for _ in range(2)
    )
    columns = key.transpose(-1, -2)
    # On a processor one head at a time stays in the cache; elsewhere few large steps are faster.
    alone = query.device.type == "cpu"
    blocks = [
        (slice(b, b + 1), slice(h, h + 1)) for b in range(batch) for h in range(heads)
    ] if alone else [(slice(None), slice(None))]  # fmt: skip
    width = key.shape[2] * (1 if alone else batch * heads)
    budget = SCORES_AT_A_TIME if alone else 16 * SCORES_AT_A_TIME
    step = max(1, min(rows, budget // max(width, 1)))
    for b, h in blocks:
        for start in range(0, rows, step):
            part = slice(start, start + step)
            scores = query[b, h, part] @ columns[b, h]
            if positions:
                top, high[b, h, part] = scores.max(dim=-1)
                bottom, low[b, h, part] = scores.min(dim=-1)
            else:
                # two reductions: torch.aminmax is slower for wide rows
                top, bottom = scores.amax(dim=-1), scores.amin(dim=-1)
            found[b, h, part] = top - bottom
    return found, high, low
