"""Bodies of a pose estimator as regions: a box around each, or a mask along its limbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .from_masks import assign_phrases, named_region
from .keypoints import canvas_of, points_of, read_frame, refuse, with_neck
from .layout import Box, Region, is_number
from .mask import LARGEST_SIDE, Mask

Shape = Literal["box", "limbs"]
"""A box around the body's points, or a mask along its limbs."""
Order = Literal["left to right", "as detected"]
"""Which body the first phrase belongs to, and so on."""
PARTS = ("head", "torso", "right arm", "left arm", "right leg", "left leg")
"""Right and left are the person's own, as in OpenPose. The order of ``limb_masks``."""

_LINES_18 = (
    ((1, 0), (0, 14), (0, 15), (14, 16), (15, 17)),
    ((1, 2), (1, 5), (1, 8), (1, 11), (2, 8), (5, 11), (8, 11)),
    ((2, 3), (3, 4)), ((5, 6), (6, 7)), ((8, 9), (9, 10)), ((11, 12), (12, 13)),
)  # fmt: skip
_LINES_25 = (
    ((1, 0), (0, 15), (0, 16), (15, 17), (16, 18)),
    ((1, 2), (1, 5), (1, 8), (2, 9), (5, 12), (8, 9), (8, 12)),
    ((2, 3), (3, 4)), ((5, 6), (6, 7)),
    ((9, 10), (10, 11), (11, 22), (11, 24)), ((12, 13), (13, 14), (14, 19), (14, 21)),
)  # fmt: skip
_TRUNK = {18: (2, 5, 11, 8), 25: (2, 5, 12, 9)}
_LINES = {18: _LINES_18, 25: _LINES_25}
_MASK_SIDE = 512
"""Longer side of masks, in pixels: attention maps are far coarser."""
_LARGEST_SHARE = 2
"""Coordinates above are pixels."""
_FARTHEST = 100
"""Pictures that a point may lie away; one further out is broken, and drawing it would not end."""
_OVERHANG = 1.05
"""How far points may reach out of a canvas that nobody named, as a multiple of it."""


@dataclass(frozen=True)
class Pose:
    """One body: points (18 or 25, 2) in 0..1 of the picture, and which of them were seen."""

    points: np.ndarray
    seen: np.ndarray

    def bounds(self) -> Box:
        """Smallest box around the points that were seen; it may leave the picture."""
        low, high = self.points[self.seen].min(0), self.points[self.seen].max(0)
        return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


@dataclass(frozen=True)
class Bodies:
    """The bodies of one frame and the size in pixels of the picture that they were found in."""

    poses: tuple[Pose, ...]
    width: int
    height: int


def _in_pixels(points: np.ndarray) -> bool:
    """Whether one person's points count pixels: shares of the canvas are hardly above 1."""
    return bool(np.abs(points[:, :2]).max() > _LARGEST_SHARE)


