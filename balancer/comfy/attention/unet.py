"""Cross-attention sites of a U-Net, and reading their maps while the host runs the model.

Every method that looks at or bends cross-attention goes through here: ``find_sites`` says where a
model attends to its prompt and at what resolution, ``reading_options`` puts readers on the sites
of one level without disturbing other packs' patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor
from torch.nn import functional

from ...attention_maps import RegionMaps, attention_output, attention_probabilities
from ...errors import RealCompoError
from .map_rows import Picture, RowMaps, rows_and_size, watching_rows
from .map_rows import grid_size as grid_size
from .map_rows import map_size as map_size

if TYPE_CHECKING:
    from .joint import JointSite

# (section, block id, index of the transformer block inside it): the host's patch key
SiteKey = tuple[str, int, int]
AttentionPatch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


class StopProbe(BaseException):
    """Ends a forward at the last map that is needed.

    Not an Exception: another pack's ``except Exception`` around a model call must not eat it. It
    never leaves this package.
    """


def stop() -> None:
    """What a reader does after the last map, unless told otherwise: end the forward."""
    raise StopProbe


@dataclass(frozen=True)
class Site:
    """One transformer block with cross-attention: the host's key, and latent positions per cell."""

    key: SiteKey
    factor: int


def find_sites(diffusion_model: torch.nn.Module) -> tuple[Site, ...]:
    """All cross-attention sites of a U-Net in the order of its forward; empty for other models."""
    if not isinstance(diffusion_model, UNetModel):
        return ()
    network: Any = diffusion_model
    sites: list[Site] = []
    factor = 1
    sections = (
        ("input", network.input_blocks),
        ("middle", [network.middle_block]),
        ("output", network.output_blocks),
    )
    for section, blocks in sections:
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


def _resamples(layer: torch.nn.Module, way: str) -> bool:
    """Whether a residual block changes the resolution (``resblock_updown`` models)."""
    if not getattr(layer, "updown", False):
        return False
    return isinstance(layer.h_upd, Downsample if way == "down" else Upsample)


def choose_level(sites: Sequence[Site] | Sequence[JointSite], level: str) -> int:
    """Downsample factor of the maps to read.

    ``auto`` is 4 where the model has such sites (16x16 maps in SD1.5 at 512 px, 32x32 in SDXL at
    1024 px, the level that RealCompo reads), else the model's finest: the patch size, 2, where a
    transformer works on patches of the latent. Raises RealCompoError for a
    level that the model does not have.
    """
    factors = sorted({site.factor for site in sites})
    if level == "auto":
        return 4 if 4 in factors else factors[0]
    if int(level) not in factors:
        have = ", ".join(str(factor) for factor in factors)
        raise RealCompoError(
            "balancer", f"map_level is {level}, where this model has no cross-attention",
            f"Set it to auto or one of {have}.",
        )  # fmt: skip
    return int(level)


def entry_area(entry: dict[str, Any], height: int, width: int) -> tuple[int, int, int, int] | None:
    """Height, width, top and left of a conditioning entry's part of a latent, clipped as the host
    clips; None for all of it."""
    area = entry.get("area")
    if area is None:
        return None
    half = len(area) // 2
    rows, columns = (int(size) for size in area[half - 2 : half])
    top, left = (int(offset) for offset in area[-2:])
    return min(height - top, rows), min(width - left, columns), top, left


def differentiable_attention(
    query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]
) -> Tensor:
    """Plain attention that autograd can go through, whatever attention the host was started with.

    The host's memory-saving kernels have no backward pass. Same arguments and result as the
    host's attention patches: (B, N, heads * dim) each, heads not split.
    """
    heads, dtype = extra["n_heads"], query.dtype
    if extra.get("attn_precision") == torch.float32:
        query, key = query.float(), key.float()
    query, key, value = (
        t.view(t.shape[0], t.shape[1], heads, -1).transpose(1, 2) for t in (query, key, value)
    )
    out = functional.scaled_dot_product_attention(query, key, value.to(query.dtype))
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1).to(dtype)


def reading_options(
    transformer_options: dict[str, Any],
    sites: tuple[Site, ...],
    factor: int,
    maps: RegionMaps,
    at_last: Callable[[], None] = stop,
    picture: Picture | None = None,
) -> dict[str, Any]:
    """A copy of ``transformer_options`` whose attention can be read and differentiated.

    At the sites of level ``factor`` the maps go into ``maps``; after the last of them
    ``at_last`` is called, which ends the forward with StopProbe unless told otherwise.
    ``picture`` is what the network should be given: what it is not raises RealCompoError then.
    Replacement patches that are there already stay in force: they are called for the result,
    and the map is read beside them. The input dictionary is not changed.
    """
    wanted = [site for site in sites if site.factor == factor]
    options = watching_rows(transformer_options)
    replaced = dict(options.get("patches_replace", {}))
    options["patches_replace"] = replaced
    for kind in ("attn1", "attn2"):
        existing = replaced.get(kind, {})
        patches = dict(existing)
        for site in sites:
            other = existing.get(site.key, existing.get(site.key[:2]))
            if kind == "attn2" and site in wanted:
                then = at_last if site is wanted[-1] else None
                patches[site.key] = reader = MapReader(maps, factor, other, then)
                reader.picture = picture
            else:
                patches[site.key] = other or differentiable_attention
        replaced[kind] = patches
    return options


def plain_map(query: Tensor, key: Tensor, extra: dict[str, Any]) -> Tensor:
    """The map (B, heads, N, T) of attention that nothing bends."""
    return attention_probabilities(query, key, extra["n_heads"])


@dataclass
class MapReader:
    """Attention patch that adds its map to ``maps``, calls ``then`` and goes on.

    ``other`` is a replacement to be called for the result; ``look`` gives the map (B, heads, N, T)
    that the site really uses, where something bends it.
    """

    maps: RegionMaps
    factor: int
    other: AttentionPatch | None
    then: Callable[[], None] | None
    look: Callable[[Tensor, Tensor, dict[str, Any]], Tensor] = field(default=plain_map)
    seen: bool = field(default=False, init=False)
    picture: Picture | None = None

    def read(self, query: Tensor, key: Tensor, extra: dict[str, Any]) -> tuple[Tensor, RowMaps]:
        """The map (B, heads, N, T) that the site uses, and what of it is the prompt's."""
        probabilities = self.look(query, key, extra)
        return probabilities, rows_and_size(probabilities, extra, self.factor, self.picture)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        probabilities, (own, high, wide) = self.read(query, key, extra)
        # a checkpointed block runs again in the backward: the same operations, counted once
        target = self.maps.scratch() if self.seen else self.maps
        target.add(own, high, wide)
        self.seen = True
        if self.then is not None:
            self.then()
        if self.other is not None:
            return self.other(query, key, value, extra)
        return attention_output(probabilities, value)
