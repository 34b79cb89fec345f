"""Looks that keep little: blocks remember their input only, and run again in the backward.

Activation checkpointing (Chen et al. 2016, arXiv 1604.06174) for the gradient passes of U-Nets. It
costs about one more partial forward per look and is used where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from torch import Tensor
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

from .capture import Site, grid_size
from .forwards import other_forwards
from .sites import Sites

# what autograd keeps of a block, in activations of the block's width: a transformer block's three
# norms, attentions and gated feed-forward; a residual block's two norms and activations
_PER_TRANSFORMER, _PER_RESIDUAL = 21, 4
# the share of the free memory that one look may take before it becomes frugal
_SHARE = 0.5


def last_site(sites: Sites, factor: int) -> Site | None:
    """The U-Net site behind which a look ends; None for other models."""
    wanted = [site for site in sites if isinstance(site, Site) and site.factor == factor]
    return wanted[-1] if wanted else None


def activation_bytes(
    network: Any,
    sites: Sites,
    factor: int | None,
    latent: tuple[int, ...],
    dtype: torch.dtype,
) -> int:
    """About how much autograd keeps of a look at ``latent`` (B, C, H, W) without checkpoints.

    ``factor`` None: of a whole forward. 0 for models that are no U-Nets.
    """
    last = None if factor is None else last_site(sites, factor)
    if not isinstance(network, UNetModel) or (factor is not None and last is None):
        return 0
    total = 0
    known = {s.key[:2]: s.factor for s in sites if isinstance(s, Site)}
    blocks = [("input", network.input_blocks), ("middle", [network.middle_block])]
    blocks.append(("output", network.output_blocks))
    at = 1
    for section, members in blocks:
        for number, block in enumerate(members):
            at = known.get((section, number), at)
            high, wide = grid_size(latent[-2], latent[-1], at)
            for layer in block or ():
                if isinstance(layer, SpatialTransformer):
                    width = layer.norm.num_channels
                    total += high * wide * width * _PER_TRANSFORMER * len(layer.transformer_blocks)
                elif isinstance(layer, ResBlock):
                    total += high * wide * layer.out_channels * _PER_RESIDUAL
            if last is not None and (section, number) == last.key[:2]:
                return latent[0] * total * dtype.itemsize
    return latent[0] * total * dtype.itemsize


def must_be_frugal(
    network: Any, sites: Sites, factor: int, latent: Tensor, dtype: torch.dtype
) -> bool:
    """Whether a look at ``latent`` had better be checkpointed, by the host's free memory."""
    needed = activation_bytes(network, sites, factor, tuple(latent.shape), dtype)
    free = comfy.model_management.get_free_memory(latent.device)
    return needed > _SHARE * float(free)


@contextmanager
def checkpointed(
    network: Any, last: Site | None, copies: bool, whole: bool = False
) -> Iterator[None]:
    """Residual and transformer blocks keep only their input while this lasts.

    ``copies``: something writes to activations in place, so keep copies of the inputs. The
    transformer block of ``last`` is left out: a look is left there by an exception, and what
    comes after is never differentiated. Without ``last`` nothing is done, unless the pass is a
    ``whole`` one.
    """
    if (last is None and not whole) or not isinstance(network, UNetModel):
        yield
        return
    end = None if last is None else _transformer_block(network, last)
    blocks = [
        module
        for module in network.modules()
        if module is not end and isinstance(module, (ResBlock, BasicTransformerBlock))
    ]
    with other_forwards((block, _again(block.forward, copies)) for block in blocks):
        yield


def _transformer_block(network: Any, site: Site) -> Module:
    section, number, index = site.key
    blocks = {"input": network.input_blocks, "output": network.output_blocks}
    block = network.middle_block if section == "middle" else blocks[section][number]
    (layer,) = (layer for layer in block if isinstance(layer, SpatialTransformer))
    return layer.transformer_blocks[index]


def _again(forward: Callable[..., Tensor], copies: bool) -> Callable[..., Tensor]:
    def first(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return forward(x.clone() if copies else x, *args, **kwargs)

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # once against writes behind the block, once (in first) against its own
        x = x.clone() if copies else x
        # the host goes on to write block numbers into the one dictionary
        args = tuple(dict(a) if isinstance(a, dict) else a for a in args)
        kwargs = {k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}
        return checkpoint(first, x, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run
