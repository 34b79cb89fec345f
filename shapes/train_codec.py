"""Training stage 2: the codec's decoder, on clean latents of all styles."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .render import render
from .train_data import atomic_save, make_codec
from .train_run import Run
from .world import make_scenes

BATCH = 8
COUNTS = {"realistic": 2048, "plain": 1024, "sketch": 1280, "neon": 1280}
EDGE_WEIGHT = 0.5
# Diffusion models do not hit latents exactly: the decoder learns to forgive up to this much, mostly
# far less, so that clean latents still come back sharp.
LATENT_NOISE = 0.3


def _pictures(folder: Path) -> Tensor:
    """All training pictures as (N, 3, 128, 128) uint8, drawn once."""
    path = folder / "codec_pictures.pt"
    if not path.exists():
        generator = torch.Generator().manual_seed(4_000_037)
        parts = []
        for style, count in COUNTS.items():
            for _ in range(0, count, 128):
                batch = render(make_scenes(128, generator), style, generator)
                parts.append((batch * 255).round().byte())
        folder.mkdir(parents=True, exist_ok=True)
        atomic_save(torch.cat(parts), path)
    return torch.load(path)


def _edges(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return pictures.diff(dim=-1), pictures.diff(dim=-2)


def train_codec(
    folder: Path, minutes: float, steps: int | None, resume: bool, start: Path | None = None
) -> None:
    """L1 on pictures and on their differences; the encoder stays the fixed projection.

    ``start``: a checkpoint whose decoder training goes out from.
    """
    pictures = _pictures(folder)
    torch.manual_seed(41)
    codec = make_codec(folder)
    if start is not None:
        codec.load_state_dict(torch.load(start)["averaged_model"])
    run = Run("codec", folder, codec, 1.5e-3, 42, minutes, steps, resume, BATCH)
    for _ in run.steps():
        index = torch.randint(len(pictures), (BATCH,), generator=run.generator)
        target = pictures[index].float() / 127.5 - 1
        with torch.no_grad():
            latents = codec.encode(target)
            strength = torch.rand((BATCH, 1, 1, 1), generator=run.generator) ** 2 * LATENT_NOISE
            latents = latents + strength * torch.randn(latents.shape, generator=run.generator)
        guess = codec.decode(latents)
        plain = (guess - target).abs().mean()
        (wide, high), (wide_target, high_target) = _edges(guess), _edges(target)
        edge = (wide - wide_target).abs().mean() + (high - high_target).abs().mean()
        mse = float((guess.detach() - target).square().mean()) / 4
        run.update(
            plain + EDGE_WEIGHT * edge,
            {"l1": float(plain.detach()), "edge": float(edge.detach()), "mse": mse},
        )
