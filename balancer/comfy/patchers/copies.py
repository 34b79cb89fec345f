"""A second copy of a model, by the host's own means, for branches that cannot share one.

A model in dynamic VRAM holds memory of a C library, which must have one owner only: it is loaded
from its file once more, as ComfyUI itself does it for training and for several cards.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...errors import RealCompoError
from ...log import LOG
from .one_model import is_dynamic

# by model: the patcher that owns its copy and what was backed up of it, however often a graph is
# queued; gone with the model
_copies: weakref.WeakKeyDictionary[torch.nn.Module, Any] = weakref.WeakKeyDictionary()

# what belongs to a model's weights, not to a patcher of them
_OF_THE_MODEL = (
    "model", "backup", "backup_buffers", "object_patches_backup", "pinned", "hook_backup",
)  # fmt: skip


def on_a_copy(patcher: ModelPatcher) -> ModelPatcher:
    """``patcher`` on a copy of its model; RealCompoError where the host has no way to make one."""
    shared = patcher.model
    if shared not in _copies:
        LOG.info(
            "RealCompo: both branches change one model's weights; a copy takes %.0f MiB.",
            patcher.model_size() / 2**20,
        )
        owner = _copied(patcher)
        if hasattr(owner, "parent"):
            owner.parent = None  # by its parents it would keep the model alive
        _copies[shared] = owner
    owner = _copies[shared]
    if hasattr(owner, "get_clone_model_override"):
        out = patcher.clone(model_override=owner.get_clone_model_override())  # pyright: ignore[reportCallIssue]
    else:
        out = patcher.clone()
    _move(out, owner)
    # when a patcher is gone the host goes on with its parent: the owner, in this one's place
    owner.patches, owner.patches_uuid = out.patches, out.patches_uuid
    if hasattr(out, "parent"):
        out.parent = owner
    return out


def _copied(patcher: Any) -> Any:
    if getattr(patcher, "cached_patcher_init", None) is not None:
        owner = patcher.clone(force_deepcopy=True)
        owner.hook_backup = {}
        return owner
    if is_dynamic(patcher):
        raise RealCompoError(
            "spatial_model",
            "it is the realism model with other weights, and its loader cannot load it twice",
            "Load it with ComfyUI's own loader, or start ComfyUI with --disable-dynamic-vram.",
        )
    shared = patcher.model
    _unload(shared)
    owner = patcher.clone()
    config = getattr(shared, "model_config", None)
    # the host's configuration cannot be copied, and is never changed
    owner.model = copy.deepcopy(shared, {} if config is None else {id(config): config})
    for name in _OF_THE_MODEL[1:]:
        if hasattr(owner, name):
            setattr(owner, name, set() if name == "pinned" else {})
    return owner


def _move(patcher: Any, owner: Any) -> None:
    for name in _OF_THE_MODEL:
        if hasattr(owner, name):
            setattr(patcher, name, getattr(owner, name))
    if hasattr(patcher, "cached_hook_patches"):
        patcher.cached_hook_patches = {}


def _unload(model: torch.nn.Module) -> None:
    """Take a model off the device and its patches out of its weights."""
    loaded = comfy.model_management.current_loaded_models
    for index in reversed(range(len(loaded))):
        entry = loaded[index]
        if entry.model is not None and entry.model.model is model:
            entry.model_unload()
            loaded.pop(index)
