"""A picture on its way: the latents that a model comes by while it draws, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import comfy.samplers
import torch
from torch import Tensor

from .session import Encoded, Session


def noise_levels(session: Session, scheduler: str, steps: int) -> Tensor:
    """The host's noise levels for ``steps`` steps, the last one 0: (steps + 1,) on the device."""
    levels = comfy.samplers.calculate_sigmas(session.sampling, scheduler, steps)
    return levels.to(session.device)


def walk(
    session: Session,
    prompts: Sequence[Encoded],
    levels: Tensor,
    cfg: float = 1.0,
    empty: Encoded | None = None,
    stop: int | None = None,
) -> Iterator[Tensor]:
    """Latents (B, C, H, W) of Euler's method at every noise level before the last.

    From the session's noise; one prompt per sample. ``cfg`` above 1 needs ``empty``, what the
    unconditional prediction is encoded from. ``stop``: the number of the last level wanted.
    """
    channels = session.model.latent_format.latent_channels
    noise = session.randn(len(prompts), channels, *session.size)
    x = session.sampling.noise_scaling(levels[0], noise, torch.zeros_like(noise), True)
    last = len(levels) - 2 if stop is None else stop
    for index in range(last + 1):
        yield x
        if index < last:
            with torch.no_grad():
                sigma = levels[index].expand(len(x))
                conditional = session.predict(x, sigma, prompts)
                clean = with_guidance(session, x, sigma, conditional, cfg, empty)
                x = clean + (x - clean) * (levels[index + 1] / levels[index])


def with_guidance(
    session: Session,
    x: Tensor,
    sigma: Tensor,
    conditional: Tensor,
    cfg: float,
    empty: Encoded | None,
) -> Tensor:
    """``conditional``, the prompts' prediction at ``x`` (both (B, C, H, W)) and noise levels
    ``sigma`` (B,), with classifier-free guidance.

    The unconditional prediction is outside autograd's graph. ``conditional`` itself at ``cfg`` 1.
    """
    if cfg <= 1.0 or empty is None:
        return conditional
    with torch.no_grad():
        unconditional = session.predict(x, sigma, [empty] * len(x))
    return unconditional + cfg * (conditional - unconditional)
