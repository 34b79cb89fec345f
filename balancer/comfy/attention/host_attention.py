"""The host's attention by a kernel that autograd can go through, and what it gives to regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AttentionCall:
    """A call of the host's attention: query (B, heads, N, dim), key and value (B, heads, M, dim),
    mask (N, M), (B, N, M) or (B, heads, N, M), and the factor ``scale`` of the products, which is
    one over the root of dim unless given. ``keeps_heads``: the result has heads, too."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    scale: float | None = None
    keeps_heads: bool = False

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> AttentionCall:
        """From the host's arguments: query, key and value (B, N or M, heads * dim), or with
        ``skip_reshape`` (B, heads, N or M, dim)."""
        parts = _by_heads(query, key, value, heads, skip_reshape, enable_gqa)
        return cls(*parts, mask, scale, skip_output_reshape)

    def result(self) -> Tensor:
        """What the host's attention gives: (B, N, heads * dim), or (B, heads, N, dim)."""
        out = functional.scaled_dot_product_attention(
            self.query, self.key, self.value, attn_mask=_usable_mask(self.mask, self.query.dtype),
            scale=self.scale,
        )  # fmt: skip
        return out if self.keeps_heads else out.transpose(1, 2).flatten(2)


def joint_attention(*args: Any, **kwargs: Any) -> Tensor:
    """The host's attention, (B, N, heads * dim), by a kernel that autograd can go through.

    Arguments as the host's; the result has heads, too, where they ask for it.
    """
    return AttentionCall.of(*args, **kwargs).result()


def region_attention(call: AttentionCall, weights: Tensor, rows: slice, first_text: int) -> Tensor:
    """Attention of the rows ``rows`` to the regions' tokens, (B, rows, R), the mean over heads.

    ``weights`` (T, R) or (B, T, R) for the T keys from ``first_text`` on. The softmax runs over all
    keys, in float32. The weights take the place of the values, so the map itself, gigabytes at
    1024 px, need never exist where torch has a fused kernel.
    """
    batch, heads, keys, _ = call.key.shape
    length, regions = weights.shape[-2:]
    # fused kernels want rows of whole 16 bytes
    padded = regions + -regions % 8
    values = weights.new_zeros(batch, 1, keys, padded)
    columns = slice(first_text, first_text + length)
    values[:, :, columns, :regions] = weights if weights.ndim == 2 else weights[:, None]
    out = functional.scaled_dot_product_attention(
        call.query[:, :, rows].float(), call.key.float(),
        values.float().expand(-1, heads, -1, -1),
        attn_mask=_usable_mask(call.mask, torch.float32, rows), scale=call.scale,
    )  # fmt: skip
    return out[..., :regions].mean(dim=1)


def _by_heads(
    query: Tensor, key: Tensor, value: Tensor, heads: int, is_split: bool, grouped: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, heads, N, dim) of each; ``grouped``: of keys and values there are fewer heads, each for
    several of the queries'."""
    query = _split(query, heads, is_split)
    parts = []
    for tensor in (key, value):
        if grouped and not is_split:
            own = tensor.shape[2] if tensor.ndim == 4 else tensor.shape[2] // query.shape[-1]
            tensor = _split(tensor, own, is_split)
        else:
            tensor = _split(tensor, heads, is_split)
        if grouped and tensor.shape[1] != query.shape[1]:
            tensor = tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)
        parts.append(tensor)
    return query, parts[0], parts[1]


def _split(tensor: Tensor, heads: int, is_split: bool) -> Tensor:
    """(B, heads, N, dim) of that, or of (B, N, heads * dim) or (B, N, heads, dim)."""
    if is_split:
        return tensor
    return tensor.reshape(tensor.shape[0], tensor.shape[1], heads, -1).transpose(1, 2)


def _usable_mask(
    mask: Tensor | None, dtype: torch.dtype, rows: slice | None = None
) -> Tensor | None:
    """The host's mask, (N, M), (B, N, M) or (B, heads, N, M), as torch's attention takes it."""
    if mask is None:
        return None
    if mask.ndim == 3:
        mask = mask.unsqueeze(1)
    if rows is not None and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    if mask.dtype != torch.bool:
        mask = mask.to(dtype)
    # conditioning is made in inference mode, and autograd saves the mask
    return mask.clone() if mask.is_inference() else mask
