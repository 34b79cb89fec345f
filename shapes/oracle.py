"""Says which coloured shape is where in a picture. Nothing learned, so nothing to argue with.

Coloured pixels are sorted by nearest hue, cleaned by an opening, split into connected components;
a component's shape is the template that overlaps it best once both are stretched to one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .render import signed_distance
from .world import COLOURS, HUES, SHAPES, Box, Scene

SATURATION = 0.40
CHROMA = 0.14
# Smaller specks (share of the picture) are not objects: real ones cover at least 2 %.
SMALLEST_AREA = 0.006
TEMPLATE = 32
MATCH = 0.5


@dataclass(frozen=True)
class Found:
    """One object seen in a picture; ``fit`` is the overlap (IoU, 0..1) with the template."""

    colour: str
    shape: str
    box: Box
    fit: float


@dataclass(frozen=True)
class Expected:
    """One object that should be there: colour and shape name, box in 0..1."""

    colour: str
    shape: str
    box: Box


@dataclass(frozen=True)
class ObjectScore:
    """Verdict on one expected object.

    ``colour``: something of that colour fits the box (IoU over .5); ``shape``: something of that
    shape does; ``right``: one thing is both; ``present``: one thing is both, anywhere in the
    picture; ``iou``: best overlap of the box with anything of the right colour, 0..1.
    """

    colour: bool
    shape: bool
    right: bool
    present: bool
    iou: float


@dataclass(frozen=True)
class PictureScore:
    """Verdict on a picture: its objects, what was seen, whether that is the number asked."""

    objects: tuple[ObjectScore, ...]
    found: tuple[Found, ...]
    count: bool
    all_right: bool


def _components(mask: np.ndarray) -> np.ndarray:
    """Connected components (8 neighbours) of an (H, W) mask: (H, W) ids from 1, 0 where empty.

    Runs of set pixels in neighbouring rows are joined in a disjoint-set forest: objects are solid,
    so there are far fewer runs than pixels.
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    ends = np.nonzero(np.diff(padded, axis=1) == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1)).tolist()
    begins, stops = starts.tolist(), ends.tolist()
    for row in range(1, mask.shape[0]):
        above = first[row - 1]
        for run in range(first[row], first[row + 1]):
            # Runs touch when they overlap or meet at a corner.
            while above < first[row] and stops[above] < begins[run]:
                above += 1
            other = above
            while other < first[row] and begins[other] <= stops[run]:
                parent[root(other)] = root(run)
                other += 1
    labels = np.zeros(mask.shape, dtype=np.int64)
    for run, row in enumerate(rows.tolist()):
        labels[row, begins[run] : stops[run]] = root(run) + 1
    return labels


@lru_cache(maxsize=1)
def _templates() -> Tensor:
    """(5, 32, 32) masks of the shapes."""
    with torch.inference_mode(False), torch.no_grad():
        axis = (torch.arange(TEMPLATE) + 0.5) / TEMPLATE * 2 - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([signed_distance(shape, x, y) < 0 for shape in SHAPES])


def _shape_of(mask: np.ndarray) -> tuple[str, float]:
    """Shape name and overlap of a mask cropped to its bounding box; holes are filled first."""
    outside = _components(np.pad(~mask, 1, constant_values=True))
    filled = torch.from_numpy(outside != outside[0, 0])[1:-1, 1:-1].float()[None, None]
    small = F.interpolate(filled, (TEMPLATE, TEMPLATE), mode="bilinear", antialias=True)[0, 0] > 0.5
    both = (_templates() & small).sum((1, 2))
    either = (_templates() | small).sum((1, 2))
    fits = both / either
    best = int(fits.argmax())
    return SHAPES[best], float(fits[best])


