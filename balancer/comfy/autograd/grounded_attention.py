"""GLIGEN's own attention, differentiated: the host gives nobody a say in it.

GLIGEN's layers stand between a block's self- and cross-attention and call the attention that the
host was started with. The fast ones (flash, sage, the memory-saving one of the CPU) have no
backward, or keep whole maps for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from comfy.ldm.modules.attention import CrossAttention
from torch import Tensor
from torch.nn import Module

from ..attention.readers import differentiable_attention
from .swapped_forwards import other_forwards


def differentiable_grounding(modules: Iterable[Module]) -> AbstractContextManager[None]:
    """Context in which every attention layer inside ``modules`` is one that autograd can pass."""
    layers = [m for module in modules for m in module.modules() if isinstance(m, CrossAttention)]
    return other_forwards((layer, _plain(layer)) for layer in layers)


def _plain(layer: Any) -> Callable[..., Tensor]:
    inner = layer.forward

    def forward(
        x: Tensor, context: Tensor | None = None, value: Tensor | None = None, mask: Any = None,
        **others: Any,
    ) -> Tensor:  # fmt: skip
        if mask is not None:
            return inner(x, context, value, mask, **others)
        context = x if context is None else context
        about = {"n_heads": layer.heads, "attn_precision": getattr(layer, "attn_precision", None)}
        attended = differentiable_attention(
            layer.to_q(x), layer.to_k(context),
            layer.to_v(context if value is None else value), about,
        )  # fmt: skip
        return layer.to_out(attended)

    return forward
