"""Bodies drawn as the stick figures that pose ControlNets were trained on.

The picture is OpenPose's (Cao et al., arXiv 1812.08008) in the form that Zhang et al. (arXiv
2302.05543) trained on: 18 points, limbs as dimmed ellipses, dots on top, one hue for each.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .from_pose import Bodies, Pose

LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_FROM_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_DIMMED = 0.6
_REFERENCE_SIDE = 512
"""The stick's half width of 4 pixels belongs to pictures of this size."""


def point_colours() -> list[tuple[int, int, int]]:
    """Colours of the 18 points (and, in the same order, of the limbs): a wheel of hues."""
    steps = [255 * n // 3 for n in range(4)]
    ramp = [(255, v, 0) for v in steps] + [(v, 255, 0) for v in reversed(steps[:-1])]
    ramp += [(0, 255, v) for v in steps[1:]] + [(0, v, 255) for v in reversed(steps[:-1])]
    ramp += [(v, 0, 255) for v in steps[1:]] + [(255, 0, v) for v in reversed(steps[1:-1])]
    return ramp


def _eighteen(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    order = list(_FROM_25) if len(pose.points) == 25 else list(range(18))
    return pose.points[order], pose.seen[order]


def draw_skeletons(bodies: Bodies, width: int, height: int) -> Tensor:
    """Stick figures of all bodies on black: float32 (1, height, width, 3) in 0..1.

    The bodies' canvas is stretched to the picture. Points that were not seen, and the limbs that
    end there, are left out.
    """
    from PIL import Image, ImageDraw

    colours = point_colours()
    size = np.asarray([width, height], dtype=np.float64)
    stick = max(1.0, 4.0 * min(width, height) / _REFERENCE_SIDE)
    canvas = Image.new("RGB", (width, height))
    for pose in bodies.poses:
        points, seen = _eighteen(pose)
        at = points * size
        draw = ImageDraw.Draw(canvas)
        for (one, other), colour in zip(LIMBS, colours, strict=False):
            if seen[one] and seen[other]:
                outline = _ellipse(at[one], at[other], stick)
                draw.polygon(outline, fill=tuple(round(_DIMMED * c) for c in colour))
        for joint, colour in enumerate(colours):
            if seen[joint]:
                x, y = at[joint]
                draw.ellipse((x - stick, y - stick, x + stick, y + stick), fill=colour)
    return torch.from_numpy(np.array(canvas)).float()[None] / 255.0


def _ellipse(one: np.ndarray, other: np.ndarray, half_width: float) -> list[tuple[float, float]]:
    """Outline of the ellipse whose long axis runs from one point to the other."""
    middle, along = (one + other) / 2, (other - one) / 2
    length = math.hypot(*along)
    across = np.asarray([-along[1], along[0]]) * (half_width / max(length, 1e-6))
    angles = (2 * math.pi * n / 40 for n in range(40))
    return [tuple(middle + math.cos(a) * along + math.sin(a) * across) for a in angles]
