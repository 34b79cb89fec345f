"""A sampler of the host that is one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
from torch import Tensor


class FunctionSampler(comfy.samplers.Sampler):
    """The host's sampler interface around ``run(model_wrap, sigmas, extra_args, callback, noise,
    latent_image)``, which returns the latent (B, C, H, W).

    ``model_wrap`` is the guider, ``noise`` and ``latent_image`` are as the host prepares them.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
        noise: Tensor, latent_image: Any = None, denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """The host's call: ``noise`` (B, C, H, W) along ``sigmas`` (steps + 1,) to a latent."""
        return self._run(model_wrap, sigmas, extra_args, callback, noise, latent_image)
