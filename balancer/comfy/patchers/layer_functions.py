"""Patches that a layer of the host adds to its weight whenever it is called.

A LoRA on one branch of one checkpoint needs no second copy of the weights: the host loads what both
branches have in common, and layers add the rest. That is what the host does itself where memory is
short ("lowvram"), by the same functions of its layers.
"""

from __future__ import annotations

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

from .patch_parts import Patch


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


def attach(layer: Any, attribute: str, function: Any) -> None:
    """Let the layer call ``function`` on its weight too; once, however often it is asked."""
    present = getattr(layer, attribute)
    if present is None or callable(present):
        _attach_one(layer, attribute, function)
    elif not any(other is function for other in present):
        index = len(present)
        if isinstance(function, Added):
            # after the patches that the host has not put into the weight, before wrappers
            index = sum(getattr(type(f), "__name__", "") == "LowVramPatch" for f in present)
        setattr(layer, attribute, [*present[:index], function, *present[index:]])


def detach(layer: Any, attribute: str, function: Any) -> None:
    """Undo ``attach``; nothing happens where the host has cleared the layer meanwhile."""
    present = getattr(layer, attribute)
    if isinstance(present, _After):
        if present.function is function:
            present.take_off(layer, attribute)
    elif isinstance(present, list):
        setattr(layer, attribute, [other for other in present if other is not function])


def _attach_one(layer: Any, attribute: str, function: Any) -> None:
    """Hosts of 2024: a layer has one function or none, and asks it only when it casts."""
    present = getattr(layer, attribute)
    if not (isinstance(present, _After) and present.function is function):
        setattr(layer, attribute, _After(present, function, layer.comfy_cast_weights))
        layer.comfy_cast_weights = True


class _After:
    def __init__(self, before: Any, function: Any, cast: bool) -> None:
        self.before, self.function, self.cast = before, function, cast

    def __call__(self, weight: Tensor) -> Tensor:
        return self.function(weight if self.before is None else self.before(weight))

    def take_off(self, layer: Any, attribute: str) -> None:
        setattr(layer, attribute, self.before)
        layer.comfy_cast_weights = self.cast
