"""How a captioner's pictures are prepared, as its folder says: size and colours.

With torch and not the library's own code, so that gradients reach the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RealCompoError, shown
from .model_folders import read_settings

LARGEST_EDGE = 4096
"""Pixels that each edge of a captioner's picture may have."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Red, green, blue as CLIP has them: what holds where a folder says nothing."""
_MOST_MEAN, _LEAST_STD = 1000.0, 1e-6
_REMEDY = "Download preprocessor_config.json again, as the model's makers wrote it"


@dataclass(frozen=True)
class Preparation:
    """How pictures of 0..1 become what the model was trained on."""

    size: tuple[int, int]
    """Height and width in pixels, cut out of the middle."""
    shortest: int | None
    """Shorter edge in pixels before the cut; None: pictures are squeezed to ``size``."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 3, height, width), normalised; differentiable."""
        size = self.size
        if self.shortest is not None:
            scale = self.shortest / min(pictures.shape[2:])
            height, width = (
                max(round(edge * scale), least)
                for edge, least in zip(pictures.shape[2:], self.size, strict=True)
            )
            size = (height, width)
        if tuple(pictures.shape[2:]) != size:
            # bicubic overshoots at edges; the models never saw values outside 0..1
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((s - w) // 2 for s, w in zip(size, self.size, strict=True))
        pictures = pictures[..., top : top + self.size[0], left : left + self.size[1]]
        mean, std = (
            torch.tensor(values, device=pictures.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pictures - mean) / std


def picture_settings(folder: Path, where: str) -> dict[str, Any]:
    """The folder's file on pictures, {} if there is none; RealCompoError at ``where`` if bad."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            return read_settings(folder / name, where)
    return {}


def read_preparation(folder: Path, config: dict[str, Any], where: str) -> Preparation:
    """How the captioner in ``folder`` takes pictures; ``config`` is the folder's config.json.

    Raises RealCompoError at ``where`` for sizes outside 1..``LARGEST_EDGE`` pixels, colours that
    cannot be, and a folder that names no size.
    """
    settings = picture_settings(folder, where)
    inner = settings.get("image_processor", settings)
    settings = inner if isinstance(inner, dict) else {}
    cropped = "crop_size" if settings.get("do_center_crop") else "size"
    size: Any = settings.get(cropped)
    if not size:
        vision = config.get("vision_config")
        size = vision.get("image_size") if isinstance(vision, dict) else None
    if isinstance(size, dict):
        size = (size.get("height", size.get("shortest_edge")), size.get("width"))
    if isinstance(size, (int, float)):
        size = (size, size)
    if not isinstance(size, (list, tuple)) or not size or not size[0]:
        raise RealCompoError(
            where, f"'{folder.name}' does not say what size its pictures have",
            "Download preprocessor_config.json too",
        )  # fmt: skip
    whole = settings.get("size")
    shortest = whole.get("shortest_edge") if isinstance(whole, dict) else None
    try:
        if len(size) > 2:
            raise ValueError("a size is a height and a width")
        edges: Any = size
        height, width = (_edge(edge) for edge in (edges[0], edges[-1] or edges[0]))
        shortest = _edge(shortest) if shortest else None
        mean = _colours(settings.get("image_mean", CLIP_MEAN), -_MOST_MEAN)
        std = _colours(settings.get("image_std", CLIP_STD), _LEAST_STD)
    except ValueError as error:
        raise RealCompoError(
            where, f"'{folder.name}' prepares pictures in a way that cannot be: {error}", _REMEDY
        ) from None
    return Preparation((height, width), shortest, mean, std)


def _edge(value: Any) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 1 <= value <= LARGEST_EDGE or value != int(value):
        raise ValueError(f"an edge is {shown(value)}, not 1 to {LARGEST_EDGE} pixels")
    return int(value)


def _colours(value: Any, least: float) -> tuple[float, ...]:
    ok = isinstance(value, (list, tuple)) and len(value) == 3
    if not ok or not all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and least <= one <= _MOST_MEAN
        for one in value
    ):
        raise ValueError("image_mean and image_std are three numbers each, the latter above 0")
    return tuple(float(one) for one in value)
