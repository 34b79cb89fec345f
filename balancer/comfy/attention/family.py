"""What a family of models is: where it attends to its prompt, how that is read, what it cannot do.

Each family is one object: ``unet.py``, ``flux.py``, ``sd3.py``, ... hold one or two, and
``families.py`` finds them. Probe, Attention Maps, Dense Attention and finetuning ask that object
and know no class of a model themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor
from torch.nn import Module

from ...attention.maps import RegionMaps
from ...attention.regions import Tokens
from ...errors import RealCompoError
from ...layouts.layout import Layout
from .map_rows import Picture

Options = dict[str, Any]
"""The host's ``transformer_options`` of a model call."""
AttentionKind = Literal["attn1", "attn2"]
"""The host's names of a block's self-attention and cross-attention."""
AttentionPatch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
"""The host's replacement of a block's attention: query, key, value (B, N, heads * dim), extra."""

Ability = Literal["balance", "look", "modulate", "train"]
"""What a family may be asked for: RealCompo's gradient, Attention Maps, Dense Attention, and
finetuning on attention."""

# problem and remedy, for every family without the ability
_REFUSALS: dict[Ability, tuple[str, str]] = {
    "balance": (
        "'{name}' has no attention to its prompt that can be read",
        "Set the balancer's mode to fixed, or use a U-Net model such as SD1.5 or SDXL,"
        " or (experimental) SD3, Flux, Chroma or Qwen-Image.",
    ),
    "look": (
        "'{name}' has no cross-attention maps to read", "Use a U-Net model such as SD1.5 or SDXL.",
    ),
    "modulate": (
        "'{name}' has no cross-attention blocks to modulate",
        "Use a U-Net model such as SD1.5, SD2 or SDXL",
    ),
    "train": (
        "'{name}' has no cross-attention blocks to train",
        "Use a U-Net model such as SD1.5, SD2 or SDXL; SD3, Flux and their like have joint"
        " attention",
    ),
}  # fmt: skip


class StopProbe(BaseException):
    """Ends a forward at the last map that is needed.

    Not an Exception: another pack's ``except Exception`` around a model call must not eat it. It
    never leaves this package.
    """


def stop() -> None:
    """What a reader does after the last map, unless it is given something else: end the forward."""
    raise StopProbe


@dataclass(frozen=True)
class Site:
    """One block that attends to the prompt: the host's patch key, and latent positions per cell of
    its map along each axis."""

    key: tuple[Any, ...]
    factor: int

    @property
    def block(self) -> str:
        """The block's name for people: ``input 7``, ``middle``."""
        section, number = self.key[:2]
        return section if section == "middle" else f"{section} {number}"

    @property
    def layer(self) -> int:
        """Index of the layer in its block."""
        return self.key[2] if len(self.key) > 2 else 0


class ReadablePatch(Protocol):
    """An attention patch that can tell the map (B, heads, N, T) which it really uses.

    Query (B, N, heads * dim), key and value (B, T, heads * dim), result (B, N, heads * dim).
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: Any) -> Tensor: ...

    def probabilities(self, query: Tensor, key: Tensor, extra: dict[str, Any]) -> Tensor: ...


PatchMaker = Callable[[AttentionKind, Site, AttentionPatch | None], ReadablePatch]
"""Makes the patch of a site's attention, given what is there already."""


class Family:
    """The base of all families. As it stands: one that nobody knows, and that can do nothing.

    ``abilities``: what can be done with it; methods behind the others are never called.
    ``adds_in_place``: its own blocks add to tensors that autograd has saved. ``is_experimental``:
    no preset was tuned for it. ``latent_dimensions``: 2 for pictures, 3 for frames, None where the
    host's latent format says it, or nobody does.
    """

    abilities: frozenset[Ability] = frozenset()
    adds_in_place: bool = False
    is_experimental: bool = False
    latent_dimensions: int | None = None

    # -- where it attends to its prompt ---------------------------------------------------------

    def includes(self, network: Module) -> bool:
        """Whether the host's ``diffusion_model`` is of this family."""
        raise NotImplementedError

    def sites(self, network: Module) -> tuple[Site, ...]:
        """Blocks whose attention can be read, in the order of the forward; empty if none can."""
        return ()

    def refusal(self, ability: Ability, network: Module) -> tuple[str, str] | None:
        """Why ``network`` cannot do it: problem, with ``{name}`` for the model's, and remedy."""
        able = ability in self.abilities and self.sites(network)
        return None if able else _REFUSALS[ability]

    def first_half(self, network: Module) -> list[list[Module]]:
        """The layers of every block before anything that a ControlNet adds, in the order of the
        forward: branches of one checkpoint may share them. Empty where there is no such half."""
        return []

    def is_behind_first_half(self, site: Site) -> bool:
        """Whether the forward comes by ``site`` after all of ``first_half``."""
        return False

    # -- how its attention is read and differentiated -------------------------------------------

    def one_pass(self, network: Module) -> AbstractContextManager[None]:
        """Context in which the forward may be left by an exception, and runs just once."""
        return nullcontext()

    def reading_options(
        self, options: Options, sites: Sequence[Site], factor: int, maps: RegionMaps,
        picture: Picture | None = None, at_last: Callable[[], None] = stop,
    ) -> Options:  # fmt: skip
        """A copy of ``options`` whose attention is read into ``maps``, differentiably.

        Read are the sites of level ``factor``; after the last of them ``at_last`` is called, which
        ends the forward with StopProbe unless it is something else. ``picture`` is what the network
        should be given: batch, height and width of the latent. What other packs put there stays in
        force.
        """
        raise NotImplementedError

    def differentiable_options(self, options: Options, sites: Sequence[Site]) -> Options:
        """A copy of ``options`` in which autograd can go through all attention; nothing is read."""
        raise NotImplementedError

    def observing_options(
        self, options: Options, sites: Sequence[Site], weights: Callable[[int], Tensor],
        found: dict[Site, Tensor],
    ) -> Options:  # fmt: skip
        """A copy of ``options`` in which every site's maps (B, R, h, w) come into ``found``.

        The model's result stays as it was, and needs no gradient. ``weights`` gives the matrix
        (T, R) of a prompt of T tokens, see ``attention_maps.token_weights``.
        """
        raise NotImplementedError

    def patched_options(
        self, options: Options, network: Module, kinds: Sequence[AttentionKind], make: PatchMaker
    ) -> Options:
        """A copy of ``options`` with a patch on every site's attention of ``kinds``.

        Readers of maps go on reading, and see the patch's own map.
        """
        raise NotImplementedError

    # -- its text -------------------------------------------------------------------------------

    def encodes(self, model: Any) -> bool:
        """Whether the host's model object is given its text as this family is.

        Asked of the model's class: later families share a network and have other text encoders.
        """
        return False

    def tokens(self, layout: Layout, conditioning: Any, where: str) -> Tokens:
        """Token positions of the layout's regions in its conditioning, input ``where``.

        Raises RealCompoError where they are not certain.
        """
        raise NotImplementedError

    def text_layer(self, network: Module) -> Module | None:
        """The first layer that takes the text in, if it is known."""
        return None


def choose_level(sites: Sequence[Site], level: str) -> int:
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


def last_site(sites: Sequence[Site], factor: int) -> Site | None:
    """The site of level ``factor`` behind which a look ends; None without any."""
    wanted = [site for site in sites if site.factor == factor]
    return wanted[-1] if wanted else None
