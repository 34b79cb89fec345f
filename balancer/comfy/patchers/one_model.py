"""Two patchers of one model: do they differ, can they share it, and what is loaded for both."""

from __future__ import annotations

import uuid
from typing import Any

from comfy.model_patcher import ModelPatcher

from .layer_functions import adds_by_itself, is_packed, layer_of
from .patch_parts import Part, bytes_of, part_of, same, split

# the host's own ways to load and patch; other packs' patchers may have theirs (GGUF)
_WAYS = ("load", "patch_model", "unpatch_model", "patch_weight_to_device", "partially_load")


def differ(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two patchers of one model want different weights or objects in it."""
    _, own, others = parts(first, second)
    return bool(own or others or other_objects(first, second)) or not (
        _same_values(injections(first), injections(second))
        and getattr(first, "force_cast_weights", False)
        == getattr(second, "force_cast_weights", False)
    )


def parts(first: Any, second: Any) -> tuple[Part, Part, Part]:
    """What both do to the weights that both have, and what either does besides.

    Where an object patch of one brings a layer of its own, nothing can be loaded for both.
    """
    common, own, others = split(part_of(first), part_of(second))
    for name in other_objects(first, second):
        for one in (own, others):
            one.take_over(common, name)
        common.drop(name)
    return common, own, others


def other_objects(first: Any, second: Any) -> list[str]:
    """Names under which the patchers put different objects into the model."""
    ours, theirs = first.object_patches, second.object_patches
    return [
        name
        for name in dict.fromkeys([*ours, *theirs])
        if not (name in ours and name in theirs and same(ours[name], theirs[name]))
    ]


def can_take_turns(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two patchers of one model can do without a copy of it.

    Not where the weights' patches are about as large as the weights (merged models), where packed
    weights would be patched, or where another pack loads the model in its own way.
    """
    if _of_loading(first) != _of_loading(second):
        return False
    _, own, others = parts(first, second)
    keys = [*own.keys, *others.keys]
    if not keys:
        return True
    layers = [layer_of(first.model, key) for key in keys]
    own_way = any(
        getattr(type(patcher), way).__module__ != ModelPatcher.__module__
        for patcher in (first, second) for way in _WAYS
    )  # fmt: skip
    if own_way or any(is_packed(*layer) for layer in layers):
        return False
    by_host = all(adds_by_itself(*layer) for layer in layers)
    if not by_host and (own.wrappers or others.wrappers):
        return False
    weights = bytes_of(getattr(*layer) for layer in layers)
    return bytes_of(iter([*own.tensors(), *others.tensors()])) <= weights / 2


def is_dynamic(patcher: Any) -> bool:
    """Whether the host keeps this model's weights in dynamic VRAM (2026 on)."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def load_only(common: Part, first: Any, second: Any) -> None:
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


def injections(patcher: Any) -> dict[str, Any]:
    """What other packs put into the model while it is loaded (hosts of December 2024 on)."""
    return getattr(patcher, "injections", {})


def _same_values(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
