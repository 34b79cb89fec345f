"""Score pictures against a layout: ``python tools/run.py shapes.score IMAGE... --layout FILE``.

The layout is JSON: ``{"regions": [{"phrase": "a red star", "box": [x0, y0, x1, y1]}, ...]}`` with
boxes in 0..1. Needs torch, numpy and Pillow only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..balancer.errors import RealCompoError
from .oracle import Expected, PictureScore, detect, judge
from .world import COLOURS, PLURALS, SHAPES

TOOL = "shapes.score"
SINGULARS = {many: one for one, many in PLURALS.items()}


def expected_from_regions(regions: Sequence[dict[str, Any]]) -> list[Expected]:
    """Regions of a layout as the oracle's expectations.

    Raises ``RealCompoError`` if a phrase does not name exactly one known colour and one known
    shape, or a box is not four numbers with x0 < x1 and y0 < y1.
    """
    expected = []
    for number, region in enumerate(regions, 1):
        where = f"regions[{number - 1}]"
        phrase, box = region.get("phrase"), region.get("box")
        said = str(phrase).lower().replace(",", " ").split()
        words = [SINGULARS.get(word, word) for word in said]
        colours = [w for w in words if w in COLOURS]
        shapes = [w for w in words if w in SHAPES]
        if len(colours) != 1 or len(shapes) != 1:
            raise RealCompoError(
                where,
                f"the phrase {phrase!r} does not name one colour and one shape of the demo",
                f"Use one of {', '.join(COLOURS)} and one of {', '.join(SHAPES)}",
                TOOL,
            )
        try:
            x0, y0, x1, y1 = (float(v) for v in box)  # pyright: ignore[reportOptionalIterable]
        except (TypeError, ValueError):
            x0 = y0 = x1 = y1 = 0.0
        if not (x0 < x1 and y0 < y1):
            raise RealCompoError(
                where, f"the box {box!r} has no area", "Give [x0, y0, x1, y1] in 0..1", TOOL
            )
        expected.append(Expected(colours[0], shapes[0], (x0, y0, x1, y1)))
    return expected


def score_picture(image: Any, layout_regions: Sequence[dict[str, Any]]) -> PictureScore:
    """Verdict on one picture.

    ``image``: a PIL image, or a tensor or array (H, W, 3), (1, H, W, 3) as ComfyUI's IMAGE, or
    (3, H, W), in 0..1. ``layout_regions``: the ``regions`` of a layout as dictionaries.
    """
    expected = expected_from_regions(layout_regions)
    return judge(detect(_as_tensor(image)[None])[0], expected)


def _as_tensor(image: Any) -> Tensor:
    """(3, H, W) in 0..1."""
    if hasattr(image, "convert"):
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).movedim(-1, 0) / 255
    picture = torch.as_tensor(image).float()
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim == 3 and picture.shape[-1] == 3:
        picture = picture.movedim(-1, 0)
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise RealCompoError(
            "image",
            f"a tensor of shape {tuple(picture.shape)} is not one RGB picture",
            "Give (H, W, 3) or (3, H, W)",
            TOOL,
        )
    return picture


def main(argv: list[str]) -> int:
    """Print one line per picture, or JSON with ``--json``; 0 if every object is right, else 1."""
    from PIL import Image

    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--layout", required=True, type=Path)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    choice = parser.parse_args(argv)
    try:
        regions = json.loads(choice.layout.read_text(encoding="utf-8"))["regions"]
        scores = {}
        for path in choice.images:
            with Image.open(path) as image:
                scores[str(path)] = score_picture(image, regions)
    except (OSError, KeyError, TypeError, ValueError) as error:
        sys.stderr.write(f"{TOOL}: {error}\n")
        return 2
    if choice.json:
        text = json.dumps({name: asdict(score) for name, score in scores.items()}, indent=2)
        sys.stdout.write(text + "\n")
    else:
        for name, score in scores.items():
            right = sum(o.right for o in score.objects)
            sys.stdout.write(
                f"{name}: {right}/{len(score.objects)} right, {len(score.found)} seen\n"
            )
            for region, verdict in zip(regions, score.objects, strict=True):
                holds = ", ".join(
                    key for key in ("right", "colour", "shape", "present") if getattr(verdict, key)
                )
                sys.stdout.write(
                    f"  {region['phrase']}: {holds or 'missing'} (IoU {verdict.iou:.2f})\n"
                )
    return 0 if all(s.all_right for s in scores.values()) else 1
