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

from .errors import RealCompoError

LARGEST_SIDE = 16384
"""Bound on a mask's sides, so that a broken file cannot ask for all memory."""


def _refuse(problem: str, remedy: str) -> RealCompoError:
    return RealCompoError("layout", problem, remedy)


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
        for side in (self.height, self.width):
            if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= LARGEST_SIDE:
                raise _refuse(
                    f"a mask has the size {self.height!r} x {self.width!r}",
                    f"Its sides are whole numbers from 1 to {LARGEST_SIDE}",
                )
        if not isinstance(self.data, bytes) or len(self.data) != self.height * self.width:
            raise _refuse(
                f"a mask of {self.height} x {self.width} does not fit its data",
                "Give one byte for each pixel",
            )
        if not any(self.data):
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
        if not isinstance(height, int) or not isinstance(width, int) or not isinstance(text, str):
            raise _refuse("a mask lacks its size or its data", remedy)
        if not 0 < height <= LARGEST_SIDE or not 0 < width <= LARGEST_SIDE:
            raise _refuse(f"a mask has the size {height} x {width}", remedy)
        try:
            # One byte more than wanted is enough to notice data that does not fit.
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(text, validate=True), height * width + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise _refuse(f"a mask's data cannot be unpacked ({error})", remedy) from None
        return cls(height, width, data)
