"""Look at where one model's words attend, at chosen noise levels, without changing the model.

No gradients and no early stop: each look is an ordinary prediction, in which readers stand at the
cross-attention sites. What other packs put there stays in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.regions import LayoutBatch, Tokens
from ..attention.report import Reading, SiteMap, columns_of
from ..errors import RealCompoError
from ..layouts.layout import Layout
from .attention.entries import entry_area
from .attention.families import family_of
from .attention.family import Site, choose_level
from .host.cards import on_one_card, without_copies
from .host.function_sampler import FunctionSampler
from .host.latents import check_pictures, fitted_samples
from .inputs.checks import check_tokens, refuse_nested, require_ability
from .inputs.values import check_conditioning
from .realcompo.prediction import active_entry
from .realcompo.region_targets import in_whole


def read_attention(
    patcher: ModelPatcher,
    positive: Any,
    latent: dict[str, Any],
    layout: Layout,
    tokens: Tokens,
    seed: int,
    levels: Sequence[float],
    map_level: str,
    grouping: str,
) -> Reading:
    """Maps of every region's tokens while ``patcher`` denoises ``latent`` (the host's LATENT).

    ``levels`` are parts of the noise schedule, at each of which fresh noise of ``seed`` is put on
    the latent; ``map_level`` is a level of ``choose_level`` or ``all``; ``grouping`` one of
    ``reading.GROUPINGS``. Raises RealCompoError for models without readable cross-attention, for
    conditioning that is not in force at a level, and for inputs that do not fit together.
    """
    sites = chosen_sites(patcher, map_level)
    check_tokens(tokens, positive, "positive")
    check_conditioning(positive, "positive", patcher)
    refuse_nested(latent["samples"], "latent_image")
    samples = fitted_samples(patcher, latent)
    check_pictures(patcher, samples, "latent_image", "the latent has", "a picture's latent")
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sampling = patcher.get_model_object("model_sampling")
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    sigmas = [min(max(float(sampling.percent_to_sigma(level)), low), high) for level in levels]
    guider = _Looker(patcher, positive, sites, LayoutBatch.of(layout, tokens))
    bar = comfy.utils.ProgressBar(len(sigmas))
    guider.sample(
        noise, samples, FunctionSampler(_each_level), torch.tensor([*sigmas, 0.0]),
        callback=lambda *_: bar.update(1), disable_pbar=True, seed=seed,
    )  # fmt: skip
    columns = tuple(columns_of(seen, grouping, layout) for seen in guider.seen)
    return Reading(tuple(levels), tuple(sigmas), columns)


def chosen_sites(patcher: ModelPatcher, map_level: str) -> tuple[Site, ...]:
    """The sites of a level of ``choose_level``, or of ``all``; RealCompoError where none is."""
    sites = require_ability(patcher, "look")
    if map_level == "all":
        return sites
    try:
        factor = choose_level(sites, map_level)
    except RealCompoError as error:
        raise error.at("", "map_level") from None
    return tuple(site for site in sites if site.factor == factor)


def _each_level(
    model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
    latent_image: Tensor | None,
) -> Tensor:
    """One prediction at each noise level, nothing carried over; returns the latent as it came."""
    clean = torch.zeros_like(noise) if latent_image is None else latent_image
    sampling = model_wrap.inner_model.model_sampling
    for number, sigma in enumerate(sigmas[:-1]):
        x = sampling.noise_scaling(sigma, noise, clean, False)
        model_wrap(x, sigma.expand(x.shape[0]).contiguous(), **extra_args)
        callback(number)
    return clean


class _Looker(comfy.samplers.CFGGuider):
    """Asks for the conditional prediction of the entry in force, and keeps what its sites saw."""

    def __init__(
        self, patcher: ModelPatcher, positive: Any, sites: tuple[Site, ...], regions: LayoutBatch
    ) -> None:
        super().__init__(without_copies(patcher))
        self.inner_set_conds({"positive": positive})
        self._sites, self._regions = sites, regions
        self.seen: list[list[SiteMap]] = []

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """The host's call: the prediction (B, C, H, W) at ``x`` (B, C, H, W)."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        entry = active_entry(self.conds.get("positive", []), float(timestep[0]))
        if entry is None:
            raise RealCompoError(
                "positive", f"no conditioning is in force at noise level {float(timestep[0]):.3g}",
                "Choose noise levels inside its range of timesteps.",
            )  # fmt: skip
        found: dict[Site, Tensor] = {}
        options = on_one_card(model_options or {})
        family = family_of(self.inner_model.diffusion_model)
        options["transformer_options"] = family.observing_options(
            options.get("transformer_options", {}), self._sites, self._regions.token_weights, found
        )
        out = comfy.samplers.calc_cond_batch(
            self.inner_model, [[entry]], x, timestep, options
        )[0]  # fmt: skip
        if not found:
            raise RealCompoError(
                "model", "no cross-attention was reached while the model ran",
                "Another node has replaced this model's blocks: connect the model before it.",
            )  # fmt: skip
        area = entry_area(entry, *x.shape[-2:])
        if not all(bool(torch.isfinite(maps).all()) for maps in found.values()):
            raise RealCompoError(
                "model", f"its attention is no number at noise level {float(timestep[0]):.3g}",
                "Load it in float32 (ComfyUI's --fp32-unet), or make the latent again",
            )  # fmt: skip
        self.seen.append(
            [
                SiteMap(site.block, site.layer, in_whole(maps, x, area, site.factor).cpu())
                for site, maps in found.items()
            ]
        )
        return out

