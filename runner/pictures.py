"""Files that a row made: whole pictures, or the row has failed.

They come from nodes of others and over the network. Each is decoded before it counts, within a
bound that is looked at first.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import PurePosixPath
from typing import Any

from .errors import RowError, one_line, shown
from .job import Picture

PICTURES = {
    ".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff",
}  # fmt: skip
"""Suffixes of files that must be whole pictures; others may be (.avif), or are videos, latents."""
BEGINNINGS = ("\x89PNG", "\xff\xd8", "GIF8", "RIFF", "BM", "II*", "MM")
LARGEST_PICTURE = 1 << 27
"""Pixels, 11585 x 11585; the decoded picture takes eight bytes for each while it is hashed."""
LARGEST_FILE = 1 << 29
"""Bytes of one file; the largest are videos."""
LARGEST_ROW = 1 << 30
"""Bytes of all files of a row, which are in memory at once."""
MOST_FILES = 4096
"""Files of one row."""
SUFFIX = re.compile(r"\.[a-z0-9]{1,16}")


def as_picture(node: str, entry: dict[str, Any], data: bytes) -> Picture:
    """One file of a run with the hash of its pixels. Raises ``RowError`` for a file that is empty
    or broken, or has a name that no file can have."""
    name = entry.get("filename")
    suffix = PurePosixPath(name).suffix.lower() if isinstance(name, str) else None
    if suffix is None or (suffix and not SUFFIX.fullmatch(suffix)):
        raise RowError(f"node {node}: {shown(name)} is no name of a file")
    try:
        return Picture(node, suffix, data, pixel_hash(data, suffix in PICTURES))
    except RowError as error:
        raise RowError(f"node {node}: {shown(name)} {error}", error.again) from None


def pixel_hash(data: bytes, must: bool = False) -> str:
    """SHA-256 of a picture's mode, size and pixels (of its first frame, if it moves).

    '' for what is no picture that Pillow reads, unless it ``must`` be one. Raises ``RowError``
    (the end of a sentence that begins with the file's name) for one that is broken, that must be
    a picture and is none, or that has more than ``LARGEST_PICTURE`` pixels. But for the last, it
    is drawn ``again``: its way here may have broken it.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise RowError("is an empty file", again=True)
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > LARGEST_PICTURE:
                raise RowError(_too_large(f"{width} x {height}"))
            about = f"{image.mode} {image.size} ".encode()
            pixels = image.tobytes()
            if not pixels:
                raise RowError("is a picture without pixels", again=True)
            if image.format and _is_cut(image.format, data):
                raise RowError("is a picture that is cut off", again=True)
            return hashlib.sha256(about + pixels).hexdigest()
    except RowError:
        raise
    except UnidentifiedImageError:
        if must:
            begins = data[:16].decode("latin-1")
            said = f"is no picture: it begins with {shown(begins)}"
            if begins.startswith(BEGINNINGS):
                said = "is a picture that is cut off at its beginning"
            raise RowError(said, again=True) from None
        return ""
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RowError(_too_large("more")) from None
    except Exception as error:  # of a dozen kinds, by which byte is wrong
        if must:
            raise RowError(f"is a broken picture ({one_line(error)})", again=True) from None
        return ""


def _too_large(size: str) -> str:
    return f"is a picture of {size} pixels, and up to {LARGEST_PICTURE} in all are read"


def _is_cut(kind: str, data: bytes) -> bool:
    """Whether the end of a file is missing: Pillow may be set to fill up what is not there, and
    of a moving picture it reads the first frame only."""
    if kind == "PNG":
        return b"IEND\xae\x42\x60\x82" not in data[-(1 << 16) :]
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    return False