def _hue_masks(pictures: Tensor) -> Tensor:
    """(N, 6, H, W): which pixels carry which colour, after a 3x3 opening."""
    high, low = pictures.amax(1), pictures.amin(1)
    chroma = high - low
    coloured = (chroma > SATURATION * high) & (chroma > CHROMA)
    red, green, blue = pictures.unbind(1)
    spread = chroma.clamp(min=1e-6)
    hue = torch.where(
        high == red,
        (green - blue) / spread % 6,
        torch.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    targets = torch.tensor([HUES[c] for c in COLOURS]).view(1, -1, 1, 1)
    distance = (hue[:, None] / 6 - targets + 0.5) % 1 - 0.5
    nearest = distance.abs().argmin(1, keepdim=True)
    masks = (nearest == torch.arange(len(COLOURS)).view(1, -1, 1, 1)) & coloured[:, None]
    eroded = -F.max_pool2d(-masks.float(), 3, 1, 1)
    return F.max_pool2d(eroded, 3, 1, 1) > 0.5


@torch.no_grad()
def detect(pictures: Tensor) -> list[list[Found]]:
    """Objects in (N, 3, H, W) pictures (0..1), one list per picture, largest first."""
    pictures = pictures.detach().float().cpu().clamp(0, 1)
    count, _, high, wide = pictures.shape
    masks = _hue_masks(pictures)
    found: list[list[tuple[int, Found]]] = [[] for _ in range(count)]
    smallest = SMALLEST_AREA * high * wide
    busy = (masks.sum((2, 3)) >= smallest).nonzero()
    for picture, colour in busy.tolist():
        labels = _components(masks[picture, colour].numpy())
        for identity, area in zip(*np.unique(labels, return_counts=True), strict=True):
            if identity == 0 or area < smallest:
                continue
            mask = labels == identity
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            left, right = int(columns[0]), int(columns[-1]) + 1
            shape, fit = _shape_of(mask[top:bottom, left:right])
            box = (left / wide, top / high, right / wide, bottom / high)
            found[picture].append((int(area), Found(COLOURS[colour], shape, box, fit)))
    return [[f for _, f in sorted(row, key=lambda entry: -entry[0])] for row in found]


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / total if total > 0 else 0.0


def judge(found: Sequence[Found], expected: Sequence[Expected]) -> PictureScore:
    """Compare what was seen with what should be there."""
    verdicts = []
    for want in expected:
        overlap = [(f, box_iou(f.box, want.box)) for f in found]
        inside = [f for f, iou in overlap if iou > MATCH]
        verdicts.append(
            ObjectScore(
                colour=any(f.colour == want.colour for f in inside),
                shape=any(f.shape == want.shape for f in inside),
                right=any(f.colour == want.colour and f.shape == want.shape for f in inside),
                present=any(f.colour == want.colour and f.shape == want.shape for f in found),
                iou=max((iou for f, iou in overlap if f.colour == want.colour), default=0.0),
            )
        )
    count = len(found) == len(expected)
    return PictureScore(
        tuple(verdicts), tuple(found), count, bool(verdicts) and all(v.right for v in verdicts)
    )


def expected_of(scene: Scene) -> list[Expected]:
    """What a scene asks for."""
    return [Expected(o.colour, o.shape, o.box) for o in scene.objects]


def judge_scenes(pictures: Tensor, scenes: Sequence[Scene]) -> list[PictureScore]:
    """Verdicts on (N, 3, H, W) pictures of N scenes."""
    return [
        judge(found, expected_of(scene))
        for found, scene in zip(detect(pictures), scenes, strict=True)
    ]


def rates(scores: Sequence[PictureScore]) -> dict[str, float]:
    """Means over objects (right, colour, shape, present, iou), pictures (count, all_right)."""
    things = [o for s in scores for o in s.objects]
    result = {
        key: sum(float(getattr(o, key)) for o in things) / max(len(things), 1)
        for key in ("right", "colour", "shape", "present", "iou")
    }
    for key in ("count", "all_right"):
        result[key] = sum(float(getattr(s, key)) for s in scores) / max(len(scores), 1)
    return result
