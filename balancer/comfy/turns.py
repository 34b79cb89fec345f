"""One model behind both branches, which take turns with patches of their own.

The host loads one patcher: what both branches have in common. Whichever branch's turn it is puts in
the rest: layers add its weight patches as they are called (see patch_parts.py), its object patches
and injections are in the model. The weights themselves are never written to.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Parameter

from .patch_parts import (
    Added,
    Part,
    adds_by_itself,
    bytes_of,
    is_packed,
    layer_of,
    moved,
    part_of,
    same,
    split,
)

# the host's own ways to load and patch; other packs' patchers may have theirs (GGUF)
_WAYS = ("load", "patch_model", "unpatch_model", "patch_weight_to_device", "partially_load")


def differ(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two patchers of one model want different weights or objects in it."""
    _, own, others = split(part_of(first), part_of(second))
    return bool(own or others) or not (
        _same_values(first.object_patches, second.object_patches)
        and _same_values(_injections(first), _injections(second))
        and getattr(first, "force_cast_weights", False)
        == getattr(second, "force_cast_weights", False)
    )


def can_take_turns(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two patchers of one model can do without a copy of it.

    Not where the weights' patches are about as large as the weights (merged models), where packed
    weights would be patched, or where another pack loads the model in its own way.
    """
    if _of_loading(first) != _of_loading(second):
        return False
    _, own, others = split(part_of(first), part_of(second))
    keys = [*own.keys, *others.keys]
    if not keys:
        return True
    places = [layer_of(first.model, key) for key in keys]
    own_way = any(
        getattr(type(patcher), way).__module__ != ModelPatcher.__module__
        for patcher in (first, second) for way in _WAYS
    )  # fmt: skip
    if own_way or any(is_packed(*place) for place in places):
        return False
    by_host = all(adds_by_itself(*place) for place in places)
    if not by_host and (own.wrappers or others.wrappers):
        return False
    weights = bytes_of(getattr(*place) for place in places)
    return bytes_of(iter([*own.tensors(), *others.tensors()])) <= weights / 2


class Turns:
    """``first`` becomes the patcher that the host loads for both; see ``can_take_turns``.

    Both must be clones of the caller's own. Between ``begin`` and ``end`` the model is loaded.
    """

    def __init__(self, first: ModelPatcher, second: ModelPatcher) -> None:
        self.first, self.second, self.model = first, second, first.model
        common, own, others = split(part_of(first), part_of(second))
        self._parts = (own, others)
        if own and hasattr(first, "remove_additional_models"):
            # the host's copies on other cards would have what is common only
            first.remove_additional_models("multigpu")
        self._same_objects = _same_values(first.object_patches, second.object_patches)
        self._injects = bool(_injections(first) or _injections(second))
        _load_only(common, first, second)
        self._begun = False
        self._spatial = False
        self._added: list[list[tuple[Any, str, Any]]] = [[], []]
        self._kept: list[tuple[Any, str, list[Parameter]]] = []
        self._backed_up: list[str] = []
        size = bytes_of(iter([*own.tensors(), *others.tensors()]))
        logging.info(
            "RealCompo: one model for both branches; %.0f MiB of patches are added layer by layer,"
            " a copy would take %.0f MiB.", size / 2**20, first.model_size() / 2**20,
        )  # fmt: skip

    def begin(self, device: torch.device) -> None:
        """After loading; it is the first branch's turn then."""
        self._begun, self._spatial = True, False
        if self._injects:
            # by its parent it may believe otherwise; the host has taken all but the first's out
            self.second.is_injected = False
        self._kept, self._added = [], [[], []]
        dynamic = is_dynamic(self.first)
        for number, part in enumerate(self._parts):
            for key in part.keys:
                layer, name = layer_of(self.model, key)
                functions = list(part.wrappers.get(key, []))
                if key in part.patches:
                    patches = moved(part.patches[key], device)
                    functions.insert(0, Added(key, patches, layer, name, dynamic))
                if adds_by_itself(layer, name):
                    self._added[number] += [(layer, name, function) for function in functions]
                else:
                    self._keep(number, layer, name, functions)
        self._attach(0)

    def _keep(self, number: int, layer: Any, name: str, functions: list[Any]) -> None:
        """A weight that no layer of the host uses is small: both its values are kept."""
        known = next((k for k in self._kept if k[0] is layer and k[1] == name), None)
        if known is None:
            plain = getattr(layer, name)
            known = (layer, name, [plain, plain, plain])
            self._kept.append(known)
        value = known[2][2]
        for function in functions:
            value = function(value)
        known[2][number] = Parameter(value, requires_grad=False)

    def to(self, spatial: bool) -> None:
        """Make it the second (``spatial``) or the first branch's turn."""
        if not self._begun:
            return
        number = int(spatial)
        if spatial != self._spatial:
            self._detach(1 - number)
            self._change_objects((self.first, self.second)[number])
            self._spatial = spatial
        self._attach(number)

    def end(self) -> None:
        """Leave the model as the host has loaded it, in every case."""
        if not self._begun:
            return
        try:
            self.to(False)
        finally:
            self._detach(0)
            self._detach(1)
            for layer, name, values in self._kept:
                layer._parameters[name] = values[2]
            for name in self._backed_up:
                self.first.object_patches_backup.pop(name, None)
            self._added, self._kept, self._backed_up, self._begun = [[], []], [], [], False

    def _attach(self, number: int) -> None:
        """Idempotent: the host may have loaded the model anew in between."""
        for layer, name, function in self._added[number]:
            _attach(layer, f"{name}_function", function)
        for layer, name, values in self._kept:
            layer._parameters[name] = values[number]

    def _detach(self, number: int) -> None:
        for layer, name, function in reversed(self._added[number]):
            _detach(layer, f"{name}_function", function)

    def _change_objects(self, patcher: ModelPatcher) -> None:
        """As the host's ``patch_model``, whose backups are used: whoever unloads puts them back."""
        other = self.first if patcher is self.second else self.second
        if self._injects:
            other.eject_model()
        if not self._same_objects:
            backup = self.first.object_patches_backup
            for name in reversed(other.object_patches):
                if name in backup:
                    comfy.utils.set_attr(self.model, name, backup[name])
            for name, value in patcher.object_patches.items():
                old = comfy.utils.set_attr(self.model, name, value)
                if name not in backup:
                    backup[name] = old
                    self._backed_up.append(name)
        if self._injects:
            patcher.inject_model()


def is_dynamic(patcher: Any) -> bool:
    """Whether the host keeps this model's weights in dynamic VRAM (2026 on)."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def _load_only(common: Part, first: Any, second: Any) -> None:
    """Let ``first`` stand for ``common``, under a name by which the host knows when to reload.

    The name is that of whoever else has these very patches. The host falls back to a patcher's
    parent when it is gone, so that must be one whose patches are these as well.
    """
    cast = getattr(first, "force_cast_weights", False) or getattr(
        second, "force_cast_weights", False
    )
    base = next((p for p in _ancestors(first, second) if _stands_for(p, common, cast)), None)
    first.patches = {key: list(patches) for key, patches in common.patches.items()}
    first.patches_uuid = uuid.uuid4() if base is None else base.patches_uuid
    if hasattr(first, "weight_wrapper_patches"):
        first.weight_wrapper_patches = dict(common.wrappers)
    if hasattr(first, "force_cast_weights"):
        first.force_cast_weights = cast
    if base is not None and hasattr(first, "parent"):
        first.parent = base


def _ancestors(first: Any, second: Any) -> list[Any]:
    found = []
    for patcher in (first, second):
        other = getattr(patcher, "parent", patcher)
        while other is not None and other.model is first.model:
            found.append(other)
            other = getattr(other, "parent", None)
    return found


def _stands_for(patcher: Any, part: Part, cast: bool) -> bool:
    common, own, others = split(part_of(patcher), part)
    return not (own or others) and getattr(patcher, "force_cast_weights", False) == cast


def _of_loading(patcher: Any) -> list[Any]:
    """Functions that other packs want called when the host loads or unloads this patcher."""
    if not hasattr(patcher, "get_all_callbacks"):
        return []
    return [
        f for name in ("on_load_after", "on_detach_after") for f in patcher.get_all_callbacks(name)
    ]


def _injections(patcher: Any) -> dict[str, Any]:
    return getattr(patcher, "injections", {})


def _same_values(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)


def _attach(layer: Any, attribute: str, function: Any) -> None:
    present = getattr(layer, attribute)
    if present is None or callable(present):
        _attach_one(layer, attribute, function)
    elif not any(other is function for other in present):
        place = len(present)
        if isinstance(function, Added):
            # after the patches that the host has not put into the weight, before wrappers
            place = sum(getattr(type(f), "__name__", "") == "LowVramPatch" for f in present)
        setattr(layer, attribute, [*present[:place], function, *present[place:]])


def _detach(layer: Any, attribute: str, function: Any) -> None:
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
