"""One model behind both branches, which take turns with patches of their own.

The host loads one patcher: what both branches have in common. Whichever branch's turn it is puts in
the rest: layers add its weight patches as they are called (see layer_functions.py), its object
patches and injections are in the model. The weights themselves are never written to.
"""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module, Parameter

from ...log import LOG
from .layer_functions import Added, adds_by_itself, attach, detach, layer_of
from .one_model import injections, is_dynamic, load_only, other_objects, parts
from .patch_parts import bytes_of, moved


class Turns:
    """``first`` becomes the patcher that the host loads for both; see ``can_take_turns``.

    Both must be clones of the caller's own. Between ``begin`` and ``end`` the model is loaded.
    """

    def __init__(self, first: ModelPatcher, second: ModelPatcher) -> None:
        self.first, self.second, self.model = first, second, first.model
        common, own, others = parts(first, second)
        self._parts = (own, others)
        if own and hasattr(first, "remove_additional_models"):
            # the host's copies on other cards would have what is common only
            first.remove_additional_models("multigpu")
        self._objects = other_objects(first, second)
        self._injects = bool(injections(first) or injections(second))
        load_only(common, first, second)
        self._begun = False
        self._turn = 0
        self._added: list[list[tuple[Any, str, Any]]] = [[], []]
        self._kept: list[tuple[Any, str, list[Parameter]]] = []
        self._backed_up: list[str] = []
        self._fetched: list[tuple[dict[str, Any], str, Tensor]] = []
        size = bytes_of(iter([*own.tensors(), *others.tensors()]))
        LOG.info(
            "RealCompo: one model for both branches; %.0f MiB of patches are added layer by layer,"
            " a copy would take %.0f MiB.", size / 2**20, first.model_size() / 2**20,
        )  # fmt: skip

    def begin(self, device: torch.device) -> None:
        """After loading; it is the first branch's turn then."""
        self._begun, self._turn = True, 0
        if self._injects:
            # by its parent it may believe otherwise; the host has taken all but the first's out
            self.second.is_injected = False
        self._device, self._ready = device, [False, False]
        self._loaded = {id(tensor) for _, _, tensor in _tensors(self.model)}
        self._prepare(0)
        self._attach(0)

    def _prepare(self, number: int) -> None:
        """At a branch's first turn, with its objects in the model: what its layers are to add."""
        if self._ready[number]:
            return
        self._ready[number] = True
        for name in self._objects if number else ():
            self._fetch(comfy.utils.get_attr(self.model, name))
        part, dynamic = self._parts[number], is_dynamic(self.first)
        for key in part.keys:
            layer, name = layer_of(self.model, key)
            functions = list(part.wrappers.get(key, []))
            if key in part.patches:
                patches = moved(part.patches[key], self._device)
                functions.insert(0, Added(key, patches, layer, name, dynamic))
            if adds_by_itself(layer, name):
                self._added[number] += [(layer, name, function) for function in functions]
            else:
                self._keep(number, layer, name, functions)

    def _fetch(self, thing: Any) -> None:
        """Layers that were not in the model when the host loaded it."""
        for store, name, tensor in _tensors(thing) if isinstance(thing, Module) else ():
            if id(tensor) not in self._loaded and tensor.device != self._device:
                self._fetched.append((store, name, tensor))
                there = tensor.to(self._device)
                same_kind = isinstance(tensor, Parameter)
                store[name] = Parameter(there, requires_grad=False) if same_kind else there

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

    def to(self, patcher: ModelPatcher) -> None:
        """Make it the turn of ``patcher``: the second, else the first."""
        if not self._begun:
            return
        number = int(patcher is self.second)
        if number != self._turn:
            self._detach(self._turn)
            self._change_objects((self.first, self.second)[number])
            self._turn = number
        self._prepare(number)
        self._attach(number)

    def end(self) -> None:
        """Leave the model as the host has loaded it, in every case."""
        if not self._begun:
            return
        try:
            self.to(self.first)
        finally:
            self._detach(0)
            self._detach(1)
            for layer, name, values in self._kept:
                layer._parameters[name] = values[2]
            for name in self._backed_up:
                self.first.object_patches_backup.pop(name, None)
            for store, name, tensor in self._fetched:
                store[name] = tensor
            self._added, self._kept, self._backed_up, self._fetched = [[], []], [], [], []
            self._begun = False

    def _attach(self, number: int) -> None:
        """Idempotent: the host may have loaded the model anew in between."""
        for layer, name, function in self._added[number]:
            attach(layer, f"{name}_function", function)
        for layer, name, values in self._kept:
            layer._parameters[name] = values[number]

    def _detach(self, number: int) -> None:
        for layer, name, function in reversed(self._added[number]):
            detach(layer, f"{name}_function", function)

    def _change_objects(self, patcher: ModelPatcher) -> None:
        """As the host's ``patch_model``, whose backups are used: whoever unloads puts them back."""
        other = self.first if patcher is self.second else self.second
        if self._injects:
            other.eject_model()
        if self._objects:
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


def _tensors(module: Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every parameter and buffer, and where it is kept."""
    stores: list[Any] = [
        store for each in module.modules() for store in (each._parameters, each._buffers)
    ]
    return [(store, n, t) for store in stores for n, t in store.items() if t is not None]
