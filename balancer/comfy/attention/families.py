"""Where a model's attention to its prompt is read: U-Nets and joint-attention models alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from ...attention_maps import RegionMaps
from . import unet
from .joint import (
    JointSite,
    find_joint_sites,
    joint_reading_options,
    unchecked_blocks,
)
from .unet import Site

Sites = tuple[Site, ...] | tuple[JointSite, ...]


def find_sites(diffusion_model: torch.nn.Module) -> Sites:
    """All sites whose attention can be read, in the order of the forward; empty if there are none.

    A model's sites are all of one kind.
    """
    return unet.find_sites(diffusion_model) or find_joint_sites(diffusion_model)


def is_joint(sites: Sites) -> bool:
    """Whether these are blocks of joint attention."""
    return any(isinstance(site, JointSite) for site in sites)


def add_in_place(sites: Sites) -> bool:
    """Whether the model's own blocks add to tensors that autograd has saved."""
    return any(isinstance(site, JointSite) and site.in_place for site in sites)


def one_pass(diffusion_model: torch.nn.Module, sites: Sites) -> AbstractContextManager[None]:
    """Context in which the model's forward may be left by an exception, and runs just once."""
    return unchecked_blocks(diffusion_model) if is_joint(sites) else nullcontext()


def reading_options(
    transformer_options: dict[str, Any],
    sites: Sites,
    factor: int,
    maps: RegionMaps,
    size: tuple[int, int],
    at_last: Callable[[], None] = unet.stop,
    rows: int | None = None,
) -> dict[str, Any]:
    """A copy of ``transformer_options`` whose attention is read into ``maps``, differentiably.

    Read are the sites of level ``factor``; after the last of them ``at_last`` is called, which ends
    the forward with StopProbe unless told otherwise.
    ``size`` is the height and width of the latent that will be given to the model, ``rows`` how
    many of it there are.
    """
    if is_joint(sites):
        joint = cast(tuple[JointSite, ...], sites)
        return joint_reading_options(transformer_options, joint, maps, size, at_last)
    unet = cast(tuple[Site, ...], sites)
    picture = None if rows is None else (rows, *size)
    return unet.reading_options(transformer_options, unet, factor, maps, at_last, picture)
