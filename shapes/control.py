"""Control pictures of scenes for the demo's ControlNets: class maps and keypoint skeletons.

They give the place and the shape of every object and nothing of its colour, as the maps that
segmentation and pose ControlNets take (Zhang et al. 2023, "Adding Conditional Control to
Text-to-Image Diffusion Models"): what an object looks like is left to the caption.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..balancer.errors import RealCompoError
from ..balancer.layouts.layout import Layout
from .render import TABLE_EXTENT, _tables, hsv_to_rgb
from .world import COLOURS, SHAPES, Scene, ShapeObject

KINDS = ("segmentation", "keypoints")
# Corners of the colour cube: no two classes share more than two channels.
CLASS_COLOURS = {
    "circle": (1.0, 0.0, 0.0),
    "square": (0.0, 1.0, 0.0),
    "triangle": (0.0, 0.0, 1.0),
    "star": (1.0, 1.0, 0.0),
    "cross": (0.0, 1.0, 1.0),
}
NOUNS = {**{shape: shape for shape in SHAPES}, **{f"{s}s": s for s in SHAPES}, "crosses": "cross"}
# Shares of the picture's shorter side, so that a skeleton looks the same at every size.
LIMB_RADIUS, DOT_RADIUS = 0.0125, 0.025


def _star_tips() -> list[tuple[float, float]]:
    """Tips of a regular star, stretched to span [-1, 1] both ways as the drawn star is."""
    extent = 1 + math.cos(math.pi / 5)
    angles = [2 * math.pi * tip / 5 for tip in range(5)]
    return [
        (math.sin(a) / math.sin(2 * math.pi / 5), 2 * (1 - math.cos(a)) / extent - 1)
        for a in angles
    ]


# Clockwise from the top (left) in the shape's own coordinates, [-1, 1] x [-1, 1], y down.
_SIDES = ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
_NAMES = ("top", "right", "bottom", "left")
POINTS: dict[str, tuple[tuple[str, float, float], ...]] = {
    "circle": tuple((f"circle {n} pole", *p) for n, p in zip(_NAMES, _SIDES, strict=True)),
    "square": (
        ("square top left corner", -1.0, -1.0),
        ("square top right corner", 1.0, -1.0),
        ("square bottom right corner", 1.0, 1.0),
        ("square bottom left corner", -1.0, 1.0),
    ),
    "triangle": (
        ("triangle top corner", 0.0, -1.0),
        ("triangle right corner", 1.0, 1.0),
        ("triangle left corner", -1.0, 1.0),
    ),
    "star": tuple((f"star tip {i + 1}", *tip) for i, tip in enumerate(_star_tips())),
    "cross": tuple((f"cross {n} end", *p) for n, p in zip(_NAMES, _SIDES, strict=True)),
}
POINT_NAMES = tuple(name for shape in SHAPES for name, _, _ in POINTS[shape])


def limb_colours() -> Tensor:
    """(20, 3) colour of every limb and its dot, in the order of ``POINT_NAMES``.

    As in OpenPose the colour is the point's name: a circle's and a cross's skeletons, which have
    the same outline, share no colour.
    """
    count = len(POINT_NAMES)
    hues = torch.arange(count) / count
    return hsv_to_rgb(hues, torch.ones(count), torch.ones(count))


def keypoints_of(scene: Scene) -> list[list[tuple[str, float, float]]]:
    """For every object its characteristic points as (name, x, y), x and y in 0..1 of the picture.

    Names are those of ``POINT_NAMES``; a shape's points come clockwise from the top.
    """
    result = []
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        result.append(
            [
                (name, x0 + (px + 1) / 2 * (x1 - x0), y0 + (py + 1) / 2 * (y1 - y0))
                for name, px, py in POINTS[thing.shape]
            ]
        )
    return result


class _Crops:
    """Pixel windows around objects, all of one size, that may hang over the picture's edge."""

    def __init__(self, boxes: Tensor, height: int, width: int, margin: float) -> None:
        scale = torch.tensor([width, height], dtype=torch.float32)
        self.centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * scale
        self.half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
        reach = (self.half + margin).amax(0)
        # One more pixel on either side, since windows start at whole pixels.
        self.sides = [2 * math.ceil(float(r)) + 2 for r in reach]
        origin = (self.centre - torch.tensor(self.sides) / 2).floor().long()
        self.columns = origin[:, 0, None] + torch.arange(self.sides[0])
        self.rows = origin[:, 1, None] + torch.arange(self.sides[1])
        inside = ((self.rows >= 0) & (self.rows < height))[:, :, None]
        self.inside = inside & ((self.columns >= 0) & (self.columns < width))[:, None, :]

    def places(self) -> tuple[Tensor, Tensor]:
        """x (n, 1, w) and y (n, h, 1) of the pixels' centres from the objects' centres, pixels."""
        x = self.columns + 0.5 - self.centre[:, :1]
        y = self.rows + 0.5 - self.centre[:, 1:]
        return x[:, None, :], y[:, :, None]

    def paint(self, canvas: Tensor, owners: Tensor, labels: Tensor, colours: Tensor) -> None:
        """Colour the pixels of pictures ``owners`` (n,) whose label (n, h, w) is not negative."""
        number, row, column = ((labels >= 0) & self.inside).nonzero(as_tuple=True)
        painted = colours[labels[number, row, column].long()]
        canvas[owners[number], self.rows[number, row], self.columns[number, column]] = painted


