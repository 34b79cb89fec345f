"""Packs that exchange functions of the host's sampler, and so act on whatever it samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher

from ...errors import RealCompoError

_SAMPLERS = comfy.samplers.__name__


def check_hooks(
    realism: ModelPatcher, spatial: ModelPatcher, conds: tuple[Iterable[Any], Iterable[Any]]
) -> None:
    """Raise RealCompoError where a pack that has exchanged functions of the host's sampler is on
    one model, and would take the other model's ControlNet for that one's.

    ``conds`` are each model's conditionings. What such functions get is the run's, not one
    model's; tiles with ControlNets of their own are made so.
    """
    hooking = {_package(function) for function in _exchanged()}
    on = [_packages(patcher) & hooking for patcher in (realism, spatial)]
    for number, where in enumerate(("realism_model", "spatial_model")):
        alone = on[number] - on[1 - number]
        if alone and any("control" in extra for _, extra in conds[1 - number]):
            name = sorted(alone)[0].replace("\\", "/").rpartition("/")[2]
            raise RealCompoError(
                where, f"'{name}' changes ComfyUI's sampler for this model, and with it the other"
                " model's ControlNet", "Apply it to both models, or take it or the ControlNet out.",
            )  # fmt: skip


def _exchanged() -> list[Any]:
    names = ("get_area_and_mult", "calc_cond_batch", "sampling_function")
    functions = [getattr(comfy.samplers, name) for name in names]
    functions.append(comfy.samplers.KSAMPLER.sample)
    return [one for one in functions if getattr(one, "__module__", _SAMPLERS) != _SAMPLERS]


def _packages(patcher: ModelPatcher) -> set[str]:
    """Where the functions come from that stand around or behind a model's calls."""
    options = patcher.model_options
    functions = [
        options.get("model_function_wrapper"),
        *options.get("sampler_pre_cfg_function", []),
        *options.get("sampler_post_cfg_function", []),
    ]
    return {_package(one) for one in functions if one is not None}


def _package(thing: Any) -> str:
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return module.rpartition(".")[0] or module
