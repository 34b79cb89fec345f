"""The fine stage for a batch of pictures: what is seen in each is placed, then drawn again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..passes import counting
from ..pictures import Asked, Drawn, Studio
from .fine import LATENT, NOISE, PLAIN, SHAPES_FINE, refine


def known_start(start: str) -> bool:
    """Whether pictures can be drawn again from there."""
    return start in SHAPES_FINE


def _place(start: str) -> str:
    """Noise or latent: where a kind of second drawing starts."""
    return NOISE if start == NOISE else LATENT


def fine_key(start: str) -> list[Any]:
    """What the stage's pictures depend on, beside those it starts from and their model."""
    settings = SHAPES_FINE[start]
    return [PLAIN if settings.mode == PLAIN else _place(start), asdict(settings)]


def refined(
    studio: Studio, asked: Sequence[Asked], coarse: Tensor, start: str, steps: int
) -> Drawn:
    """Pictures drawn again; ``coarse`` (N, 3, H, W) in 0..1 are those of ``asked``.

    Pictures in which nothing is seen stay as they are, and cost nothing here.
    """
    began = time.perf_counter()
    with counting([studio.realism.model.diffusion_model]) as passes:
        settings = SHAPES_FINE[start]
        pictures = refine(studio, asked, coarse, settings, _place(start), steps=steps)
    seconds = (time.perf_counter() - began) / len(asked)
    return Drawn(pictures, passes.entered / len(asked), 0.0, 0.0, seconds)
