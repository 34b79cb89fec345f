"""Says which coloured shape is where in a picture. Nothing learned, so nothing to argue with.

Coloured pixels are sorted by nearest hue, cleaned by an opening, split into connected components;
a component's shape is the template that overlaps it best once both are stretched to one size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .render import signed_distance
from .world import COLOURS, HUES, SHAPES, Box, Relation, Scene

SATURATION = 0.40
CHROMA = 0.14
# A glow or a coloured shadow is fainter than what casts it: pixels count as an object's from this
# share of the strongest chroma in the picture on.
GLOW = 0.34
# Smaller specks (share of the picture) are not objects: real ones cover at least 2 %.
SMALLEST_AREA = 0.006
TEMPLATE = 32
MATCH = 0.5
# A relation needs this much of an offset (share of the picture's side): level is not 'left of'.
OFFSET = 0.05
OBJECT_KEYS = ("right", "colour", "shape", "present", "iou", "place")
PICTURE_KEYS = ("count", "binding", "all_right")


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
    picture; ``iou``: best overlap of the box with anything of the right colour, 0..1. Objects of
    one colour and shape are told apart by their boxes: no thing counts for two of them.
    """

    colour: bool
    shape: bool
    right: bool
    present: bool
    iou: float

    @property
    def place(self) -> float:
        """How well the object fills its box: its ``iou``."""
        return self.iou


@dataclass(frozen=True)
class PictureScore:
    """Verdict on a picture: its objects, what was seen, and what holds of the whole.

    ``count``: as many things as asked for; ``binding``: the (colour, shape) pairs seen are those
    asked for, wherever and however often; ``relation``: the spatial relation asked for holds, None
    where none was asked for.
    """

    objects: tuple[ObjectScore, ...]
    found: tuple[Found, ...]
    count: bool
    all_right: bool
    binding: bool
    relation: bool | None = None

    def means(self) -> dict[str, float]:
        """The picture's own rates by the keys of ``rates``; nan where nothing was asked for."""
        result = {
            key: _mean([float(getattr(thing, key)) for thing in self.objects])
            for key in OBJECT_KEYS
        }
        result |= {key: float(getattr(self, key)) for key in PICTURE_KEYS}
        return result | {"relation": math.nan if self.relation is None else float(self.relation)}


def _mean(values: Sequence[float]) -> float:
    """Mean, nan of nothing."""
    return sum(values) / len(values) if values else math.nan


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
    strongest = (masks * chroma[:, None]).amax((1, 2, 3), keepdim=True)
    masks &= chroma[:, None] >= GLOW * strongest
    eroded = -F.max_pool2d(-masks.float(), 3, 1, 1)
    return F.max_pool2d(eroded, 3, 1, 1) > 0.5


def detect(pictures: Tensor) -> list[list[Found]]:
    """Objects in (N, 3, H, W) pictures (0..1), one list per picture, largest first."""
    return [[found for found, _ in row] for row in detect_masks(pictures)]


@torch.no_grad()
def detect_masks(pictures: Tensor) -> list[list[tuple[Found, Tensor]]]:
    """As ``detect``, each object with its pixels: bool (H, W), holes and all."""
    pictures = pictures.detach().float().cpu().clamp(0, 1)
    count, _, high, wide = pictures.shape
    masks = _hue_masks(pictures)
    found: list[list[tuple[int, Found, Tensor]]] = [[] for _ in range(count)]
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
            thing = Found(COLOURS[colour], shape, box, fit)
            found[picture].append((int(area), thing, torch.from_numpy(mask)))
    return [[entry[1:] for entry in sorted(row, key=lambda entry: -entry[0])] for row in found]


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / total if total > 0 else 0.0


