"""Says which coloured shape is where in a picture. Nothing learned, so nothing to argue with.

Coloured pixels are sorted by nearest hue, cleaned by an opening, split into connected components;
a component's shape is the template that overlaps it best once both are stretched to one size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
# Pixels touch at corners too.
NEIGHBOURS = np.ones((3, 3), dtype=bool)
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


@lru_cache(maxsize=1)
def _templates() -> Tensor:
    """(5, 32, 32) masks of the shapes."""
    with torch.inference_mode(False), torch.no_grad():
        axis = (torch.arange(TEMPLATE) + 0.5) / TEMPLATE * 2 - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([signed_distance(shape, x, y) < 0 for shape in SHAPES])


def _shape_of(mask: np.ndarray) -> tuple[str, float]:
    """Shape name and overlap of a mask (h, w) cropped to its bounding box; holes are filled first.
    """
    from scipy.ndimage import binary_fill_holes

    filled = torch.from_numpy(binary_fill_holes(mask, NEIGHBOURS)).float()[None, None]
    small = F.interpolate(filled, (TEMPLATE, TEMPLATE), mode="bilinear", antialias=True)[0, 0] > 0.5
    both = (_templates() & small).sum((1, 2))
    either = (_templates() | small).sum((1, 2))
    fits = both / either
    best = int(fits.argmax())
    return SHAPES[best], float(fits[best])


def _hue_masks(pictures: Tensor) -> Tensor:
    """(N, 6, H, W): which pixels carry which colour, after a 3x3 opening."""
    brightest = pictures.amax(1)
    chroma = brightest - pictures.amin(1)
    coloured = (chroma > SATURATION * brightest) & (chroma > CHROMA)
    red, green, blue = pictures.unbind(1)
    spread = chroma.clamp(min=1e-6)
    hue = torch.where(
        brightest == red,
        (green - blue) / spread % 6,
        torch.where(brightest == green, (blue - red) / spread + 2, (red - green) / spread + 4),
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
    from scipy.ndimage import label

    pictures = pictures.detach().float().cpu().clamp(0, 1)
    count, _, height, width = pictures.shape
    masks = _hue_masks(pictures)
    found: list[list[tuple[int, Found, Tensor]]] = [[] for _ in range(count)]
    smallest = SMALLEST_AREA * height * width
    busy = (masks.sum((2, 3)) >= smallest).nonzero()
    for picture, colour in busy.tolist():
        labels = np.zeros((height, width), dtype=np.int32)
        label(masks[picture, colour].numpy(), NEIGHBOURS, labels)
        # Of equally large things of a colour, the one that ends first (row by row) comes first.
        counted = np.unique(labels[::-1, ::-1], return_index=True, return_counts=True)
        for identity, _, area in sorted(zip(*counted, strict=True), key=lambda entry: -entry[1]):
            if identity == 0 or area < smallest:
                continue
            mask = labels == identity
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            left, right = int(columns[0]), int(columns[-1]) + 1
            shape, fit = _shape_of(mask[top:bottom, left:right])
            box = (left / width, top / height, right / width, bottom / height)
            thing = Found(COLOURS[colour], shape, box, fit)
            found[picture].append((int(area), thing, torch.from_numpy(mask)))
    return [[entry[1:] for entry in sorted(row, key=lambda entry: -entry[0])] for row in found]


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / total if total > 0 else 0.0


def _assign(wanted: Sequence[Box], things: Sequence[Found]) -> list[float | None]:
    """Give every wanted box a thing of its own, as many as there are, for the largest sum of IoU.

    Returns the IoU (0..1) of each box with its thing, None where no thing was left.
    """
    from scipy.optimize import linear_sum_assignment

    if not things:
        return [None] * len(wanted)
    overlaps = np.array([[box_iou(thing.box, box) for thing in things] for box in wanted])
    given = dict(zip(*linear_sum_assignment(overlaps, maximize=True), strict=True))
    ious = [float(row[given[box]]) if box in given else 0.0 for box, row in enumerate(overlaps)]
    # What overlaps no box is given to the first boxes that are left.
    idle = len(given) - sum(iou > 0 for iou in ious)
    left = [box for box, iou in enumerate(ious) if not iou]
    return [None if box in left[idle:] else iou for box, iou in enumerate(ious)]


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


def _judge_group(
    pair: tuple[str, str], boxes: Sequence[Box], found: Sequence[Found]
) -> list[ObjectScore]:
    """Verdicts on the objects of one colour and shape, in the order of their ``boxes``."""
    colour, shape = pair
    coloured = _assign(boxes, [thing for thing in found if thing.colour == colour])
    shaped = _assign(boxes, [thing for thing in found if thing.shape == shape])
    both = _assign(boxes, [thing for thing in found if (thing.colour, thing.shape) == pair])
    return [
        ObjectScore(
            colour=(by_colour or 0) > MATCH,
            shape=(by_shape or 0) > MATCH,
            right=(by_both or 0) > MATCH,
            present=by_both is not None,
            iou=by_colour or 0.0,
        )
        for by_colour, by_shape, by_both in zip(coloured, shaped, both, strict=True)
    ]


def judge(
    found: Sequence[Found], expected: Sequence[Expected], relation: Relation | None = None
) -> PictureScore:
    """Compare what was seen with what should be there.

    ``relation`` names two of ``expected``, of different colour or shape, by their indices.
    """
    pairs = [(want.colour, want.shape) for want in expected]
    verdicts: dict[int, ObjectScore] = {}
    for pair in dict.fromkeys(pairs):
        group = [index for index, other in enumerate(pairs) if other == pair]
        scores = _judge_group(pair, [expected[index].box for index in group], found)
        verdicts |= zip(group, scores, strict=True)
    objects = tuple(verdicts[index] for index in range(len(expected)))
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
    relations = [float(s.relation) for s in scores if s.relation is not None]
    return result | {"relation": _mean(relations)}
