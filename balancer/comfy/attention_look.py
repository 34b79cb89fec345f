"""Look at where one model's words attend, at chosen noise levels, without changing the model.

No gradients and no early stop: each look is an ordinary prediction, in which readers stand at the
cross-attention sites. What other packs put there stays in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention_maps import RegionMaps, attention_output
from ..errors import RealCompoError
from ..layout import Layout
from ..reading import Reading, SiteMap, columns_of
from ..regions import LayoutBatch, Tokens
from .attention.map_rows import watching_rows
from .attention.unet import MapReader, Site, choose_level, entry_area, find_sites, plain_map
from .cards import on_one_card, without_copies
from .checks import check_tokens, model_name, refuse_nested
from .compat import attend
from .input_values import check_conditioning
from .latents import fitted_samples
from .prediction import active_entry
from .probe import in_whole


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
    _check_latent(patcher, samples)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sampling = patcher.get_model_object("model_sampling")
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    sigmas = [min(max(float(sampling.percent_to_sigma(level)), low), high) for level in levels]
    guider = _Looker(patcher, positive, sites, LayoutBatch.of(layout, tokens))
    bar = comfy.utils.ProgressBar(len(sigmas))
    guider.sample(
        noise, samples, _EachLevel(), torch.tensor([*sigmas, 0.0]),
        callback=lambda *_: bar.update(1), disable_pbar=True, seed=seed,
    )  # fmt: skip
    columns = tuple(columns_of(seen, grouping, layout) for seen in guider.seen)
    return Reading(tuple(levels), tuple(sigmas), columns)


def chosen_sites(patcher: ModelPatcher, map_level: str) -> tuple[Site, ...]:
    """The sites of a level of ``choose_level``, or of ``all``; RealCompoError where none is."""
    sites = find_sites(patcher.get_model_object("diffusion_model"))
    if not sites:
        raise RealCompoError(
            "model", f"'{model_name(patcher)}' has no cross-attention maps to read",
            "Use a U-Net model such as SD1.5 or SDXL.",
        )  # fmt: skip
    if map_level == "all":
        return sites
    try:
        factor = choose_level(sites, map_level)
    except RealCompoError as error:
        raise error.at("", "map_level") from None
    return tuple(site for site in sites if site.factor == factor)


def _check_latent(patcher: ModelPatcher, samples: Tensor) -> None:
    channels = patcher.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise RealCompoError(
            "latent_image", f"the latent has the shape {tuple(samples.shape)}",
            f"Connect a picture's latent of this model, with {channels} channels.",
        )  # fmt: skip


class _EachLevel(comfy.samplers.Sampler):
    """The host's sampler interface: one prediction at each noise level, nothing carried over."""

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
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
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        entry = active_entry(self.conds.get("positive", []), float(timestep[0]))
        if entry is None:
            raise RealCompoError(
                "positive", f"no conditioning is in force at noise level {float(timestep[0]):.3g}",
                "Choose noise levels inside its range of timesteps.",
            )  # fmt: skip
        found: dict[Site, Tensor] = {}
        options = self._with_readers(model_options or {}, found)
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
                SiteMap(_name(site), site.key[2], in_whole(maps, x, area, site.factor).cpu())
                for site, maps in found.items()
            ]
        )
        return out

    def _with_readers(
        self, model_options: dict[str, Any], found: dict[Site, Tensor]
    ) -> dict[str, Any]:
        """A copy of the options with a reader at every site; what stood there is still called."""
        options = on_one_card(model_options)
        inner = watching_rows(options.get("transformer_options", {}))
        options["transformer_options"] = inner
        replaced = inner["patches_replace"] = dict(inner.get("patches_replace", {}))
        existing = replaced.get("attn2", {})
        patches = replaced["attn2"] = dict(existing)
        for site in self._sites:
            other = existing.get(site.key, existing.get(site.key[:2]))
            maps = RegionMaps(torch.zeros(0, 0))  # every site makes its own
            patches[site.key] = _SiteReader(
                maps, site.factor, other, None, site=site, regions=self._regions, found=found
            )
        return options


@dataclass
class _SiteReader(MapReader):
    """Reads one site's map by itself, and leaves the result as it was.

    A ``MapReader``, so that what bends attention tells it the map that is really used.
    """

    site: Site | None = None
    regions: LayoutBatch | None = None
    found: dict[Site, Tensor] = field(default_factory=dict)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        assert self.site is not None and self.regions is not None
        try:
            probabilities, (own, high, wide) = self.read(query, key, extra)
        except RealCompoError as error:
            raise RealCompoError("model", error.problem, "Take that node out.") from None
        maps = RegionMaps(self.regions.token_weights(key.shape[1]).to(query.device))
        maps.add(own, high, wide)
        self.found[self.site] = maps.mean()
        if self.other is not None:
            return self.other(query, key, value, extra)
        if self.look is not plain_map:
            return attention_output(probabilities, value)
        return attend(query, key, value, extra)


def _name(site: Site) -> str:
    section, number, _ = site.key
    return section if section == "middle" else f"{section} {number}"
