"""Which rows and positions of an attention map are the picture's and the layout's prompt's.

Another pack's patch may hand attention more rows than there are pictures (regional prompts inside
attention), or a part of the picture only (tiles). A map is read where it can be read rightly, and
refused in words where it cannot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import RealCompoError

# rows, height and width of what a network should be given
Picture = tuple[int, int, int]
# the prompt's rows of a map (B, heads, N, T), its height and width
RowMaps = tuple[Tensor, int, int]

_PROMPT, _ROWS = "realcompo_prompt", "realcompo_rows"
# how far a row may be from the prompt, relative to its size: half precision, and a strength
_NEAR = 1e-2


def grid_size(height: int, width: int, factor: int) -> tuple[int, int]:
    """Cells of the attention map for a latent of height x width: each halving rounds up."""
    while factor > 1:
        height, width, factor = (height + 1) // 2, (width + 1) // 2, factor // 2
    return height, width


def map_size(extra: dict[str, Any], positions: int, factor: int) -> tuple[int, int]:
    """Height and width of a site's map, from what the host says of the activations."""
    shape = extra.get("activations_shape")
    if shape is not None:
        return int(shape[-2]), int(shape[-1])
    # hosts of 2024 give the latent's shape only
    rows, columns = extra["original_shape"][-2:]
    height, width = grid_size(rows, columns, factor)
    if height * width != positions:
        raise RuntimeError(f"{positions} positions do not make a {height}x{width} attention map")
    return height, width


def watching_rows(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options in which patches of cross-attention's input are watched, if any."""
    options = transformer_options.copy()
    patches = options.get("patches", {})
    others = patches.get("attn2_patch")
    if others:
        options["patches"] = {**patches, "attn2_patch": [_before, *others, _behind]}
    return options


def _before(query: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> Any:
    extra[_PROMPT] = query.shape[0], context
    return query, context, value


def _behind(query: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> Any:
    rows, prompt = extra.pop(_PROMPT)
    if query.shape[0] != rows:
        extra[_ROWS] = _rows_of(prompt, context)
    return query, context, value


@torch.no_grad()
def _rows_of(prompt: Tensor, context: Tensor) -> list[int]:
    """The row of ``context`` (K, T or more, C) that holds each row of ``prompt`` (B, T, C), up to
    a factor; empty unless it is plain which."""
    if context.ndim != 3 or context.shape[1] < prompt.shape[1]:
        return []
    given = context[:, : prompt.shape[1]].flatten(1).float()
    own = prompt.flatten(1).float()
    factor = (given @ own.T) / own.square().sum(dim=1).clamp_min(1e-12)
    away = (given[:, None] - factor[..., None] * own).norm(dim=-1)
    near = (away <= _NEAR * given.norm(dim=-1, keepdim=True)) & (factor > 0)
    rows = near.any(dim=1).nonzero().flatten().tolist()
    # of several rows for a picture nobody knows which is whose
    if len(rows) != prompt.shape[0]:
        return []
    return rows if all(bool(near[row, at]) for at, row in enumerate(rows)) else []


def rows_and_size(
    probabilities: Tensor, extra: dict[str, Any], factor: int, picture: Picture | None
) -> RowMaps:
    """The prompt's rows of a site's map (K, heads, N, T), and its height and width.

    Raises RealCompoError where rows or positions are not those of ``picture``, the network's
    proper input; None: as many rows as there are, of whatever.
    """
    rows = extra.pop(_ROWS, None)
    if rows is not None:
        if not rows:
            raise _refused("gives attention more prompts than one for each picture")
        probabilities = probabilities[rows]
    given = extra.get("original_shape")
    if picture is not None and given is not None:
        if (int(given[-2]), int(given[-1])) != picture[1:]:
            raise _refused("cuts the picture into tiles, or changes its size")
        if int(given[0]) != picture[0] or probabilities.shape[0] != picture[0]:
            raise _refused("gives the model other rows than one for each picture")
    positions = probabilities.shape[2]
    try:
        height, width = map_size(extra, positions, factor)
    except RuntimeError:
        height = width = 0
    if height * width != positions:
        raise _refused("merges or cuts up the positions that cross-attention sees")
    return probabilities, height, width


def _refused(what: str) -> RealCompoError:
    return RealCompoError(
        "balancer", f"another node {what}, so the maps cannot be read",
        "Set the balancer's mode to fixed, or take that node out.",
    )  # fmt: skip
