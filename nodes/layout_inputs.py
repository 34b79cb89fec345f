"""Inputs and outputs that layout nodes share, so that they read alike."""

from __future__ import annotations

from typing import Any

MAX_SIDE = 16384
"""Longest side in pixels of a picture that a layout is made for."""


class AnyType(str):
    """A socket type that is equal to every other, so that any link fits.

    The host compares types with ``!=`` as plain strings; packs name boxes in a dozen ways
    (BBOX, BOUNDING_BOX, BBOXES, SEGS, ARRAY, JSON, ...).
    """

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = str.__eq__
    __hash__ = str.__hash__


ANY = AnyType("*")
PROMPT = ("STRING", {
    "multiline": True, "default": "",
    "tooltip": "The same text that your positive prompt encodes: the phrases are looked up in it."
    " Left empty: that of the connected layout.",
})  # fmt: skip
ADDED_TO = ("REALCOMPO_LAYOUT", {"tooltip": "A layout to add these regions to."})


def side(tip: str, default: int = 0, smallest: int = 0) -> tuple[str, dict[str, Any]]:
    """Width or height of a picture in pixels."""
    return ("INT", {
        "default": default, "min": smallest, "max": MAX_SIDE, "step": 8, "tooltip": tip,
    })  # fmt: skip


def share(
    tip: str, default: float, low: float = 0.0, high: float = 1.0
) -> tuple[str, dict[str, Any]]:
    """A share of something, in steps of a hundredth."""
    return ("FLOAT", {
        "default": default, "min": low, "max": high, "step": 0.01, "tooltip": tip,
    })  # fmt: skip


def single(value: Any, default: Any = None) -> Any:
    """The value of an input that came as a list, because the node takes lists."""
    return value[0] if isinstance(value, list) and value else default


class LayoutNode:
    """Outputs of a node that gives a layout and the prompt that belongs to it."""

    RETURN_TYPES: tuple[str, ...] = ("REALCOMPO_LAYOUT", "STRING")
    RETURN_NAMES: tuple[str, ...] = ("layout", "prompt")
    OUTPUT_TOOLTIPS: tuple[str, ...] = (
        "The regions, for RealCompo Dual Sampler, RealCompo Apply GLIGEN and others.",
        "The prompt, to be connected to CLIP Text Encode: one text for both.",
    )
    CATEGORY = "RealCompo/layout"
