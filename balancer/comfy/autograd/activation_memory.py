"""What autograd keeps of a U-Net's pass, counted before the pass is made.

Every operation with a gradient keeps what its backward reads. Counted are the tensors of the host's
blocks (comfy/ldm/modules/attention.py, diffusionmodules/openaimodel.py), each once. Layers that
cast keep no input (cast_layers.py); torch's own convolutions keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    Downsample,
    ResBlock,
    UNetModel,
    Upsample,
)
from torch.nn import Conv2d

from ..attention.family import Site, last_site
from ..attention.map_rows import grid_size
from .cast_layers import casts

FULL = 4  # bytes of a float32, in which norms keep their statistics and maps are made
OBJECTS = 30  # GLIGEN attends to this many boxes, of which unused ones are empty


@dataclass(frozen=True)
class Pass:
    """A pass to be counted: ``latent`` (B, C, H, W), the ``dtype`` that it computes in, the level
    at which maps are read (``factor``; None: a whole forward without any), the prompt's ``text``
    tokens, and whether GLIGEN takes part (``grounded``)."""

    latent: tuple[int, ...]
    dtype: torch.dtype
    factor: int | None
    text: int = 77
    grounded: bool = False


def kept_bytes(network: Any, sites: Sequence[Site], what: Pass) -> int:
    """About how much autograd keeps of a pass without checkpoints; 0 for models that are no U-Nets.

    Within 15 % of what is kept for SD1.x and SDXL, with weights of any kind (see the tests).
    """
    last = None if what.factor is None else last_site(sites, what.factor)
    if not isinstance(network, UNetModel) or (what.factor is not None and last is None):
        return 0
    total = 0
    for key, layer, factor in _layers(network):
        positions = prod(grid_size(what.latent[-2], what.latent[-1], factor))
        if isinstance(layer, SpatialTransformer):
            width = layer.norm.num_channels
            convolved = [p for p in (layer.proj_in, layer.proj_out) if _keeps_input(p)]
            total += positions * width * (1 + len(convolved)) * what.dtype.itemsize
            for index, block in enumerate(layer.transformer_blocks):
                ends = last is not None and (*key, index) == last.key
                total += _transformer(block, positions, width, what, factor, ends)
                if ends:
                    return what.latent[0] * total
        elif isinstance(layer, ResBlock):
            total += positions * _residual(layer) * what.dtype.itemsize
        elif _keeps_input(getattr(layer, "op", getattr(layer, "conv", None))):
            # what halves or doubles
            total += positions * layer.channels * what.dtype.itemsize
    return what.latent[0] * total


def _layers(network: Any) -> Iterator[tuple[tuple[str, int], Any, int]]:
    """Every layer with its block's key and the level (latent positions per cell) it works at."""
    sections = (
        ("input", network.input_blocks),
        ("middle", [network.middle_block]),
        ("output", network.output_blocks),
    )
    factor = 1
    for section, blocks in sections:
        for number, block in enumerate(blocks):
            for layer in block or ():
                # what halves convolves what it is given, what doubles convolves its result
                factor = factor // 2 if isinstance(layer, Upsample) else factor
                yield (section, number), layer, factor
                factor = factor * 2 if isinstance(layer, Downsample) else factor


def _keeps_input(layer: Any) -> bool:
    return isinstance(layer, Conv2d) and not casts(layer)


def _residual(layer: Any) -> int:
    """Activations per position of a residual block: inputs of norms and nonlinearities, and of
    convolutions that are torch's own."""
    ends = layer.channels + layer.out_channels
    return (3 if _keeps_input(layer.out_layers[-1]) else 2) * ends


def _transformer(
    block: BasicTransformerBlock, positions: int, width: int, what: Pass, factor: int, ends: bool
) -> int:
    """Bytes of a transformer block; ``ends``: a probe is over with its map."""
    size, heads = what.dtype.itemsize, block.attn2.heads
    # norm1, query, key, value and result of self-attention, norm2
    total = positions * (6 * width * size + 2 * 2 * FULL + heads * FULL)
    text = what.text * width
    if factor == what.factor:
        # the map in float32; the text asks for no gradient, so queries need not be kept for it
        total += heads * positions * what.text * FULL + text * (FULL + size)
    else:
        total += positions * (2 * width * size + heads * FULL) + 2 * text * size
    if what.grounded:
        seen = positions + OBJECTS
        total += (5 * seen + 13 * positions) * width * size + positions * (heads + 4) * FULL
    if not ends:
        # norm3, and the gated feed-forward: both halves of its first layer, gate and product
        total += positions * (13 * width * size + 2 * FULL)
    return total
