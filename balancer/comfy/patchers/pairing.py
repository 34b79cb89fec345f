"""From two models of a graph to the two patchers of a run, which may be one model's."""

from __future__ import annotations

from typing import Any

import comfy.sampler_helpers
from comfy.model_patcher import ModelPatcher

from ...errors import RealCompoError
from .copies import on_a_copy
from .one_model import can_take_turns, differ, is_dynamic
from .turns import Turns


def own_patchers(
    realism: ModelPatcher, spatial: ModelPatcher, conds: list[Any], spatial_conds: list[Any]
) -> tuple[ModelPatcher, ModelPatcher]:
    """Clones that a run may change, for conditioning as it comes from nodes.

    The host cannot hang hooks on a model in dynamic VRAM and loads such a one in the ordinary way
    for them. Here so as well, once for both branches if they have one model.
    """
    hooks = [any(map(_has_hooks, conds)), any(map(_has_hooks, spatial_conds))]
    one_model = realism.model is spatial.model
    if one_model:
        hooks = [any(hooks)] * 2
    first = _delegate(realism, "realism_model") if hooks[0] else realism.clone()
    if hooks[1] and one_model and is_dynamic(spatial):
        second = spatial.clone(  # pyright: ignore[reportCallIssue]
            disable_dynamic=True, model_override=first.get_clone_model_override()
        )
    else:
        second = _delegate(spatial, "spatial_model") if hooks[1] else spatial.clone()
    if hasattr(second, "remove_additional_models"):
        # the host would take them for the realism model's copies on other cards
        second.remove_additional_models("multigpu")
    return first, second


def _has_hooks(cond: Any) -> bool:
    native = getattr(comfy.sampler_helpers, "cond_has_hooks", None)
    return native is not None and native(cond)


def _delegate(patcher: Any, where: str) -> Any:
    """A clone in ordinary memory; the host keeps its model with the node's own patcher."""
    if not is_dynamic(patcher):
        return patcher.clone()
    try:
        return patcher.get_non_dynamic_delegate()
    except RuntimeError:
        if patcher.cached_patcher_init is not None:
            raise
        raise RealCompoError(
            where, "hooks need a model outside dynamic VRAM, and its loader cannot load it there",
            "Load it with ComfyUI's own loader, or start ComfyUI with --disable-dynamic-vram.",
        ) from None  # fmt: skip


def joined(first: ModelPatcher, second: ModelPatcher) -> tuple[ModelPatcher, Turns | None]:
    """The patcher of the second branch, and how both take turns where one model is behind them.

    ``first`` is what the host will load; with turns it is changed. Two patchers that want the very
    same of their model need neither turns nor a copy.
    """
    if first.model is not second.model or not differ(first, second):
        return second, None
    if can_take_turns(first, second):
        return second, Turns(first, second)
    return on_a_copy(second), None
