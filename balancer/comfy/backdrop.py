"""A picture laid aside where the page can fetch it, for an editor to draw on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from torch import Tensor

from ..layouts.layout import Layout
from ..pictures.layout import backdrop, preview_size

LONGEST_SIDE = 1024
"""Pixels; an editor on a node shows no more."""


def save_backdrop(image: Tensor) -> dict[str, str]:
    """Save the first picture of ``image`` (B, H, W, C) in 0..1 among the host's temporary files.

    Returns what the host's ``/view`` takes: ``filename``, ``subfolder``, ``type``. One picture is
    one file, however often it is saved. Raises RealCompoError for something that is no picture.
    """
    import folder_paths
    from PIL import Image

    width, height = preview_size(Layout(()), image)
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    plane = backdrop(image, max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = (plane.numpy() * 255.0).round().astype(np.uint8)
    name = f"realcompo_backdrop_{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        Image.fromarray(pixels).save(folder / name, compress_level=4)
    return {"filename": name, "subfolder": "", "type": "temp"}
