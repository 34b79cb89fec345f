"""Sheets of pictures: what the averaged weights draw by now."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .codec import ShapesCodec
from .train_noise import Denoiser, sample
from .train_prompts import encode_scenes
from .train_text import CaptionTokens, CompactText
from .world import make_scenes

COLUMNS, ROWS = 6, 2


def sheet(pictures: Tensor, columns: int) -> Any:
    """A PIL image of pictures (N, 3, H, W) in 0..1, row by row; N a multiple of ``columns``."""
    from PIL import Image

    page = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    rows, height, _, width, _ = page.shape
    array = (page.reshape(rows * height, columns * width, 3) * 255).byte().numpy()
    return Image.fromarray(array)


def save_grid(
    folder: Path, name: str, model: Denoiser, text: CompactText, codec: ShapesCodec
) -> None:
    """Draw twelve fixed scenes and write them as one picture."""
    from PIL import ImageDraw

    scenes = make_scenes(COLUMNS * ROWS, torch.Generator().manual_seed(505))
    prompts = encode_scenes(CaptionTokens(), scenes, random.Random(5))
    with torch.no_grad():
        pictures = codec.pictures(sample(model, text, prompts, seed=9))
    size = pictures.shape[-1]
    image = sheet(pictures, COLUMNS)
    draw = ImageDraw.Draw(image)
    for number, scene in enumerate(scenes):
        left, top = number % COLUMNS * size, number // COLUMNS * size
        for thing in scene.objects:
            x0, y0, x1, y1 = (edge * size for edge in thing.box)
            corners = [x0 + left, y0 + top, x1 + left, y1 + top]
            draw.rectangle(corners, outline=thing.colour)
    (folder / "grids").mkdir(exist_ok=True)
    image.save(folder / "grids" / name)
