"""Keypoints as pose estimators' files have them: frames, people, and one body's points.

Read are OpenPose's files (Cao et al., arXiv 1812.08008) as they are and as ComfyUI's pose nodes
pass them on, and lists of people with 'keypoints' as COCO and AlphaPose write them. A body has 17
points (COCO), 18 (COCO with a neck) or 25 (BODY-25).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import RealCompoError, shown
from ..values.foreign_json import read_json
from .box_forms import plain
from .layout import is_number

POINTS = (17, 18, 25)
"""Points of the bodies that are read."""
MOST_PEOPLE = 256
"""People in one frame; more are no picture's layout."""
MOST_FRAMES = 1 << 20
"""Frames or people in one file."""
_PEOPLE = ("people", "bodies")
_BODY = ("pose_keypoints_2d", "keypoints", "pose_keypoints")
_READ = "a body has 17 (COCO), 18 (OpenPose) or 25 (BODY-25) points"

# COCO's order (nose; eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left first) in
# OpenPose's (nose, neck; right arm, left arm, right leg, left leg; eyes, ears, right first). The
# neck (None) is the middle of the shoulders.
_FROM_17 = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = (5, 6)


def refuse(problem: str, remedy: str) -> RealCompoError:
    """An error of the input 'pose'."""
    return RealCompoError("pose", problem, remedy)


def _is_person(value: object) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in _BODY)


def _listed(value: object) -> Sequence[Any] | None:
    return value if isinstance(value, (list, tuple)) else None


def _gathered(people: Sequence[Any], pictures: Sequence[Any]) -> list[Any]:
    """People of a list, as one frame for each picture that they name."""
    frames: dict[str, list[Any]] = {}
    for person in people:
        frames.setdefault(repr(person.get("image_id"))[:200], []).append(person)
    by_id = {repr(one.get("id"))[:200]: one for one in pictures if isinstance(one, Mapping)}
    return [
        {"people": held, "images": [by_id[name]] if name in by_id else []}
        for name, held in frames.items()
    ]


def _as_frames(value: Any) -> list[Any]:
    """The frames of a file: itself, its items, or its people gathered by their picture."""
    pictures: Sequence[Any] = ()
    if isinstance(value, Mapping) and "people" not in value:
        pictures = _listed(value.get("images")) or ()
        value = _listed(value.get("annotations")) or value
    items = _listed(value)
    if items is None:
        return [value]
    if len(items) > MOST_FRAMES:
        raise refuse(f"it has {len(items)} frames", f"Connect up to {MOST_FRAMES}")
    return _gathered(items, pictures) if items and all(map(_is_person, items)) else list(items)


def read_frame(value: Any, frame: int) -> tuple[Mapping[str, Any], list[Any]]:
    """Frame ``frame`` (from 0) of a value, list of frames or text, and its people.

    Raises RealCompoError for input 'pose'.
    """
    if isinstance(value, (str, bytes)):
        value = read_json(value, "pose", "the text", "Give the keypoints as their file has them")
    frames = _as_frames(value)
    if not 0 <= frame < len(frames):
        held = f"there are {len(frames)} frames, and frame {frame} is asked for"
        raise refuse(held, "Set 'frame' to one of them, counted from 0")
    found: Any = frames[frame]
    if _is_person(found):
        found = {"people": [found]}
    elif _listed(found) is not None and found and all(map(_is_person, found)):
        found = {"people": list(found)}
    people = None
    if isinstance(found, Mapping):
        people = next((_listed(found[key]) for key in _PEOPLE if found.get(key) is not None), None)
    if people is None:
        raise refuse("it has no list 'people'", "Connect POSE_KEYPOINT of a pose estimator")
    if len(people) > MOST_PEOPLE:
        raise refuse(
            f"a frame has {len(people)} people, and up to {MOST_PEOPLE} are read",
            "Keep those that the picture shall show",
        )
    return found, list(people)


def canvas_of(frame: Mapping[str, Any], largest: int) -> tuple[int, int] | None:
    """width, height in pixels of the picture that a frame's people were found in, if it says so."""
    sizes = [(frame.get("canvas_width"), frame.get("canvas_height"))]
    pictures = _listed(frame.get("images"))
    if pictures is not None and len(pictures) == 1 and isinstance(pictures[0], Mapping):
        sizes.append((pictures[0].get("width"), pictures[0].get("height")))
    for size in sizes:
        if all(is_number(side) and 1 <= side <= largest for side in size):  # type: ignore[operator]
            return int(size[0]), int(size[1])  # type: ignore[arg-type]
    return None


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers; RealCompoError for those that hold none."""
    try:
        return plain(value)
    except RealCompoError as error:
        raise refuse(error.problem, "Connect POSE_KEYPOINT of a pose estimator") from None


def _rows(flat: Any, number: int) -> list[list[Any]]:
    """x, y, confidence (1 where a file has none) of every point; a missing point is three None."""
    if not isinstance(flat, (list, tuple)):
        what = f"person {number} has a {type(flat).__name__} as points"
        raise refuse(what, f"Give a list: {_READ}")
    nested = [_listed(one) for one in flat]
    if any(one is not None for one in nested):
        rows = [[None] * 3 if one is None and given is None else one
                for one, given in zip(nested, flat, strict=True)]  # fmt: skip
        are_points = all(row is not None and len(row) in (2, 3) for row in rows)
        if len(rows) not in POINTS or not are_points:
            raise refuse(f"person {number} has {len(rows)} points", f"Connect a body pose: {_READ}")
        return [[*row, 1.0][:3] for row in rows if row is not None]
    for each in (3, 2):
        if len(flat) % each == 0 and len(flat) // each in POINTS:
            rows = [list(flat[at : at + each]) for at in range(0, len(flat), each)]
            return [[*row, 1.0][:3] for row in rows]
    count = f"{len(flat) // 3} points" if len(flat) % 3 == 0 else f"{len(flat)} numbers"
    raise refuse(f"person {number} has {count}", f"Connect a body pose, not hands or face: {_READ}")


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def points_of(person: object, number: int) -> np.ndarray | None:
    """(17, 18 or 25, 3) x, y, confidence of a person's body, or None for a face or hand alone.

    A point with nothing (null, NaN) in it, or at 0, 0, is missing: all zero. Raises RealCompoError
    for input 'pose'; ``number`` counts people from 1.
    """
    if person is None:
        return None
    if not isinstance(person, Mapping):
        what = f"person {number} is a {type(person).__name__}"
        raise refuse(what, "Give each person's keypoints")
    flat = _plain(next((person[key] for key in _BODY if person.get(key) is not None), None))
    if flat is None or (isinstance(flat, (list, tuple)) and not flat):
        return None
    rows = _rows(flat, number)
    for row in rows:
        bad = next((one for one in row if not _missing(one) and not is_number(one)), None)
        if bad is not None:
            raise refuse(
                f"person {number} has a point that is no number but {shown(bad)}",
                "Estimate the pose anew",
            )
    clean = [[0.0] * 3 if any(map(_missing, row)) else [float(one) for one in row] for row in rows]
    points = np.asarray(clean, dtype=np.float64)
    points[(points[:, :2] == 0).all(1)] = 0.0
    return points


def with_neck(points: np.ndarray) -> np.ndarray:
    """COCO's 17 points (17, 3) as OpenPose's 18; all others as they are."""
    if len(points) != 17:
        return points
    left, right = points[list(_SHOULDERS)]
    neck = (left + right) / 2
    neck[2] = min(left[2], right[2])
    if not neck[2] > 0:
        neck[:] = 0.0
    return np.stack([neck if source is None else points[source] for source in _FROM_17])