def _assign(wanted: Sequence[Box], things: Sequence[Found]) -> list[float | None]:
    """Give every wanted box a thing of its own, as many as there are, for the largest sum of IoU.

    Returns the IoU of each box with its thing, None where no thing was left. For n boxes only the
    n best things of each need a look: where a box has a worse one, one of its n best is free.
    """
    overlaps = [[box_iou(thing.box, box) for thing in things] for box in wanted]
    if len(wanted) == 1:
        return [max(overlaps[0], default=None)]
    options: list[list[int | None]] = [
        [*sorted(range(len(things)), key=row.__getitem__, reverse=True)[: len(wanted)], None]
        for row in overlaps
    ]
    best: tuple[float, list[float | None]] = (-1.0, [None] * len(wanted))
    for choice in product(*options):
        taken = [thing for thing in choice if thing is not None]
        if len(set(taken)) < len(taken):
            continue
        given = [None if t is None else row[t] for row, t in zip(overlaps, choice, strict=True)]
        # One more thing given always outweighs the overlaps.
        value = len(taken) * (len(wanted) + 1) + sum(iou for iou in given if iou is not None)
        if value > best[0]:
            best = (value, given)
    return best[1]


def _holds(found: Sequence[Found], expected: Sequence[Expected], relation: Relation) -> bool:
    """Whether the largest thing of each kind lies as asked; ``found`` is largest first."""
    centres = []
    for index in (relation.first, relation.second):
        want = expected[index]
        for thing in found:
            if (thing.colour, thing.shape) == (want.colour, want.shape):
                x0, y0, x1, y1 = thing.box
                centres.append(((x0 + x1) / 2, (y0 + y1) / 2))
                break
        else:
            return False
    (x, y), (other_x, other_y) = centres
    across, down = other_x - x, other_y - y
    offsets = {"left": across, "right": -across, "above": down, "below": -down}
    return offsets[relation.place] > OFFSET


def judge(
    found: Sequence[Found], expected: Sequence[Expected], relation: Relation | None = None
) -> PictureScore:
    """Compare what was seen with what should be there.

    ``relation`` names two of ``expected``, of different colour or shape, by their places in it.
    """
    pairs = [(want.colour, want.shape) for want in expected]
    verdicts: list[ObjectScore | None] = [None] * len(expected)
    for colour, shape in dict.fromkeys(pairs):
        group = [i for i, pair in enumerate(pairs) if pair == (colour, shape)]
        boxes = [expected[i].box for i in group]
        coloured = _assign(boxes, [f for f in found if f.colour == colour])
        shaped = _assign(boxes, [f for f in found if f.shape == shape])
        both = _assign(boxes, [f for f in found if (f.colour, f.shape) == (colour, shape)])
        for place, i in enumerate(group):
            verdicts[i] = ObjectScore(
                colour=(coloured[place] or 0) > MATCH,
                shape=(shaped[place] or 0) > MATCH,
                right=(both[place] or 0) > MATCH,
                present=both[place] is not None,
                iou=coloured[place] or 0.0,
            )
    objects = tuple(v for v in verdicts if v is not None)
    return PictureScore(
        objects,
        tuple(found),
        count=len(found) == len(expected),
        all_right=bool(objects) and all(v.right for v in objects),
        binding=bool(expected) and {(f.colour, f.shape) for f in found} == set(pairs),
        relation=None if relation is None else _holds(found, expected, relation),
    )


def expected_of(scene: Scene) -> list[Expected]:
    """What a scene asks for."""
    return [Expected(o.colour, o.shape, o.box) for o in scene.objects]


def judge_scenes(pictures: Tensor, scenes: Sequence[Scene]) -> list[PictureScore]:
    """Verdicts on (N, 3, H, W) pictures of N scenes."""
    return [
        judge(found, expected_of(scene), scene.relation)
        for found, scene in zip(detect(pictures), scenes, strict=True)
    ]


def rates(scores: Sequence[PictureScore]) -> dict[str, float]:
    """Means over objects (right, colour, shape, present, iou and place, which is the same) and
    over pictures (count, binding, all_right, and relation over those that ask for one, else nan).
    """
    things = [o for s in scores for o in s.objects]
    result = {
        key: sum(float(getattr(o, key)) for o in things) / max(len(things), 1)
        for key in OBJECT_KEYS
    }
    for key in PICTURE_KEYS:
        result[key] = sum(float(getattr(s, key)) for s in scores) / max(len(scores), 1)
    asked = [float(s.relation) for s in scores if s.relation is not None]
    return result | {"relation": _mean(asked)}
