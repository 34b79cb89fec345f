"""The second model of a pair: prepared, loaded, sampled and cleaned up beside the first.

The host's guider looks after one model. This does for the other what the host does for the first:
register hooks, load in the same call, process conditioning, run callbacks, undo all of it.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .branch_guider import BranchGuider
from .compat import clone_model_options, has_outer_sample

KEY = "realcompo_spatial"
Conds = dict[str, list[dict[str, Any]]]

# one separated copy per model, however often a graph is queued; gone with the model
_separated: weakref.WeakKeyDictionary[torch.nn.Module, torch.nn.Module] = (
    weakref.WeakKeyDictionary()
)


def same_weights(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two patchers stand for the very same weights (one model, the same patches)."""
    return (
        first.model is second.model
        and first.patches_uuid == second.patches_uuid
        and first.object_patches == second.object_patches
    )


def separate(first: ModelPatcher, second: ModelPatcher) -> ModelPatcher:
    """``second``, or a stand-in with a model of its own where the two would share one.

    Two patchers of one model with different patches (say, a LoRA on one branch only) would end up
    with whichever weights were loaded last. The stand-in's weights are a copy, made once.
    """
    if first.model is not second.model or same_weights(first, second):
        return second
    shared = second.model
    if shared not in _separated:
        logging.info("RealCompo: both branches use one checkpoint with different patches; copying.")
        _unload(shared)
        _separated[shared] = copy.deepcopy(shared)
    stand_in = second.clone()
    stand_in.model = _separated[shared]
    # what was backed up belongs to the shared model's weights
    stand_in.backup, stand_in.object_patches_backup = {}, {}
    if hasattr(stand_in, "hook_backup"):
        stand_in.hook_backup = {}
    return stand_in


def _unload(model: torch.nn.Module) -> None:
    """Take a model off the device and its patches out of its weights."""
    loaded = comfy.model_management.current_loaded_models
    for index in reversed(range(len(loaded))):
        entry = loaded[index]
        if entry.model is not None and entry.model.model is model:
            entry.model_unload()
            loaded.pop(index)


class SpatialBranch:
    """The spatial model during one or more runs of a guider.

    ``patcher`` must already be separated from the first model. ``original_conds`` are converted
    once; every run works on copies of them.
    """

    def __init__(
        self, first: ModelPatcher, patcher: ModelPatcher, positive: Any, negative: Any
    ) -> None:
        self.patcher = patcher
        self.shared = first.model is patcher.model
        self._original: Conds = {
            "positive": comfy.sampler_helpers.convert_cond(positive),
            "negative": comfy.sampler_helpers.convert_cond(negative),
        }
        self.guider = BranchGuider(patcher)
        self.guider.model_options = {}

    @property
    def conds(self) -> Conds:
        """The conditioning in this run; wrappers of the model may exchange it."""
        return self.guider.conds

    @conds.setter
    def conds(self, conds: Conds) -> None:
        self.guider.conds = conds

    @property
    def options(self) -> dict[str, Any]:
        """The model's options in this run; wrappers of the model may exchange them."""
        return self.guider.model_options

    @options.setter
    def options(self, options: dict[str, Any]) -> None:
        self.guider.model_options = options

    @property
    def model(self) -> Any:
        """The host's model object (``BaseModel``)."""
        return self.patcher.model

    def named_conds(self) -> Conds:
        """The conditioning as it came, by the names of the nodes' inputs."""
        return {f"spatial_{key}": entries for key, entries in self._original.items()}

    @contextmanager
    def session(self, first_conds: Conds | None) -> Iterator[None]:
        """Everything around one run. ``first_conds`` (new hosts): the first model's conditioning,
        which carries this branch's ControlNets and GLIGEN into the host's one load call."""
        self.guider.model_patcher, self.guider.original_conds = self.patcher, self._original
        self.conds = {key: [c.copy() for c in conds] for key, conds in self._original.items()}
        self.options = clone_model_options(self.patcher.model_options)
        hook_mode = getattr(self.patcher, "hook_mode", None)
        try:
            if has_outer_sample():
                self._register_hooks()
            if first_conds is not None and first_conds.get("positive"):
                entry = first_conds["positive"][0]
                entry["additional_models"] = [
                    *_as_list(entry.get("additional_models")), *self.passengers()
                ]  # fmt: skip
            yield
        finally:
            self._clean_up(hook_mode)

    def _register_hooks(self) -> None:
        from comfy.hooks import EnumHookMode

        comfy.samplers.preprocess_conds_hooks(self.conds)
        if comfy.samplers.get_total_hook_groups_in_conds(self.conds) <= 1:
            # one set of hooks never changes during the run: do not keep its weights
            self.patcher.hook_mode = EnumHookMode.MinVram
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, self.conds, self.options)
        comfy.samplers.filter_registered_hooks_on_conds(self.conds, self.options)

    def passengers(self) -> list[Any]:
        """Models that come along with this branch: ControlNets, GLIGEN, models of hooks."""
        models, _ = comfy.sampler_helpers.get_additional_models(
            self.conds, self.patcher.model_dtype()
        )
        from_hooks = getattr(
            comfy.sampler_helpers, "get_additional_models_from_model_options", None
        )
        models += from_hooks(self.options) if from_hooks is not None else []
        if self.shared:
            # the host loads the first patcher of the two, and so what belongs to that one
            models += self.patcher.model_patches_models()
            nested = getattr(self.patcher, "get_nested_additional_models", None)
            models += nested() if nested is not None else []
        return models

    def begin(
        self,
        noise: Tensor,
        latent_image: Tensor | None,
        device: torch.device,
        denoise_mask: Tensor | None,
        seed: int | None,
        sigmas: Tensor,
        **extra: Any,
    ) -> None:
        """Inside the host's ``inner_sample``, with both models loaded: process conditioning."""
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = self.model.process_latent_in(latent_image)
        if has_outer_sample():
            comfy.samplers.cast_to_load_options(
                self.options, device=device, dtype=self.patcher.model_dtype()
            )
            self.patcher.pre_run()
        if self.shared:
            for to in (device, self.patcher.model_dtype()):
                self.patcher.model_patches_to(to)
        self.conds = comfy.samplers.process_conds(
            self.model, noise, self.conds, device, latent_image, denoise_mask, seed, **extra
        )
        self.options = clone_model_options(self.options)
        self.options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas

    def activate(self, patcher: ModelPatcher, other: ModelPatcher) -> None:
        """Make ``patcher`` the one that the host asks about its model's hooks.

        With one model behind both branches, hooks of the other are taken out of the weights first.
        """
        if not self.shared or not hasattr(patcher.model, "current_patcher"):
            return
        if getattr(other, "current_hooks", None) is not None:
            other.patch_hooks(None)
        patcher.model.current_patcher = patcher

    def _clean_up(self, hook_mode: Any) -> None:
        try:
            comfy.sampler_helpers.cleanup_models(self.conds, [])
            if has_outer_sample():
                self.patcher.cleanup()
                comfy.samplers.cast_to_load_options(
                    self.options, device=self.patcher.offload_device
                )
        finally:
            if has_outer_sample():
                self.patcher.hook_mode = hook_mode
                self.patcher.restore_hook_patches()
            self.conds, self.options = {}, {}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
