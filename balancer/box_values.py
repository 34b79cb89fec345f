"""Boxes as other nodes hand them over: detectors, canvas nodes, language models, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .box_lines import BoxEntry, read_lines
from .errors import RealCompoError
from .layout import Layout, is_number

_PHRASE_KEYS = ("phrase", "label", "text", "desc", "name", "class_name")
_BOX_KEYS = ("box", "bbox", "bounding_box", "bbox_2d")
_EDGES = (("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"),
          ("left", "top", "right", "bottom"))  # fmt: skip
_MANY = ("bboxes", "boxes", "xyxy", "quad_boxes", "polygons")
_LABELS = ("labels", "text_labels", "phrases", "class_names", "bboxes_labels", "polygons_labels")
_GRID = 1000.0
"""Ideogram-type elements and Gemini's boxes count in thousandths of the image."""


def _plain(value: Any) -> Any:
    """Numbers and lists of numpy or torch as Python's own; everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: object) -> tuple[float, ...] | None:
    """Four finite numbers, or None."""
    value = _plain(value)
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    plain = [_plain(number) for number in value]
    return tuple(float(number) for number in plain) if all(map(is_number, plain)) else None


def _four(value: object, where: str) -> tuple[float, ...]:
    numbers = _numbers(value)
    if numbers is None:
        raise RealCompoError(
            "boxes", f"{where} is {value!r}", "A box is four finite numbers: x0, y0, x1, y1"
        )
    return numbers


def _named(value: Mapping[str, Any]) -> str:
    """The first name that a box carries, its own or in ``metadata``."""
    inner = value.get("metadata")
    for source in (value, inner if isinstance(inner, Mapping) else {}):
        for key in _PHRASE_KEYS:
            if isinstance(source.get(key), str) and source[key].strip():
                return source[key]
    return ""


def _mapping(value: Mapping[str, Any], where: str) -> BoxEntry:
    box = next((value[key] for key in _BOX_KEYS if value.get(key) is not None), None)
    if isinstance(box, Mapping):
        return replace(_mapping(box, where), phrase=_named(value) or _named(box))
    if box is None and all(key in value for key in ("x", "y", "width", "height")):
        x, y, w, h = _four([value[key] for key in ("x", "y", "width", "height")], where)
        return BoxEntry(where, _named(value), (x, y, x + w, y + h))
    edges = next((keys for keys in _EDGES if all(key in value for key in keys)), None)
    if box is None and edges is not None:
        return BoxEntry(where, _named(value), _four([value[key] for key in edges], where))
    if box is None and value.get("box_2d") is not None:
        y0, x0, y1, x1 = (number / _GRID for number in _four(value["box_2d"], where))
        return BoxEntry(where, _named(value), (x0, y0, x1, y1), relative=True)
    if box is None:
        raise RealCompoError(
            "boxes",
            f"{where} has the keys {sorted(map(str, value))}",
            "Give 'bbox' with x0, y0, x1, y1, or 'x', 'y', 'width' and 'height'",
        )
    numbers = _four(box, where)
    if "type" in value:
        # Elements of a canvas node or an Ideogram caption: y before x, thousandths of the image.
        y0, x0, y1, x1 = (number / _GRID for number in numbers)
        desc = value.get("desc")
        named = desc if isinstance(desc, str) and desc.strip() else _named(value)
        return BoxEntry(where, named, (x0, y0, x1, y1), relative=True)
    return BoxEntry(where, _named(value), numbers)


def is_segments(value: object) -> bool:
    """The SEGS of the Impact Pack: ((height, width), [objects with .bbox and .label])."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], (list, tuple))
        and len(value[0]) == 2
        and all(is_number(_plain(size)) for size in value[0])
        and isinstance(value[1], (list, tuple))
        and all(hasattr(segment, "bbox") for segment in value[1])
    )


def _segments(value: Sequence[Any]) -> list[BoxEntry]:
    height, width = (float(size) for size in value[0])
    entries = []
    for number, segment in enumerate(value[1], 1):
        where = f"segment {number}"
        x0, y0, x1, y1 = _four(segment.bbox, where)
        label = getattr(segment, "label", None)
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
        entries.append(BoxEntry(where, label if isinstance(label, str) else "", box, relative=True))
    return entries


def _flat(value: Sequence[Any]) -> list[Any]:
    """Boxes of one picture, out of up to any number of single-element lists around them."""
    items = list(value)
    while items and all(
        isinstance(item, (list, tuple)) and _numbers(item) is None for item in items
    ):
        if len(items) > 1:
            raise RealCompoError(
                "boxes",
                f"the boxes belong to {len(items)} pictures",
                "Wire the boxes of one picture",
            )
        items = list(items[0])
    return items