def _draw_classes(canvas: Tensor, owners: Tensor, boxes: Tensor, shape: str) -> None:
    """Colour the silhouettes of objects of one shape."""
    crops = _Crops(boxes, canvas.shape[1], canvas.shape[2], 0.0)
    x, y = crops.places()
    x, y = x / crops.half[:, :1, None], y / crops.half[:, 1:, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), -1) / TABLE_EXTENT
    table = _tables()[SHAPES.index(shape), :1].expand(len(boxes), -1, -1, -1)
    distance = F.grid_sample(table, grid, padding_mode="border", align_corners=True)[:, 0]
    labels = torch.where(distance < 0, 0, -1)
    crops.paint(canvas, owners, labels, torch.tensor([CLASS_COLOURS[shape]]))


def _draw_skeletons(canvas: Tensor, owners: Tensor, boxes: Tensor, shape: str) -> None:
    """Draw the limbs of objects of one shape, then the dots at their ends."""
    height, width = canvas.shape[1:3]
    limb, dot = (r * min(height, width) for r in (LIMB_RADIUS, DOT_RADIUS))
    crops = _Crops(boxes, height, width, dot)
    x, y = crops.places()
    half_x, half_y = crops.half[:, :1, None], crops.half[:, 1:, None]
    ends = [(px * half_x, py * half_y) for _, px, py in POINTS[shape]]
    labels = torch.full((len(boxes), y.shape[1], x.shape[2]), -1, dtype=torch.int8)
    for label, (ex, ey) in enumerate(ends):
        length = ex * ex + ey * ey
        along = (x * (ex / length) + y * (ey / length)).clamp_(0, 1)
        squared = (x - ex * along).square_() + (y - ey * along).square_()
        labels.masked_fill_(squared <= limb * limb, label)
    for label, (ex, ey) in enumerate(ends):
        labels.masked_fill_((x - ex) ** 2 + (y - ey) ** 2 <= dot * dot, label)
    first = POINT_NAMES.index(POINTS[shape][0][0])
    crops.paint(canvas, owners, labels, limb_colours()[first:])


@torch.no_grad()
def draw_hints(scenes: Sequence[Scene], kind: str, width: int = 128, height: int = 128) -> Tensor:
    """Control pictures (N, 3, height, width) in 0..1 on black.

    ``kind`` 'segmentation': every pixel whose centre lies in an object has the colour of its shape
    (``CLASS_COLOURS``). ``kind`` 'keypoints': limbs from each object's centre to its points
    (``keypoints_of``) with a dot at each point, in the colours of ``limb_colours``. Where boxes
    overlap the later object is on top. Raises ``ValueError`` for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind '{kind}': choose one of {', '.join(KINDS)}.")
    draw = _draw_classes if kind == "segmentation" else _draw_skeletons
    canvas = torch.zeros(len(scenes), height, width, 3)
    things = [(i, number, o) for i, s in enumerate(scenes) for number, o in enumerate(s.objects)]
    # Drawn shape by shape, which is fast; one layer is enough where nothing can hide anything.
    layered = any(_overlap(scene) for scene in scenes)
    for layer in range(max((number for _, number, _ in things), default=0) + 1 if layered else 1):
        for shape in SHAPES:
            found = [
                (i, o.box)
                for i, number, o in things
                if o.shape == shape and (number == layer or not layered)
            ]
            if found:
                owners, boxes = zip(*found, strict=True)
                draw(canvas, torch.tensor(owners), torch.tensor(boxes), shape)
    return canvas.movedim(-1, 1).contiguous()


def _overlap(scene: Scene) -> bool:
    """Whether any two boxes of a scene do."""
    return any(
        min(a.box[2], b.box[2]) > max(a.box[0], b.box[0])
        and min(a.box[3], b.box[3]) > max(a.box[1], b.box[1])
        for a, b in combinations(scene.objects, 2)
    )


def tells_apart(scene: Scene) -> bool:
    """Whether hint and caption together say which object has which colour.

    They do not where one shape occurs in two colours: the hint shows places of shapes, the caption
    names their colours, and either assignment fulfils both (a caption's relation may say more).
    """
    return all(
        a.colour == b.colour for a, b in combinations(scene.objects, 2) if a.shape == b.shape
    )


def scene_of_layout(layout: Layout) -> Scene:
    """The scene that a layout asks for, one object per region; a mask counts as its box.

    Raises ``RealCompoError`` if there is no region, or a region's phrase does not name exactly one
    colour (``COLOURS``) and one shape (``SHAPES``, or its plural).
    """
    objects = []
    for region in layout.require_regions():
        words = re.findall(r"[a-z]+", region.phrase.lower())
        colours = {word for word in words if word in COLOURS}
        shapes = {NOUNS[word] for word in words if word in NOUNS}
        if len(colours) != 1 or len(shapes) != 1:
            raise RealCompoError(
                "layout",
                f"the phrase '{region.phrase}' does not name one colour and one shape of the demo",
                f"Write for instance 'a red star': {', '.join(COLOURS)}; {', '.join(SHAPES)}",
            )
        objects.append(ShapeObject(colours.pop(), shapes.pop(), region.box))
    return Scene(tuple(objects))
