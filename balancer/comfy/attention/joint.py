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

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import comfy.model_patcher
from torch import Tensor
from torch.nn import Module

from ...attention.maps import RegionMaps
from ...attention.regions import Tokens
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ..host.compat import has_attention_override
from ..text.prompt_rows import read_first, say_which
from .family import Ability, Family, Options, Site, stop
from .host_attention import AttentionCall, joint_attention, region_attention
from .map_rows import Picture
from .phrases import unlike

BlockPatch = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
Attention = Callable[..., Tensor]

OVERRIDE = "optimized_attention_override"
MARK = "realcompo_joint_block"


@dataclass(frozen=True)
class JointSite(Site):
    """One double block. ``image_first`` tells that its attention has the image tokens before the
    text."""

    image_first: bool = False


@dataclass(frozen=True)
class _Mark:
    """Carried to the attention call of one block: how many tokens of which kind, and what then."""

    site: JointSite
    image: int
    text: int
    last: bool


@dataclass(frozen=True)
class JointFamily(Family):
    """Models with double blocks. Classes are named, not guessed by their attributes: each has its
    own order of tokens.

    network    the host's module and class of the network
    model      the host's class (of comfy.model_base) whose text stands where ``positions`` says
    blocks     the network's attribute with the double blocks
    text_in    the network's attribute with the first layer for text
    positions  token positions of a layout's regions in an embedding (B, T, width), which the input
               of a name gives; raises RealCompoError where it is not the layout's prompt
    runs_again the host runs blocks with a replacement patch under torch's checkpointing
    """

    network: tuple[str, str]
    model: str
    blocks: str
    text_in: str
    positions: Callable[[Layout, Tensor, str], Tokens]
    runs_again: bool = False
    adds_in_place: bool = False
    abilities: frozenset[Ability] = frozenset({"balance"})
    is_experimental: bool = True

    def includes(self, network: Module) -> bool:
        """See ``Family``; the very class."""
        kind = type(network)
        return (kind.__module__, kind.__name__) == self.network

    def sites(self, network: Module) -> tuple[JointSite, ...]:
        """The double blocks in the first half of the model's depth."""
        model: Any = network
        # learned tokens in front of the text would shift all its positions
        if getattr(model, "register_length", 0):
            return ()
        double = list(getattr(model, self.blocks))
        # hosts of 2024 have Flux's written out as 2
        patch = int(getattr(model, "patch_size", 2))
        depth = len(double) + len(getattr(model, "single_blocks", ()))
        return tuple(
            JointSite(
                ("double_block", number), patch, bool(getattr(block, "flipped_img_txt", False))
            )
            for number, block in enumerate(double[: max(1, depth // 2)])
        )

    def refusal(self, ability: Ability, network: Module) -> tuple[str, str] | None:
        """See ``Family``; older hosts let nobody read."""
        refused = super().refusal(ability, network)
        if refused is None and not has_attention_override():
            return (
                "this ComfyUI lets nobody read the attention of '{name}'",
                "Set the balancer's mode to fixed, or update ComfyUI.",
            )
        return refused

    def one_pass(self, network: Module) -> AbstractContextManager[None]:
        """See ``Family``."""
        if not self.runs_again:
            return nullcontext()
        return _without_checkpoints(getattr(network, self.blocks))

    def reading_options(
        self, options: Options, sites: Sequence[Site], factor: int, maps: RegionMaps,
        picture: Picture | None = None, at_last: Callable[[], None] = stop,
    ) -> Options:  # fmt: skip
        """See ``Family``; needs ``picture``. Block patches and an attention override that are there
        already are called as before."""
        if picture is None:
            raise ValueError("the latent's size is needed")
        options = options.copy()
        replaced = dict(options.get("patches_replace", {}))
        options["patches_replace"] = replaced
        blocks: dict[Any, BlockPatch] = dict(replaced.get("dit", {}))
        replaced["dit"] = blocks
        for site in cast(Sequence[JointSite], sites):
            blocks[site.key] = _marked(site, blocks.get(site.key), last=site is sites[-1])
        height, width = (-(-length // factor) for length in picture[1:])
        options[OVERRIDE] = _reader(maps, (height, width), options.get(OVERRIDE), at_last)
        return options

    def encodes(self, model: Any) -> bool:
        """See ``Family``; the very class: later families are subclasses with text encoders of
        their own."""
        kind = type(model)
        return (kind.__module__, kind.__name__) == ("comfy.model_base", self.model)

    def tokens(self, layout: Layout, conditioning: Any, where: str) -> Tokens:
        """See ``Family``."""
        if not conditioning:
            raise RealCompoError(where, "the conditioning is empty", "Connect an encoded prompt.")
        first = list(read_first(conditioning)) or [conditioning[0][0]]
        say_which(conditioning, first, where)
        # parts of the schedule with an embedding of their own must agree on where the words are
        found = {id(one): self.positions(layout, one, where) for one in first}
        if len(set(found.values())) != 1:
            raise unlike(where, "of one length in all parts of the schedule")
        return found.popitem()[1]

    def text_layer(self, network: Module) -> Module | None:
        """See ``Family``."""
        return getattr(network, self.text_in, None)


@contextmanager
def _without_checkpoints(blocks: Sequence[Module]) -> Iterator[None]:
    """Let blocks run once, not again in the backward pass, while this lasts.

    The host runs a block that has a replacement patch under torch's checkpointing, which a
    StopProbe must not leave halfway: its hooks would stay on the stack.
    """

    def plain(block: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "use_checkpoint": False}

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
        if mark is not None:
            was_read = _read(maps, grid, mark, AttentionCall.of(*args, **kwargs))
            if was_read and mark.last:
                at_last()
        if other is None or _chooses_a_kernel(other):
            return joint_attention(*args, **kwargs)
        # the other override may call the function that it is given: let autograd through that too
        return other(joint_attention, *args, **kwargs)

    return attend


def _chooses_a_kernel(override: Attention) -> bool:
    """Whether this is the host's own choice of attention (Model Attention Backend), which takes
    another kernel and not the function that it is given; those kernels have no backward."""
    return getattr(override, "__module__", "") == comfy.model_patcher.__name__


def _read(maps: RegionMaps, grid: tuple[int, int], mark: _Mark, call: AttentionCall) -> bool:
    """Add the map of this call, if it is the block's joint attention, and say whether it was."""
    total, own = mark.image + mark.text, grid[0] * grid[1]
    # a second, image-only attention in the block (SD3.5 medium), or tokens that a pack merged
    if call.query.shape[2] != total or call.key.shape[2] < total:
        return False
    if mark.image < own or mark.text < maps.weights.shape[-2]:
        return False
    # reference pictures come after the picture's own tokens
    first_image, first_text = (0, mark.image) if mark.site.image_first else (mark.text, 0)
    rows = slice(first_image, first_image + own)
    maps.add_regions(region_attention(call, maps.weights, rows, first_text), *grid)
    return True
