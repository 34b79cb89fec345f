"""The host's LATENT before and after sampling, as the KSampler of each host treats it."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.model_management
import comfy.sample
from torch import Tensor

from ...errors import RealCompoError

# what the host writes on an empty latent, and takes off once it has been sampled
_MEANT_FOR = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def fitted_samples(patcher: Any, latent: dict[str, Any]) -> Any:
    """The tensor of the host's LATENT; an empty one in the shape that this model has latents in.

    Whole numbers become floats: the host draws noise of the latent's own kind, which must not be
    whole numbers. Else as the host's KSampler does it, which since 2026 knows what an empty latent
    was meant for.
    """
    fit = comfy.sample.fix_empty_latent_channels
    known = inspect.signature(fit).parameters
    meant_for = {name: latent.get(name) for name in _MEANT_FOR if name in known}
    samples = latent["samples"]
    if not samples.is_floating_point():
        samples = samples.float()
    return fit(patcher, samples, **meant_for)


def check_pictures(patcher: Any, samples: Tensor, where: str, have: str, wanted: str) -> None:
    """Raise RealCompoError unless ``samples`` are pictures' latents (N, C, H, W) of this model.

    ``where`` is the input; ``have`` begins and ``wanted`` ends what is said of them.
    """
    channels = patcher.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise RealCompoError(
            where, f"{have} the shape {tuple(samples.shape)}",
            f"Connect {wanted} of this model, with {channels} channels",
        )  # fmt: skip


def sampled_latent(latent: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    """The host's LATENT with ``samples``, (B, C, H, W) or (B, C, frames, H, W), after sampling,
    where and in the dtype that the host keeps it."""
    kept = getattr(comfy.model_management, "intermediate_dtype", lambda: samples.dtype)()
    out = {name: value for name, value in latent.items() if name not in _MEANT_FOR}
    device = comfy.model_management.intermediate_device()
    return {**out, "samples": samples.to(device=device, dtype=kept)}
