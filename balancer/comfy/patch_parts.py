"""What two patchers of one model have in common, and what each adds to it, layer by layer.

A LoRA on one branch of one checkpoint needs no second copy of the weights: the host loads what both
branches have in common, and a layer adds the rest whenever it is called. That is what the host does
itself where memory is short ("lowvram"), by the same functions of its layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor
from torch.nn import Parameter

Patch = tuple[Any, ...]
"""The host's: strength, what to add, strength of the model, offset, function."""


@dataclass(frozen=True)
class Part:
    """Weight patches and weight wrappers by the weight's key, each in the order of application."""

    patches: dict[str, list[Patch]] = field(default_factory=dict)
    wrappers: dict[str, list[Callable[..., Tensor]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.patches or self.wrappers)

    @property
    def keys(self) -> list[str]:
        """The weights it changes."""
        return list(dict.fromkeys([*self.patches, *self.wrappers]))

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the patches."""
        for patches in self.patches.values():
            yield from _tensors(patches)


def part_of(patcher: Any) -> Part:
    """All that a patcher does to its model's weights."""
    return Part(patcher.patches, getattr(patcher, "weight_wrapper_patches", {}))


def split(first: Part, second: Part) -> tuple[Part, Part, Part]:
    """What both begin with, and what either does to the weights after that."""
    patches = _split(first.patches, second.patches)
    wrappers = _split(first.wrappers, second.wrappers)
    common, own, others = (Part(*pair) for pair in zip(patches, wrappers, strict=True))
    return common, own, others


def _split(
    first: dict[str, list[Any]], second: dict[str, list[Any]]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]], dict[str, list[Any]]]:
    common: dict[str, list[Any]] = {}
    own: dict[str, list[Any]] = {}
    others: dict[str, list[Any]] = {}
    for key in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(key, []), second.get(key, [])
        shared = 0
        while shared < min(len(ours), len(theirs)) and same(ours[shared], theirs[shared]):
            shared += 1
        for found, items in (
            (common, ours[:shared]), (own, ours[shared:]), (others, theirs[shared:])
        ):  # fmt: skip
            if items:
                found[key] = items
    return common, own, others


def same(first: Any, second: Any) -> bool:
    """Whether two patches, or objects put into a model, are the same; tensors by identity."""
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, (bool, int, float, str, torch.dtype, MethodType)):
        return first == second
    return False


def layer_of(model: Any, key: str) -> tuple[Any, str]:
    """The module that holds a weight, and the weight's name there."""
    path, _, name = key.rpartition(".")
    return (comfy.utils.get_attr(model, path) if path else model), name


def adds_by_itself(layer: Any, name: str) -> bool:
    """Whether the host's layer calls functions on this weight whenever it is used."""
    cast = getattr(type(layer), "forward_comfy_cast_weights", None)
    return name in ("weight", "bias") and getattr(cast, "__module__", "") == comfy.ops.__name__


def is_packed(layer: Any, name: str) -> bool:
    """Whether the weight is kept scaled or quantised, and nothing can be added to it as it is."""
    weight = getattr(layer, name, None)
    plain = weight is None or type(weight) in (Tensor, Parameter)
    scaled = name == "weight" and getattr(layer, "scale_weight", None) is not None
    return not plain or (scaled and hasattr(layer, "convert_weight"))


class Added:
    """A function of a layer that applies patches to its weight: the host's own arithmetic.

    ``dynamic``: as the host computes for weights in dynamic VRAM; else as it does at loading.
    """

    def __init__(
        self, key: str, patches: list[Patch], layer: Any, name: str, dynamic: bool
    ) -> None:
        self.key, self.patches, self.layer, self.name = key, patches, layer, name
        self.dynamic = dynamic

    def __call__(self, weight: Tensor) -> Tensor:
        compute = weight.dtype if self.dynamic else _compute_dtype(weight.device)
        between = {"intermediate_dtype": compute} if self.dynamic else {}
        kept = getattr(self.layer, self.name)
        stored = getattr(kept, "_model_dtype", kept.dtype)
        with torch.no_grad():
            # patches are applied in place, and the weight may be the host's own
            out = comfy.lora.calculate_weight(
                self.patches, weight.to(compute, copy=True), self.key, **between
            )
            rounded = comfy.float.stochastic_rounding(out, stored, seed=_seed(self.key))
            return rounded.to(weight.dtype)


def _compute_dtype(device: torch.device) -> torch.dtype:
    native = getattr(comfy.model_management, "lora_compute_dtype", None)
    return torch.float32 if native is None else native(device)


def _seed(key: str) -> int:
    native = getattr(comfy.utils, "string_to_seed", None) or comfy.model_patcher.string_to_seed
    return native(key)


def moved(value: Any, device: torch.device) -> Any:
    """Patches whose tensors are on ``device``; adapters of the host are copied for it."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(item, device) for item in value)
    if hasattr(value, "calculate_weight") and hasattr(value, "weights"):
        twin = copy.copy(value)
        twin.weights = moved(value.weights, device)
        return twin
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "calculate_weight") and hasattr(value, "weights"):
        yield from _tensors(value.weights)


def bytes_of(tensors: Iterator[Tensor]) -> int:
    """Memory of the tensors; one that comes twice counts once."""
    return sum({id(t): t.numel() * t.element_size() for t in list(tensors)}.values())
