"""Picture to latent and back: a fixed linear encoder and a small learned decoder.

The encoder is a principal component analysis of 8x8 colour patches, so latents exist before
anything is trained. The decoder adds to the linear inverse what the kept components lose: edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 8
LATENT_CHANNELS = 16
WIDTHS = (96, 64, 32)


def fit_encoder(pictures: Tensor) -> dict[str, Tensor]:
    """Principal components of the 8x8 patches of ``pictures`` (N, 3, H, W) in 0..1.

    Returns ``components`` (16, 192) and ``mean`` (192,) for pictures in -1..1, and ``scale`` (16,):
    latent channel k gets the standard deviation sqrt(sd_k / mean(sd)), so the mean variance is 1
    but coarse channels stay larger. Fully whitened latents would spend the diffusion model's
    effort on fine detail.
    """
    patches = F.unfold(pictures * 2 - 1, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    covariance = torch.cov((patches - mean).T.double())
    variance, vectors = torch.linalg.eigh(covariance)
    spread = variance.flip(0)[:LATENT_CHANNELS].clamp(min=1e-12).sqrt().float()
    components = vectors.flip(1)[:, :LATENT_CHANNELS].T.float().contiguous()
    # The sign of an eigenvector is arbitrary: fixed, so that refitting gives the same latents.
    components = components * components.sum(1, keepdim=True).sign().where(
        components.sum(1, keepdim=True) != 0, torch.ones(1)
    )
    return {
        "components": components,
        "mean": mean,
        "scale": (spread / spread.mean()).sqrt() / spread,
    }


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Refiner(nn.Module):
    """What the linear inverse misses: (B, 16, h, w) latents -> (B, 3, 8h, 8w) correction."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.enter = nn.Conv2d(LATENT_CHANNELS, a, 3, padding=1)
        self.coarse = nn.Sequential(Residual(a), Residual(a))
        self.rise_middle = nn.Conv2d(a, 4 * b, 1)
        self.middle = nn.Sequential(Residual(b), Residual(b))
        self.rise_fine = nn.Conv2d(b, 4 * c, 1)
        self.fine = nn.Sequential(Residual(c), Residual(c))
        self.leave = nn.Conv2d(c, 12, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, latent: Tensor) -> Tensor:
        """Correction in the -1..1 scale of pictures."""
        x = self.coarse(self.enter(latent))
        x = self.middle(F.pixel_shuffle(self.rise_middle(x), 2))
        x = self.fine(F.pixel_shuffle(self.rise_fine(x), 2))
        return F.pixel_shuffle(self.leave(F.silu(x)), 2)


class ShapesCodec(nn.Module):
    """Encoder and decoder with the two methods that ComfyUI's VAE calls.

    Pictures are (B, 3, H, W) in -1..1 with sides divisible by 8, latents (B, 16, H/8, W/8).
    """

    components: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.register_buffer("components", torch.zeros(LATENT_CHANNELS, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(LATENT_CHANNELS))
        self.refiner = Refiner()

    def encode(self, pictures: Tensor) -> Tensor:
        """Exact projection on the principal components; deterministic, nothing learned."""
        weight = (self.components * self.scale[:, None]).view(-1, 3, PATCH, PATCH)
        bias = -(weight.flatten(1) @ self.mean)
        return F.conv2d(pictures, weight, bias, stride=PATCH)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """Least-squares inverse of ``encode``: the picture within the kept components."""
        weight = (self.components / self.scale[:, None]).view(-1, 3, PATCH, PATCH)
        _, _, rows, columns = latents.shape
        mean = self.mean.view(1, 3, PATCH, PATCH).repeat(1, 1, rows, columns)
        return F.conv_transpose2d(latents, weight, stride=PATCH) + mean

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures in about -1..1 (not clamped)."""
        return self.decode_linear(latents) + self.refiner(latents)

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 of latents."""
        return ((self.decode(latents) + 1) / 2).clamp(0, 1)

    def preview_factors(self) -> tuple[Tensor, Tensor]:
        """(16, 3) factors and (3,) bias: mean colour (-1..1) of a latent cell's patch, exactly."""
        patch_mean = (self.components / self.scale[:, None]).view(-1, 3, PATCH * PATCH).mean(2)
        return patch_mean, self.mean.view(3, -1).mean(1)
