"""Passes that keep little: blocks remember their input only, and run again in the backward.

Activation checkpointing (Chen et al. 2016, arXiv 1604.06174) for the gradient passes of U-Nets. It
costs about one more partial forward per probe and is used where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from torch import Tensor
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

from ..attention.family import Site
from .activation_memory import Pass, kept_bytes
from .swapped_forwards import other_forwards

# the share of the free memory that one probe may take before it is checkpointed
_SHARE = 0.5


def must_be_checkpointed(
    network: Any, sites: Sequence[Site], what: Pass, device: torch.device
) -> bool:
    """Whether a probe had better be checkpointed, by the memory that is there for it."""
    return kept_bytes(network, sites, what) > _SHARE * free_for_activations(device)


def free_for_activations(device: torch.device) -> float:
    """Bytes that may be filled on ``device`` without sending off a weight that is in use.

    Dynamic VRAM leaves pages of models that have had their turn where they are until somebody
    needs the room; those count as free.
    """
    free = float(comfy.model_management.get_free_memory(device))
    for entry in comfy.model_management.current_loaded_models:
        patcher: Any = entry.model
        if patcher is None or entry.currently_used or entry.device != device:
            continue
        if hasattr(patcher, "is_dynamic") and patcher.is_dynamic():
            free += patcher.loaded_size()
    return free


@contextmanager
def checkpointed(
    network: Any, last: Site | None, copies: bool, whole: bool = False
) -> Iterator[None]:
    """Residual and transformer blocks keep only their input while this lasts.

    ``copies``: something writes to activations in place, so keep copies of the inputs. The
    transformer block of ``last`` is left out: a probe is left there by an exception, and what
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
