"""Attention maps taken by hooks on the layers' own projections, slowly and literally."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def recording(network: torch.nn.Module) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Queries and keys of every cross-attention layer, by its name, one pair per pass."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    queries: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        if not name.endswith("attn2"):
            continue

        def query(_: Any, __: Any, out: Tensor, name: str = name) -> None:
            queries[name] = out.detach().clone()

        def key(_: Any, __: Any, out: Tensor, name: str = name) -> None:
            seen.setdefault(name, []).append((queries[name], out.detach().clone()))

        handles.append(module.to_q.register_forward_hook(query))
        handles.append(module.to_k.register_forward_hook(key))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def region_map(
    query: Tensor, key: Tensor, heads: int, tokens: tuple[int, ...], size: tuple[int, int]
) -> Tensor:
    """(B, h, w): softmax(q k / sqrt(d)) over all tokens, mean over heads and the given tokens."""
    batch, positions, width = query.shape
    dim = width // heads
    out = torch.zeros(batch, positions, dtype=torch.float64)
    for sample in range(batch):
        for head in range(heads):
            q = query[sample, :, head * dim : (head + 1) * dim].double()
            k = key[sample, :, head * dim : (head + 1) * dim].double()
            probability = torch.softmax(q @ k.T / dim**0.5, dim=-1)
            out[sample] += probability[:, list(tokens)].mean(dim=-1) / heads
    return out.reshape(batch, *size)
