"""Sample grids during training: what the averaged weights draw by now."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from .codec import ShapesCodec
from .train_diffusion import Trainee, encode_scenes, sample
from .train_text import CaptionTokens, CompactText
from .world import make_scenes

COLUMNS, ROWS = 6, 2


def save_grid(
    folder: Path, name: str, model: Trainee, text: CompactText, codec: ShapesCodec
) -> None:
    """Draw twelve fixed scenes and write them as one picture."""
    from PIL import Image, ImageDraw

    scenes = make_scenes(COLUMNS * ROWS, torch.Generator().manual_seed(505))
    asked = encode_scenes(CaptionTokens(), scenes, random.Random(5))
    with torch.no_grad():
        latents = sample(model, text, asked, seed=9)
        pictures = ((codec.decode(latents) + 1) / 2).clamp(0, 1)
    size = pictures.shape[-1]
    page = pictures.view(ROWS, COLUMNS, 3, size, size).permute(0, 3, 1, 4, 2)
    array = (page.reshape(ROWS * size, COLUMNS * size, 3) * 255).byte().numpy()
    image = Image.fromarray(array)
    draw = ImageDraw.Draw(image)
    for number, scene in enumerate(scenes):
        left, top = number % COLUMNS * size, number // COLUMNS * size
        for thing in scene.objects:
            corners = [c * size for c in thing.box]
            place = [corners[0] + left, corners[1] + top, corners[2] + left, corners[3] + top]
            draw.rectangle(place, outline=thing.colour)
    (folder / "grids").mkdir(exist_ok=True)
    image.save(folder / "grids" / name)
