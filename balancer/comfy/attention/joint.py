"""Reading image-to-text attention inside the joint attention of diffusion transformers.

SD3, Flux, Chroma and Qwen-Image have no cross-attention: text and image tokens attend to each
other in one softmax. What a picture's position gives to a phrase is then the part of its row that
falls on the phrase's columns, so image keys compete with the text for it. It is read where the
host calls its attention, after norms and rotary positions, through the host's attention override;
a replacement patch on each block says which call that is.

Which blocks: those of two streams ("double" blocks) in the first half of the model's depth. There
text and image tokens have weights of their own, so a text column still stands for its word; in
single-stream blocks the text has been mixed with the picture many times, and near the end nothing
makes its columns mean anything. Half the depth also bounds the cost: the forward ends there, as it
does halfway through a U-Net. All 19 double blocks of Flux (of 57), 12 of 24 in SD3 medium, 30 of 60
in Qwen-Image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor
from torch.nn import functional

from ...attention_maps import RegionMaps
from .unet import stop

# (kind, number): the host's key for a transformer block's replacement patch
JointKey = tuple[str, int]
BlockPatch = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
Attention = Callable[..., Tensor]

OVERRIDE = "optimized_attention_override"
MARK = "realcompo_joint_block"

# module of the host -> class, attribute that holds the double blocks, whether its blocks add in
# place. Classes are named, not guessed by their attributes: each has its own order of tokens.
_FAMILIES = {
    "comfy.ldm.flux.model": ("Flux", "double_blocks", True),
    "comfy.ldm.chroma.model": ("Chroma", "double_blocks", True),
    "comfy.ldm.modules.diffusionmodules.mmdit": (
        "OpenAISignatureMMDITWrapper", "joint_blocks", False
    ),
    "comfy.ldm.qwen_image.model": ("QwenImageTransformer2DModel", "transformer_blocks", False),
}  # fmt: skip


@dataclass(frozen=True)
class JointSite:
    """One double block: the host's key, and latent positions per image token along each axis.

    ``image_first`` tells that its attention has the image tokens before the text. ``in_place``
    tells that the block adds to tensors that autograd has saved.
    """

    key: JointKey
    factor: int
    image_first: bool
    in_place: bool


@dataclass(frozen=True)
class _Mark:
    """Carried to the attention call of one block: how many tokens of which kind, and what then."""

    site: JointSite
    image: int
    text: int
    last: bool


def find_joint_sites(diffusion_model: torch.nn.Module) -> tuple[JointSite, ...]:
    """The double blocks to read, in the order of the forward; empty for other models."""
    kind = type(diffusion_model)
    name, attribute, in_place = _FAMILIES.get(kind.__module__, ("", "", False))
    if kind.__name__ != name:
        return ()
    network: Any = diffusion_model
    # learned tokens in front of the text would shift all its positions
    if getattr(network, "register_length", 0):
        return ()
    double = list(getattr(network, attribute))
    # hosts of 2024 have Flux's written out as 2
    patch = int(getattr(network, "patch_size", 2))
    depth = len(double) + len(getattr(network, "single_blocks", ()))
    return tuple(
        JointSite(
            ("double_block", number),
            patch,
            bool(getattr(block, "flipped_img_txt", False)),
            in_place,
        )
        for number, block in enumerate(double[: max(1, depth // 2)])
    )


def joint_reading_options(
    transformer_options: dict[str, Any],
    sites: tuple[JointSite, ...],
    maps: RegionMaps,
    size: tuple[int, int],
    at_last: Callable[[], None] = stop,
) -> dict[str, Any]:
    """A copy of ``transformer_options`` whose joint attention can be read and differentiated.

    ``size`` is the height and width of the latent that will be given to the model. The maps of
    ``sites`` go into ``maps``; after the last of them ``at_last`` is called, which ends the
    forward with StopProbe unless told otherwise. Block patches and an attention override that
    are there already are called as before. The input dictionary is not changed.
    """
    options = transformer_options.copy()
    replaced = dict(options.get("patches_replace", {}))
    options["patches_replace"] = replaced
    blocks: dict[Any, BlockPatch] = dict(replaced.get("dit", {}))
    replaced["dit"] = blocks
    for site in sites:
        blocks[site.key] = _marked(site, blocks.get(site.key), last=site is sites[-1])
    grid = tuple(-(-length // sites[0].factor) for length in size)
    options[OVERRIDE] = _reader(maps, (grid[0], grid[1]), options.get(OVERRIDE), at_last)
    return options


@contextmanager
def unchecked_blocks(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """Let SD3's blocks run once, not again in the backward pass, while the block lasts.

    The host runs a block that has a replacement patch under torch's checkpointing, which a
    StopProbe must not leave halfway: its hooks would stay on the stack.
    """

    def plain(block: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "use_checkpoint": False}

    blocks: Any = getattr(diffusion_model, "joint_blocks", ())
    handles = [block.register_forward_pre_hook(plain, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _marked(site: JointSite, other: BlockPatch | None, last: bool) -> BlockPatch:
    """Block patch that marks the block's options for ``_reader`` and goes on as before."""

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        mark = _Mark(site, args["img"].shape[1], args["txt"].shape[1], last)
        inner = {**(args.get("transformer_options") or {}), MARK: mark}
        call = {**args, "transformer_options": inner}
        return extra["original_block"](call) if other is None else other(call, extra)

    return block


