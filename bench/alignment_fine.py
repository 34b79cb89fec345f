"""The fine stage for a batch of pictures: what is seen in each is placed, then drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .pictures import Asked, Drawn, Studio

STARTS: tuple[str, ...] = ()


def known_start(start: str) -> bool:
    """Whether pictures can be drawn again from there."""
    return start in STARTS


def fine_key(start: str) -> list[Any]:
    """What the stage's pictures depend on, beside those it starts from and their model."""
    return [start]


def refined(
    studio: Studio, asked: Sequence[Asked], coarse: Tensor, start: str, steps: int
) -> Drawn:
    """Pictures drawn again; ``coarse`` (N, 3, H, W) in 0..1 are those of ``asked``."""
    raise NotImplementedError
