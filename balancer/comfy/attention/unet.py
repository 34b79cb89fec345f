"""U-Nets with cross-attention: SD1.x, SD2.x, SDXL and their like, whose text is CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor
from torch.nn import Module

from ...attention.maps import RegionMaps
from ...attention.regions import Tokens
from ...layouts.layout import Layout
from .family import (
    Ability,
    AttentionKind,
    AttentionPatch,
    Family,
    Options,
    PatchMaker,
    Site,
    last_site,
    stop,
)
from .map_rows import Picture, watching_rows
from .phrases import clip_phrases
from .readers import MapReader, SiteReader, differentiable_attention

Patches = dict[Any, AttentionPatch]


class UNet(Family):
    """Text and picture meet in cross-attention, for which the host has replacement patches."""

    abilities: frozenset[Ability] = frozenset({"balance", "look", "modulate", "train"})
    latent_dimensions = 2

    def includes(self, network: Module) -> bool:
        """See ``Family``."""
        return isinstance(network, UNetModel)

    def sites(self, network: Module) -> tuple[Site, ...]:
        """All transformer blocks with cross-attention; none of models whose blocks see frames.

        The key is (section, block id, index of the transformer block inside it).
        """
        sites: list[Site] = []
        factor = 1
        for section, blocks in _sections(network):
            for number, block in enumerate(blocks):
                for layer in block:
                    if isinstance(layer, SpatialVideoTransformer):
                        return ()
                    if isinstance(layer, SpatialTransformer):
                        depth = len(layer.transformer_blocks)
                        sites += [Site((section, number, index), factor) for index in range(depth)]
                    elif isinstance(layer, Downsample) or _resamples(layer, "down"):
                        factor *= 2
                    elif isinstance(layer, Upsample) or _resamples(layer, "up"):
                        factor //= 2
        return tuple(sites)

    def first_half(self, network: Module) -> list[list[Module]]:
        """conv_in, down path and middle: a ControlNet adds behind them only."""
        (_, before), (_, middle), _ = _sections(network)
        return [list(block) for block in [*before, *middle]]

    def is_behind_first_half(self, site: Site) -> bool:
        """See ``Family``."""
        return site.key[0] == "output"

    def reading_options(
        self, options: Options, sites: Sequence[Site], factor: int, maps: RegionMaps,
        picture: Picture | None = None, at_last: Callable[[], None] = stop,
    ) -> Options:  # fmt: skip
        """See ``Family``. Replacement patches that are there already are called for the result,
        and the map is read beside them; a picture that is not ``picture`` raises RealCompoError
        in the forward."""
        last = last_site(sites, factor)

        def patch(kind: str, site: Site, other: AttentionPatch | None) -> AttentionPatch:
            if kind == "attn1" or site.factor != factor:
                return other or differentiable_attention
            reader = MapReader(maps, factor, other, at_last if site is last else None)
            reader.picture = picture
            return reader

        return _replaced(watching_rows(options), sites, ("attn1", "attn2"), patch)

    def differentiable_options(self, options: Options, sites: Sequence[Site]) -> Options:
        """See ``Family``."""
        return _replaced(
            options, sites, ("attn1", "attn2"), lambda *at: at[-1] or differentiable_attention
        )

    def observing_options(
        self, options: Options, sites: Sequence[Site], weights: Callable[[int], Tensor],
        found: dict[Site, Tensor],
    ) -> Options:  # fmt: skip
        """See ``Family``."""

        def patch(kind: str, site: Site, other: AttentionPatch | None) -> AttentionPatch:
            maps = RegionMaps(torch.zeros(0, 0))  # every site makes its own
            about = {"site": site, "weights": weights, "found": found}
            return SiteReader(maps, site.factor, other, None, **about)

        return _replaced(watching_rows(options), sites, ("attn2",), patch)

    def patched_options(
        self, options: Options, network: Module, kinds: Sequence[AttentionKind], make: PatchMaker
    ) -> Options:
        """See ``Family``."""

        def patch(kind: AttentionKind, site: Site, other: AttentionPatch | None) -> AttentionPatch:
            if isinstance(other, MapReader):
                return other.over(make(kind, site, other.other))
            return make(kind, site, other)

        return _replaced(options, self.sites(network), kinds, patch)

    def encodes(self, model: Any) -> bool:
        """All U-Nets are told their text by CLIP, whatever their prediction and conditions."""
        return isinstance(model.diffusion_model, UNetModel)

    def tokens(self, layout: Layout, conditioning: Any, where: str) -> Tokens:
        """See ``Family``."""
        return clip_phrases(layout, conditioning, where)

    def text_layer(self, network: Module) -> Module | None:
        """See ``Family``; of the host's own class only."""
        if type(network) is not UNetModel:
            return None
        keys = (m for name, m in network.named_modules() if name.endswith("attn2.to_k"))
        return next(keys, None)


FAMILIES = (UNet(),)


def _sections(network: Any) -> tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]:
    """The host's names of the parts, and each one's blocks, in the order of the forward."""
    middle = [] if network.middle_block is None else [network.middle_block]
    return ("input", network.input_blocks), ("middle", middle), ("output", network.output_blocks)


def _resamples(layer: Module, way: str) -> bool:
    """Whether a residual block changes the resolution (``resblock_updown`` models)."""
    if not getattr(layer, "updown", False):
        return False
    return isinstance(layer.h_upd, Downsample if way == "down" else Upsample)


def _replaced(
    options: Options,
    sites: Sequence[Site],
    kinds: Sequence[AttentionKind],
    patch: Callable[[AttentionKind, Site, AttentionPatch | None], AttentionPatch],
) -> Options:
    """A copy of ``options`` with ``patch(kind, site, what is there)`` on every site's attention.

    What is there may be a block's own or its whole layer's, as the host looks for it.
    """
    replaced = dict(options.get("patches_replace", {}))
    for kind in kinds:
        existing: Patches = replaced.get(kind, {})
        replaced[kind] = patches = dict(existing)
        for site in sites:
            other = existing.get(site.key, existing.get(site.key[:2]))
            patches[site.key] = patch(kind, site, other)
    return {**options, "patches_replace": replaced}