def read_value(value: Any) -> list[BoxEntry] | Layout:
    """Entries of a value from another node, or the layout that it is."""
    value = _plain(value)
    if isinstance(value, Layout):
        return value
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith(("{", "[")):
            return read_lines(value)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise RealCompoError(
                "boxes", f"the text is no JSON ({error})", "Give valid JSON, or lines of text"
            ) from None
        return read_value(value)
    if is_segments(value):
        return _segments(value)
    if isinstance(value, Mapping):
        return _object(value)
    if (numbers := _numbers(value)) is not None:
        return [BoxEntry("box 1", values=numbers)]
    if isinstance(getattr(value, "xyxy", None), (list, tuple)) or hasattr(
        getattr(value, "xyxy", None), "tolist"
    ):
        return _detections(value)
    if isinstance(value, (list, tuple)):
        entries = []
        items = _flat(value)
        # One object for each picture, as Florence-2 and other grounding models answer.
        pictures = [item for item in items if isinstance(item, Mapping) and _many(item) is not None]
        if pictures and len(items) == 1:
            return _object(pictures[0])
        if pictures:
            raise RealCompoError(
                "boxes",
                f"the boxes belong to {len(items)} pictures",
                "Wire the boxes of one picture",
            )
        for number, item in enumerate(items, 1):
            where = f"box {number}"
            if isinstance(item, Mapping):
                entries.append(_mapping(item, where))
            else:
                entries.append(BoxEntry(where, values=_four(item, where)))
        return entries
    raise RealCompoError(
        "boxes",
        f"a value of type {type(value).__name__} holds no boxes",
        "Wire a list of boxes, a BOUNDING_BOX, SEGS, elements, JSON or text lines",
    )


def _many(value: Mapping[str, Any]) -> Any:
    """The boxes of an object that holds several; outlines count as the boxes around them."""
    for key in _MANY:
        found = _plain(value.get(key))
        if found is None or (key != "xyxy" and not isinstance(found, (list, tuple, Mapping))):
            continue
        if key in ("quad_boxes", "polygons"):
            return [_around(outline, f"{key} {n}") for n, outline in enumerate(found, 1)]
        return found
    return None


def _around(outline: Any, where: str) -> list[float]:
    """x0, y0, x1, y1 around all points of an outline, given as x, y, x, y, ... however nested."""
    flat: list[float] = []
    waiting = [_plain(outline)]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, (list, tuple)):
            waiting = [_plain(inner) for inner in item] + waiting
        elif is_number(item):
            flat.append(float(item))
        else:
            raise RealCompoError(
                "boxes",
                f"{where} holds a {type(item).__name__}",
                "Give an outline as numbers x, y, x, y and so on",
            )
    if len(flat) < 4 or len(flat) % 2:
        raise RealCompoError(
            "boxes",
            f"{where} has {len(flat)} numbers",
            "Give an outline as numbers x, y, x, y and so on",
        )
    return [min(flat[0::2]), min(flat[1::2]), max(flat[0::2]), max(flat[1::2])]


def _detections(value: Any) -> list[BoxEntry] | Layout:
    """Detections as objects with ``xyxy``, for instance of supervision, with class names if any."""
    data = getattr(value, "data", None)
    names = data.get("class_name") if isinstance(data, Mapping) else None
    found: dict[str, Any] = {"bboxes": value.xyxy}
    return _object(found if names is None else {**found, "labels": names})


def _object(value: Mapping[str, Any]) -> list[BoxEntry] | Layout:
    """One JSON object: a layout, a caption with elements, boxes beside labels, or one box."""
    if "regions" in value:
        return Layout.from_dict(value)
    inner = value.get("compositional_deconstruction")
    elements = (inner if isinstance(inner, Mapping) else value).get("elements")
    if isinstance(elements, (list, tuple)):
        boxed = [e for e in elements if isinstance(e, Mapping) and e.get("bbox") is not None]
        return [_mapping(element, f"element {n}") for n, element in enumerate(boxed, 1)]
    boxes = _many(value)
    if boxes is None:
        return [_mapping(value, "box 1")]
    entries = read_value(boxes)
    labels = next((_plain(value[k]) for k in _LABELS if value.get(k) is not None), None)
    if isinstance(entries, Layout) or not isinstance(labels, (list, tuple)) or not labels:
        return entries
    if len(labels) != len(entries):
        raise RealCompoError(
            "boxes",
            f"there are {len(labels)} labels for {len(entries)} boxes",
            "Give one label for each box",
        )
    return [replace(e, phrase=str(label)) for e, label in zip(entries, labels, strict=True)]
