"""Sampling a latent with a guider, the way the host's KSampler node does with a model."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from ..host.latents import fitted_samples, sampled_latent
from .guider import RealCompoGuider


def sample_pair(
    guider: RealCompoGuider,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float,
) -> dict[str, Any]:
    """Denoise ``latent`` (the host's LATENT) and return a new one.

    Noise, sigmas, mask, previews and progress are those of the host's KSampler, so that a pair
    whose mix is all one model gives that model's own picture.
    """
    patcher = guider.model_patcher
    samples = fitted_samples(patcher, latent)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    schedule = comfy.samplers.KSampler(
        patcher, steps=steps, device=patcher.load_device, sampler=sampler_name,
        scheduler=scheduler, denoise=denoise, model_options=patcher.model_options,
    )  # fmt: skip
    result = guider.sample(
        noise, samples, comfy.samplers.sampler_object(sampler_name), schedule.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(patcher, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )  # fmt: skip
    return sampled_latent(latent, result)
