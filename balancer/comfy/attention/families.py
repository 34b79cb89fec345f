"""The families of models that are known: every file of this folder that has ``FAMILIES``.

A new family is a new file, or a line in a file of its kind; nothing else names them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch.nn import Module

from ...attention.regions import Tokens
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ..text.prompt_rows import EXPLICIT
from .family import Family, Site
from .phrases import clip_phrases

_FOLDER = __name__.rpartition(".")[0]
KNOWN: list[Family] = [
    family
    for module in iter_modules(import_module(_FOLDER).__path__)
    for family in getattr(import_module(f"{_FOLDER}.{module.name}"), "FAMILIES", ())
]
_UNKNOWN = Family()


def family_of(network: Module) -> Family:
    """The family of the host's ``diffusion_model``; one that can do nothing if nobody knows it."""
    return next((family for family in KNOWN if family.includes(network)), _UNKNOWN)


def find_sites(network: Module) -> tuple[Site, ...]:
    """All sites whose attention can be read, in the order of the forward; empty if there are none.

    A model's sites are all of one kind.
    """
    return family_of(network).sites(network)


def text_family_of(model: Any) -> Family | None:
    """The family whose text the host's model object is given; None if nobody knows it."""
    return next((family for family in KNOWN if family.encodes(model)), None)


def locate(layout: Layout, model: Any, conditioning: Any, where: str) -> Tokens:
    """Token positions of the layout's regions in ``conditioning``, encoded for ``model``.

    ``model`` is the host's model object and ``where`` the name of the conditioning's input.
    Raises RealCompoError for phrases that the prompt does not hold, and where the positions are
    not certain: an unknown family, or conditioning that is not the encoded prompt. Regions with
    explicit tokens need no certainty.
    """
    layout.require_regions()
    if all(region.tokens is not None for region in layout.regions):
        return tuple(region.tokens or () for region in layout.regions)
    if not layout.prompt.strip():
        return clip_phrases(layout, conditioning, where)  # says that there is no prompt
    family = text_family_of(model)
    if family is None:
        raise RealCompoError(
            where, f"nobody knows how a '{type(model).__name__}' model is told its prompt",
            f"{EXPLICIT[0].upper() + EXPLICIT[1:]}, or set the balancer's mode to fixed.",
        )  # fmt: skip
    return family.tokens(layout, conditioning, where)
