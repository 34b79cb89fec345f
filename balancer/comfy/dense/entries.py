"""DenseDiffusion in the host: which rows of a model call are modulated, and where.

The plan travels in the conditioning entry that the node returned, the model carries two wrappers
without state. Around the host's batching of entries the first notes which entries are in force and
modulated; around the model's forward the second finds their rows and lays its patches over
whatever is there. Nothing stands in the model's attention patches between calls, so that other
packs' patches may be set before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_sampling import CONST, ModelSamplingDiscrete, ModelSamplingDiscreteEDM
from torch import Tensor

from ...dense.plan import SCALE, DensePlan, View
from ...layouts.grid import Area
from ..attention.entries import entry_area
from .patch import Modulation, Rows, modulated_options

KEY = "realcompo_dense"
# where transformer_options stands among the arguments of the host's apply_model
_OPTIONS = 5


class Noted:
    """All modulations of a model call, by the host's name for an entry's rows. Not a dictionary:
    the host would merge it."""

    def __init__(self, modulations: dict[Any, Modulation], batch: int) -> None:
        self.modulations, self.batch = modulations, batch


def modulation_at(
    plan: DensePlan, sampling: Any, sigma: float, latent: tuple[int, int], area: Area | None
) -> Modulation | None:
    """The entry's modulation at noise level ``sigma``; None once the plan's part is over.

    ``latent`` is (height, width), ``area`` the entry's part of it.
    """
    settings = plan.settings
    if sigma < float(sampling.percent_to_sigma(settings.end_fraction)):
        return None
    if plan.weighting == SCALE:
        return None if plan.is_idle_scale else Modulation(plan, View(latent, area), 1.0, 0.0)
    fading = settings.fading(time_of(sampling, sigma))
    cross, within = settings.cross_strength * fading, settings.self_strength * fading
    if cross == 0.0 and within == 0.0:
        return None
    return Modulation(plan, View(latent, area), cross, within)


def time_of(sampling: Any, sigma: float) -> float:
    """t / 1000 of a noise level, in 0..1: the model's own timestep where it has the usual ones, a
    flow model's sigma, else the share of the noise schedule that is left."""
    if isinstance(sampling, CONST):
        return min(max(sigma, 0.0), 1.0)
    counted = isinstance(sampling, ModelSamplingDiscrete)
    if counted and not isinstance(sampling, ModelSamplingDiscreteEDM):
        return float(sampling.timestep(torch.tensor([sigma]))[0]) / 1000.0
    start, end = 0.0, 1.0
    for _ in range(40):
        middle = (start + end) / 2
        above = float(sampling.percent_to_sigma(middle)) > sigma
        start, end = (middle, end) if above else (start, middle)
    return 1.0 - (start + end) / 2


def _plan_of(entry: dict[str, Any]) -> DensePlan | None:
    """The entry's plan. The host makes the negative's counterpart of an area out of the positive's
    entry, with the negative's text: that is not the node's."""
    plan = entry.get(KEY)
    if plan is None:
        return None
    text, taken = entry.get("cross_attn"), entry.get("model_conds", {}).get("c_crossattn")
    if text is not None and taken is not None and taken.cond is not text:
        same = taken.cond.shape == text.shape and bool((taken.cond == text.to(taken.cond)).all())
        return plan if same else None
    return plan


def note_entries(
    executor: Callable[..., Any],
    model: Any,
    conds: list[Any],
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> Any:
    """Around the host's calc_cond_batch: say which entries are modulated, and how much.

    ``x_in`` is the latent (B, C, H, W) and ``timestep`` (B,) its noise level, a sigma.
    """
    plans = {
        (index, entry["uuid"]): (_plan_of(entry), entry_area(entry, *x_in.shape[-2:]))
        for index, entries in enumerate(conds)
        for entry in entries or ()
        if KEY in entry
    }
    modulations = {}
    if plans:
        sigma, latent = float(timestep[0]), (x_in.shape[-2], x_in.shape[-1])
        for key, (plan, area) in plans.items():
            if plan is not None:
                modulation = modulation_at(plan, model.model_sampling, sigma, latent, area)
                if modulation is not None:
                    modulations[key] = modulation
    if modulations:
        inner = {**model_options.get("transformer_options", {})}
        inner[KEY] = Noted(modulations, x_in.shape[0])
        model_options = {**model_options, "transformer_options": inner}
    return executor(model, conds, x_in, timestep, model_options)


def modulate_forward(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the model's apply_model: modulate the noted entries' rows."""
    given = args[_OPTIONS] if len(args) > _OPTIONS else kwargs.get("transformer_options", {})
    noted = given.get(KEY)
    if noted is None:
        return executor(*args, **kwargs)
    names = zip(given["cond_or_uncond"], given["uuids"], strict=True)
    rows = Rows.of([noted.modulations.get(name) for name in names], noted.batch, args[0])
    options = modulated_options(executor.class_obj.diffusion_model, given, rows)
    if len(args) > _OPTIONS:
        args = (*args[:_OPTIONS], options, *args[_OPTIONS + 1 :])
    else:
        kwargs = {**kwargs, "transformer_options": options}
    return executor(*args, **kwargs)
