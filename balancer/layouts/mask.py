"""An immutable bitmap that says how much of each of its pixels belongs to a region."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RealCompoError, shown

LARGEST_SIDE = 16384
"""Bound on a mask's sides, so that a broken file cannot ask for all memory."""
MOST_PIXELS = 8 * 4096**2
"""Pixels, one byte each, of all masks of one layout: eight of 4096 x 4096, or 512 of 512 x 512. A
kilobyte of text can unpack to a megabyte, so this is counted before anything is unpacked."""


def _refuse(problem: str, remedy: str) -> RealCompoError:
    return RealCompoError("layout", problem, remedy)


def _is_side(value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 0 < value <= LARGEST_SIDE  # type: ignore[operator]


def too_many_pixels(pixels: int) -> RealCompoError:
    """What is said of masks with more than MOST_PIXELS in all."""
    return _refuse(
        f"its masks have {shown(pixels)} pixels in all, and a layout holds up to {MOST_PIXELS}",
        "Make the masks smaller (a quarter of the picture's width is plenty), or use boxes",
    )


def claimed_pixels(value: object) -> int:
    """How many pixels the mask's JSON form ``value`` says it has; nothing is unpacked.

    0 for what ``Mask.from_dict`` will refuse.
    """
    if not isinstance(value, Mapping):
        return 0
    height, width = value.get("height"), value.get("width")
    if not isinstance(height, int) or not isinstance(width, int):
        return 0
    return height * width if _is_side(height) and _is_side(width) else 0


@dataclass(frozen=True)
class Mask:
    """Coverage of ``height`` x ``width`` pixels, row-major, one byte each (0 none, 255 full).

    The mask spans the whole image whatever its own resolution is. Raises RealCompoError if the
    sizes do not fit the data or if nothing is covered.
    """

    height: int
    width: int
    data: bytes

    def __post_init__(self) -> None:
        if not _is_side(self.height) or not _is_side(self.width):
            raise _refuse(
                f"a mask has the size {shown(self.height)} x {shown(self.width)}",
                f"Its sides are whole numbers from 1 to {LARGEST_SIDE}",
            )
        if self.height * self.width > MOST_PIXELS:
            raise too_many_pixels(self.height * self.width)
        if not isinstance(self.data, bytes) or len(self.data) != self.height * self.width:
            raise _refuse(
                f"a mask of {self.height} x {self.width} does not fit its data",
                "Give one byte for each pixel",
            )
        if not self.array().any():
            raise _refuse("a mask is empty", "Paint the region's place, or use a box")

    def array(self) -> np.ndarray:
        """Read-only uint8 array (height, width)."""
        return np.frombuffer(self.data, dtype=np.uint8).reshape(self.height, self.width)

    def tensor(self) -> Tensor:
        """Coverage as float32 (height, width) in 0..1."""
        return torch.from_numpy(self.array().astype(np.float32)) / 255.0

    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest box x0, y0, x1, y1 in 0..1 around all pixels that are at least half covered.

        A feathered edge therefore does not widen the box; a mask that is nowhere half covered is
        bounded by every pixel above zero.
        """
        inside = self.array() >= 128
        if not inside.any():
            inside = self.array() > 0
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        return (
            float(columns[0]) / self.width,
            float(rows[0]) / self.height,
            float(columns[-1] + 1) / self.width,
            float(rows[-1] + 1) / self.height,
        )

    @classmethod
    def from_tensor(cls, values: Tensor) -> Mask:
        """Mask of a float (0..1) or bool tensor (h, w) or (1, h, w), rounded to 256 levels.

        Raises RealCompoError for another shape, values outside 0..1, NaN and empty masks.
        """
        plane = values.detach()
        if plane.ndim == 3 and plane.shape[0] == 1:
            plane = plane[0]
        if plane.ndim != 2:
            raise _refuse(
                f"a mask has the shape {tuple(values.shape)}", "Give one mask of height x width"
            )
        if plane.numel() > MOST_PIXELS:
            raise too_many_pixels(plane.numel())
        plane = plane.to(device="cpu", dtype=torch.float32)
        if not bool(torch.isfinite(plane).all()) or plane.min() < 0 or plane.max() > 1:
            raise _refuse("a mask has values outside 0..1", "Give shares of coverage, 0 to 1")
        packed = (plane * 255.0).round().to(torch.uint8).contiguous().numpy()
        return cls(int(plane.shape[0]), int(plane.shape[1]), packed.tobytes())

    def to_dict(self) -> dict[str, Any]:
        """``{"height", "width", "data"}`` with the bytes zlib-packed in base64."""
        packed = base64.b64encode(zlib.compress(self.data, 9)).decode("ascii")
        return {"height": self.height, "width": self.width, "data": packed}

    @classmethod
    def from_dict(cls, value: object) -> Mask:
        """Inverse of ``to_dict``; raises RealCompoError for anything else."""
        remedy = "Give 'height', 'width' and 'data' as this pack writes them"
        if not isinstance(value, Mapping):
            raise _refuse(f"a mask is {type(value).__name__}", remedy)
        height, width, text = value.get("height"), value.get("width"), value.get("data")
        if height is None or width is None or not isinstance(text, str):
            raise _refuse("a mask lacks its size or its data", remedy)
        if not _is_side(height) or not _is_side(width):
            raise _refuse(f"a mask has the size {shown(height)} x {shown(width)}", remedy)
        if height * width > MOST_PIXELS:
            raise too_many_pixels(height * width)
        try:
            # One byte more than wanted is enough to notice data that does not fit.
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(text, validate=True), height * width + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise _refuse(f"a mask's data cannot be unpacked ({error})", remedy) from None
        return cls(height, width, data)
