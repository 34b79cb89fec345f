"""Pictures that are more, or less, than they seem."""

from __future__ import annotations

import io
import random

from PIL import Image, PngImagePlugin


def bomb() -> bytes:
    """A PNG of 15000 x 15000 pixels, 28 kB."""
    buffer = io.BytesIO()
    Image.new("1", (15000, 15000)).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def talkative() -> bytes:
    """A PNG with 50 MB of text, packed."""
    about = PngImagePlugin.PngInfo()
    about.add_text("parameters", "x" * 50_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def noise() -> bytes:
    """A small PNG that does not pack, the same in every run."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (16, 16), random.Random(1).randbytes(768)).save(buffer, "PNG")
    return buffer.getvalue()
