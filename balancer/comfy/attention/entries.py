"""The part of a latent that a conditioning entry is about."""

from __future__ import annotations

from typing import Any

from ...layouts.grid import Area


def entry_area(entry: dict[str, Any], height: int, width: int) -> Area | None:
    """Height, width, top and left of a conditioning entry's part of a latent, clipped as the host
    clips; None for all of it."""
    area = entry.get("area")
    if area is None:
        return None
    half = len(area) // 2
    rows, columns = (int(size) for size in area[half - 2 : half])
    top, left = (int(offset) for offset in area[-2:])
    return min(height - top, rows), min(width - left, columns), top, left
