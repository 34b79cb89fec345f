"""The demo world's oracle as a metric: is every shape of the layout where it should be?"""

from __future__ import annotations

from typing import Any

from ..shapes.score import score_picture
from .metrics import regions_of

RATES = ("right", "colour", "shape", "present", "iou", "count")


def oracle(pictures: list[Any], row: dict[str, Any]) -> dict[str, list[float]]:
    """Rates 0..1 over the layout's objects, per picture (see ``shapes/oracle.py``)."""
    regions = regions_of(row)
    means = [score_picture(picture, regions).means() for picture in pictures]
    return {name: [mean[name] for mean in means] for name in RATES}