def _reader(
    maps: RegionMaps,
    grid: tuple[int, int],
    other: Attention | None,
    at_last: Callable[[], None],
) -> Attention:
    """Attention override that adds marked blocks' maps to ``maps``; ``at_last`` after the last."""

    def attend(function: Attention, *args: Any, **kwargs: Any) -> Tensor:
        mark = (kwargs.get("transformer_options") or {}).get(MARK)
        if mark is not None and _read(maps, grid, mark, *args, **kwargs) and mark.last:
            at_last()
        if other is None or _chooses_a_kernel(other):
            return differentiable_attention(*args, **kwargs)
        # the other override may call the function that it is given: let autograd through that too
        return other(differentiable_attention, *args, **kwargs)

    return attend


def _chooses_a_kernel(override: Attention) -> bool:
    """Whether this is the host's own choice of attention (Model Attention Backend), which takes
    another kernel and not the function that it is given; those kernels have no backward."""
    return getattr(override, "__module__", "") == comfy.model_patcher.__name__


def _read(
    maps: RegionMaps,
    grid: tuple[int, int],
    mark: _Mark,
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
) -> bool:
    """Add the map of this call, if it is the block's joint attention, and say whether it was."""
    query, key, _ = _by_heads(query, key, key, heads, skip_reshape, enable_gqa)
    total, own = mark.image + mark.text, grid[0] * grid[1]
    # a second, image-only attention in the block (SD3.5 medium), or tokens that a pack merged
    if query.shape[2] != total or key.shape[2] < total:
        return False
    if mark.image < own or mark.text < maps.weights.shape[-2]:
        return False
    # reference pictures come after the picture's own tokens
    first_image, first_text = (0, mark.image) if mark.site.image_first else (mark.text, 0)
    rows = slice(first_image, first_image + own)
    seen = region_attention(query, key, mask, maps.weights, rows, first_text, scale)
    maps.add_regions(seen, *grid)
    return True


def region_attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    weights: Tensor,
    rows: slice,
    first_text: int,
    scale: float | None = None,
) -> Tensor:
    """Attention of the rows ``rows`` to the regions' tokens, (B, rows, R), the mean over heads.

    query and key (B, heads, N, dim); ``weights`` (T, R) or (B, T, R) for the T keys from
    ``first_text`` on. The softmax runs over all keys, in float32. The weights take the place of
    the values, so the map itself, gigabytes at 1024 px, need never exist where torch has a fused
    kernel. ``scale`` of the products is one over the root of dim unless given.
    """
    batch, heads, keys, _ = key.shape
    length, regions = weights.shape[-2:]
    # fused kernels want rows of whole 16 bytes
    padded = regions + -regions % 8
    values = weights.new_zeros(batch, 1, keys, padded)
    columns = slice(first_text, first_text + length)
    values[:, :, columns, :regions] = weights if weights.ndim == 2 else weights[:, None]
    out = functional.scaled_dot_product_attention(
        query[:, :, rows].float(), key.float(), values.float().expand(-1, heads, -1, -1),
        attn_mask=_usable_mask(mask, torch.float32, rows), scale=scale,
    )  # fmt: skip
    return out[..., :regions].mean(dim=1)


def differentiable_attention(
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
) -> Tensor:
    """The host's attention by a kernel that autograd can go through; arguments as the host's."""
    query, key, value = _by_heads(query, key, value, heads, skip_reshape, enable_gqa)
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=_usable_mask(mask, query.dtype), scale=scale
    )
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


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