def _canvas(
    frame: Mapping[str, Any], points: list[np.ndarray], size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The canvas that a frame names, or ``size``; RealCompoError if points need one that fails."""
    stated = canvas_of(frame, LARGEST_SIDE)
    counted = [one for one in points if _in_pixels(one)]
    if stated is not None or not counted:
        return stated
    if size is None:
        raise refuse(
            "its points are in pixels, but it has no 'canvas_width' and 'canvas_height'",
            "Connect a pose that carries its picture's size",
        )
    reach = np.concatenate([one[:, :2] for one in counted]).max(0)
    if any(reach > np.asarray(size) * _OVERHANG):
        raise refuse(
            f"its points reach {reach[0]:.0f}, {reach[1]:.0f}, beyond {size[0]} x {size[1]}, and it"
            " does not say how large its picture was",
            "Add 'canvas_width' and 'canvas_height' of that picture beside 'people'",
        )
    return size


def _found(
    value: Any, frame: int, size: tuple[int, int] | None
) -> tuple[Mapping[str, Any], list[tuple[Any, np.ndarray | None]], tuple[int, int] | None]:
    """A frame, its people with their body's points as written (or None), and the canvas."""
    found, people = read_frame(value, frame)
    read = [(person, points_of(person, n)) for n, person in enumerate(people, 1)]
    read = [(one, None if points is None else with_neck(points)) for one, points in read]
    return found, read, _canvas(found, [points for _, points in read if points is not None], size)


def read_bodies(
    value: Any, frame: int = 0, confidence: float = 0.1, size: tuple[int, int] | None = None
) -> Bodies:
    """The bodies of frame ``frame`` (from 0): keypoints as value, list of frames or text.

    Points below ``confidence`` (0..1) count as not seen. A person's coordinates are pixels of the
    canvas, or shares of it if none is above 2, as older pose nodes write them; ``size`` (width,
    height) stands in where a file does not name its canvas. COCO's 17 points come as OpenPose's
    18. People of whom less than two body points were seen are left out. Raises RealCompoError for
    input 'pose'.
    """
    _, bodies, canvas = _found(value, frame, size)
    poses = []
    for number, (_, body) in enumerate(bodies, 1):
        if body is None:
            continue
        scale = np.asarray(canvas if _in_pixels(body) else (1, 1), dtype=np.float64)
        seen = body[:, 2] >= max(confidence, 1e-6)
        points = body[:, :2] / scale
        if np.abs(points).max() > _FARTHEST:
            raise refuse(
                f"person {number} has a point {np.abs(points).max():.3g} pictures away",
                "Estimate the pose anew",
            )
        if seen.sum() >= 2:
            poses.append(Pose(points, seen))
    if not poses:
        raise refuse("nobody's body was seen in it", "Lower 'confidence', or use another picture")
    width, height = canvas or (1, 1)
    return Bodies(tuple(poses), width, height)


def openpose_frame(
    value: Any, frame: int = 0, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """A frame as other nodes take POSE_KEYPOINT: 18 or 25 points in one row of numbers, no gaps,
    and one unit for all (pixels, if anybody's are).

    Faces and hands stay. ``size`` as for ``read_bodies``. Raises RealCompoError for input 'pose'.
    """
    found, bodies, canvas = _found(value, frame, size)
    pixels = any(points is not None and _in_pixels(points) for _, points in bodies)
    people: list[Any] = []
    for person, points in bodies:
        if points is None:
            people += [person] if person else []
            continue
        scale = canvas if pixels and canvas and not _in_pixels(points) else (1, 1)
        rows = points * np.asarray([*scale, 1.0])
        parts = {
            key: _stretched(part, scale) for key, part in person.items()
            if key.endswith("_keypoints_2d") and not key.startswith("pose")
        }  # fmt: skip
        people.append({"pose_keypoints_2d": rows.flatten().tolist(), **parts})
    out = {key: part for key, part in found.items() if key in ("version", "animals")}
    if canvas is not None:
        out |= {"canvas_width": canvas[0], "canvas_height": canvas[1]}
    return {"people": people, **out}


def _stretched(flat: Any, scale: tuple[int, int]) -> Any:
    """x, y, confidence in a row, x and y times ``scale``; a gap is zero."""
    if not isinstance(flat, (list, tuple)):
        return None
    values = [float(v) if is_number(v) else 0.0 for v in flat]
    return [v * (*scale, 1)[n % 3] for n, v in enumerate(values)]


def _margined(box: Box, margin: float, aspect: float) -> Box | None:
    """``box`` widened by ``margin`` of its longer side (in pixels), cut at the picture's edge."""
    width, height = (box[2] - box[0]) * aspect, box[3] - box[1]
    air = margin * max(width, height)
    x0, x1 = max(0.0, box[0] - air / aspect), min(1.0, box[2] + air / aspect)
    y0, y1 = max(0.0, box[1] - air), min(1.0, box[3] + air)
    return (x0, y0, x1, y1) if x1 - x0 > 1e-4 and y1 - y0 > 1e-4 else None


def _mask_size(bodies: Bodies) -> tuple[int, int]:
    """width, height of masks: the canvas, made smaller if it is large."""
    shrink = min(1.0, _MASK_SIDE / max(bodies.width, bodies.height))
    if bodies.width == bodies.height == 1:
        return _MASK_SIDE, _MASK_SIDE
    return max(1, round(bodies.width * shrink)), max(1, round(bodies.height * shrink))


def limb_masks(pose: Pose, width: int, height: int, thickness: float = 0.06) -> Tensor:
    """Where the parts of a body are: float32 (6, height, width), 0 or 1, in the order of PARTS.

    ``thickness`` is a limb's half width relative to the body's longer side. A part of which
    nothing was seen is all zero.
    """
    from PIL import Image, ImageDraw

    size = np.asarray([width, height])
    at = pose.points * size
    x0, y0, x1, y1 = pose.bounds()
    radius = max(1.0, thickness * max((x1 - x0) * width, (y1 - y0) * height))
    planes = torch.zeros(len(PARTS), height, width)
    joints, seen = len(pose.points), pose.seen
    for part, lines in enumerate(_LINES[joints]):
        image = Image.new("L", (width, height))
        draw = ImageDraw.Draw(image)

        def spot(joint: int, r: float, draw: Any = draw) -> None:
            x, y = at[joint]
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)

        r = radius * (1.4 if PARTS[part] == "head" else 1.0)
        for one, other in lines:
            if seen[one] and seen[other]:
                draw.line([tuple(at[one]), tuple(at[other])], fill=255, width=max(1, round(2 * r)))
            for joint in (one, other):
                # The neck closes the torso; as a part of the head it would be a ball below it.
                if seen[joint] and not (PARTS[part] == "head" and joint == 1):
                    spot(joint, r)
        if PARTS[part] == "torso" and all(seen[j] for j in _TRUNK[joints]):
            draw.polygon([tuple(at[j]) for j in _TRUNK[joints]], fill=255)
        planes[part] = torch.from_numpy(np.array(image)).float() / 255.0
    return planes


def regions_from_pose(
    bodies: Bodies,
    phrases: str,
    *,
    shape: Shape = "box",
    margin: float = 0.1,
    order: Order = "left to right",
    thickness: float = 0.06,
    prompt: str = "",
) -> tuple[list[Region], Tensor]:
    """A region for every body, and the parts of all bodies as masks (people * 6, H, W).

    ``shape`` 'box' takes the box around the body's points and ``margin`` of its longer side
    (RealCompo, arXiv 2402.12908, has none); 'limbs' a mask along the limbs. ``order`` pairs bodies
    with phrases. Bodies outside the picture count for nothing. Raises RealCompoError for inputs
    'pose' and 'phrases'.
    """
    poses = list(bodies.poses)
    if order == "left to right":
        poses.sort(key=lambda pose: pose.bounds()[0] + pose.bounds()[2])
    aspect = bodies.width / bodies.height
    boxes = [_margined(pose.bounds(), margin, aspect) for pose in poses]
    inside = [(pose, box) for pose, box in zip(poses, boxes, strict=True) if box is not None]
    if not inside:
        raise refuse("all bodies are outside the picture", "Use another pose")
    lines = assign_phrases(phrases, len(inside), "bodies", prompt)
    width, height = _mask_size(bodies)
    parts = [limb_masks(pose, width, height, thickness) for pose, _ in inside]
    regions = []
    for line, (_, box), part in zip(lines, inside, parts, strict=True):
        whole = part.amax(0)
        mask = Mask.from_tensor(whole) if shape == "limbs" and whole.any() else None
        regions.append(named_region(line, box, mask))
    return regions, torch.cat(parts)
