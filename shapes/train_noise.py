"""Noise for training, what it weighs, and sampling with a model in training."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .train_prompts import Prompts, encode_empty, phrase_vectors
from .train_text import CompactText

TIMESTEPS = 1000
SNR_LIMIT = 5.0
OFFSET_NOISE = 0.15


class Denoiser(Protocol):
    """A model in training: noise (B, C, h, w) predicted for noisy latents at timesteps (B,)."""

    @property
    def has_boxes(self) -> bool:
        """Whether it is given phrases and boxes."""
        ...

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, phrases: Tensor | None, boxes: Tensor | None, /
    ) -> Tensor: ...


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's noise schedule (1000,): betas linear in their root, .00085 to .012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def add_noise(
    latents: Tensor, alpha: Tensor, generator: torch.Generator, offset: bool
) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) with the signal's share ``alpha`` (B,), and the noise in them.

    ``offset``: the noise gets a random mean per channel. Without it the mean of the start noise is
    read as the tint of an even background.
    """
    noise = torch.randn(latents.shape, generator=generator)
    if offset:
        shift = torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        noise = noise + OFFSET_NOISE * shift
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, noise


def noise_loss(guess: Tensor, noise: Tensor, snr: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square error of the noise (B, C, h, w), low noise weighed less, and without weights.

    ``snr`` (B,): signal to noise. Min-SNR weights (Hang et al. 2023, arXiv 2303.09556, Eq. 8).
    """
    weight = (SNR_LIMIT / snr).clamp(max=1.0)
    error = (guess - noise).square().mean((1, 2, 3))
    return (weight * error).mean(), error.detach().mean()


@torch.no_grad()
def sample(
    model: Denoiser,
    text: CompactText,
    prompts: Prompts,
    seed: int,
    steps: int = 25,
    guidance: float = 3.0,
) -> Tensor:
    """Latents (B, 16, 16, 16) by DDIM (Song et al. 2021, Eq. 12 with eta 0) with classifier-free
    guidance."""
    alphas = alphas_cumprod()
    count = len(prompts.tokens)
    context, meaning = text(prompts.tokens)
    empty, _ = text(encode_empty(count))
    both = torch.cat((context, empty))
    phrases = boxes = None
    if model.has_boxes:
        # As in ComfyUI, the empty prompt keeps the boxes.
        phrases = phrase_vectors(meaning, prompts).repeat(2, 1, 1)
        boxes = prompts.boxes.repeat(2, 1, 1)
    x = torch.randn((count, 16, 16, 16), generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(TIMESTEPS - 1, 0, steps).round().long()
    for step, t in enumerate(times):
        noise = model(torch.cat((x, x)), t.repeat(2 * count), both, phrases, boxes)
        conditional, unconditional = noise.chunk(2)
        noise = unconditional + guidance * (conditional - unconditional)
        now = alphas[t]
        after = alphas[times[step + 1]] if step + 1 < steps else torch.ones(())
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * noise
    return x
