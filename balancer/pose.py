"""Bodies of an OpenPose file as regions: a box around each, or a mask along its limbs.

The JSON is OpenPose's (Cao et al., arXiv 1812.08008) as ComfyUI's pose nodes pass it on: a list of
frames with 'people', each with 'pose_keypoints_2d' = x, y, confidence of 18 or 25 points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .converters import assign_phrases, named_region
from .coverage import LARGEST_SIDE, Mask
from .errors import RealCompoError
from .layout import Box, Region, is_number

BOX, LIMBS = "box", "limbs"
LEFT_TO_RIGHT, AS_DETECTED = "left to right", "as detected"
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


def _refuse(problem: str, remedy: str) -> RealCompoError:
    return RealCompoError("pose", problem, remedy)


def _frame(value: Any, frame: int) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _refuse("the text is no JSON", "Connect POSE_KEYPOINT") from None
    frames = list(value) if isinstance(value, (list, tuple)) else [value]
    if not 0 <= frame < len(frames):
        held = f"there are {len(frames)} frames, and frame {frame} is asked for"
        raise _refuse(held, "Set 'frame' to one of them, counted from 0")
    if not isinstance(frames[frame], Mapping) or not isinstance(
        frames[frame].get("people"), (list, tuple)
    ):
        raise _refuse("it has no list 'people'", "Connect POSE_KEYPOINT of a pose estimator")
    return frames[frame]


def _numbers(person: object, number: int) -> np.ndarray | None:
    flat: Any = person.get("pose_keypoints_2d") if isinstance(person, Mapping) else None
    plain = flat.tolist() if hasattr(flat, "tolist") else flat
    if plain is None or (isinstance(plain, (list, tuple)) and not plain):
        return None  # a face or a hand without a body
    if not isinstance(plain, (list, tuple)) or len(plain) % 3 or len(plain) // 3 not in _LINES:
        raise _refuse(
            f"person {number} has no 18 or 25 body points", "Connect a body pose, not hands or face"
        )
    if not all(map(is_number, plain)):
        raise _refuse(f"person {number} has points that are no numbers", "Estimate the pose anew")
    return np.asarray(plain, dtype=np.float64).reshape(-1, 3)


def read_bodies(value: Any, frame: int = 0, confidence: float = 0.1) -> Bodies:
    """The bodies of frame ``frame`` (from 0): OpenPose JSON as value, list of frames or text.

    Points below ``confidence`` (0..1) count as not seen. Coordinates are pixels of the canvas, or
    shares of it if none in the frame is above 2, as older pose nodes write them. People of whom
    less than two body points were seen are left out. Raises RealCompoError for input 'pose'.
    """
    found = _frame(value, frame)
    size = [found.get("canvas_width"), found.get("canvas_height")]
    known = all(is_number(s) and 0 < s <= LARGEST_SIDE for s in size)  # type: ignore[operator]
    people = [_numbers(person, n) for n, person in enumerate(found["people"], 1)]
    bodies = [person for person in people if person is not None]
    highest = max((float(np.abs(body[:, :2]).max()) for body in bodies), default=0.0)
    scale = np.ones(2)
    if highest > 2:
        if not known:
            raise _refuse(
                "its points are in pixels, but it has no 'canvas_width' and 'canvas_height'",
                "Connect a pose that carries its picture's size",
            )
        scale = np.asarray(size, dtype=np.float64)
    poses = []
    for body in bodies:
        seen = (body[:, 2] >= max(confidence, 1e-6)) & (np.abs(body[:, :2]).sum(1) > 0)
        if seen.sum() >= 2:
            poses.append(Pose(body[:, :2] / scale, seen))
    if not poses:
        raise _refuse("nobody's body was seen in it", "Lower 'confidence', or use another picture")
    width, height = (int(size[0]), int(size[1])) if known else (1, 1)  # type: ignore[arg-type]
    return Bodies(tuple(poses), width, height)


def _margined(box: Box, margin: float, aspect: float) -> Box | None:
    """``box`` widened by ``margin`` of its longer side (in pixels), cut at the picture's edge."""
    wide, high = (box[2] - box[0]) * aspect, box[3] - box[1]
    air = margin * max(wide, high)
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
    shape: str = BOX,
    margin: float = 0.1,
    order: str = LEFT_TO_RIGHT,
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
    if order == LEFT_TO_RIGHT:
        poses.sort(key=lambda pose: pose.bounds()[0] + pose.bounds()[2])
    aspect = bodies.width / bodies.height
    placed = [(pose, _margined(pose.bounds(), margin, aspect)) for pose in poses]
    placed = [(pose, box) for pose, box in placed if box is not None]
    if not placed:
        raise _refuse("all bodies are outside the picture", "Use another pose")
    lines = assign_phrases(phrases, len(placed), "bodies", prompt)
    width, height = _mask_size(bodies)
    parts = [limb_masks(pose, width, height, thickness) for pose, _ in placed]
    regions = []
    for line, (_, box), part in zip(lines, placed, parts, strict=True):
        whole = part.amax(0)
        mask = Mask.from_tensor(whole) if shape == LIMBS and whole.any() else None
        assert box is not None
        regions.append(named_region(line, box, mask))
    return regions, torch.cat(parts)
