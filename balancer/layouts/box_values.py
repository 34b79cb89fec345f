"""Boxes as other nodes hand them over: detectors, canvas nodes, language models, JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import RealCompoError, shown
from ..values.foreign_json import read_json
from . import coco
from .box_forms import (
    DEEPEST,
    MOST_NUMBERS,
    Form,
    entry_of,
    four,
    named_form,
    numbers,
    plain,
    stated_form,
)
from .box_lines import BoxEntry, Wordings, read_lines, read_phrase, require_count
from .layout import Layout, is_number

_MANY = ("bboxes", "boxes", "xyxy", "quad_boxes", "polygons")
_LABELS = ("labels", "text_labels", "phrases", "class_names", "bboxes_labels", "polygons_labels")
_OUTLINE = "Give an outline as numbers x, y, x, y and so on"


def is_segments(value: object) -> bool:
    """The SEGS of the Impact Pack: ((height, width), [objects with .bbox and .label])."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], (list, tuple))
        and len(value[0]) == 2
        and all(is_number(plain(size)) for size in value[0])
        and isinstance(value[1], (list, tuple))
        and all(hasattr(segment, "bbox") for segment in value[1])
    )


def _segments(value: Sequence[Any]) -> list[BoxEntry]:
    height, width = (float(plain(size)) for size in value[0])
    require_count(len(value[1]), "segments", "boxes")
    if value[1] and min(height, width) < 1:
        raise RealCompoError(
            "boxes", f"the segments are of a picture of {width:g} x {height:g} pixels",
            "Wire the SEGS of a picture",
        )  # fmt: skip
    entries = []
    for number, segment in enumerate(value[1], 1):
        where = f"segment {number}"
        x0, y0, x1, y1 = four(segment.bbox, where)
        label = getattr(segment, "label", None)
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
        entries.append(BoxEntry(where, label if isinstance(label, str) else "", box, relative=True))
    return entries


def _too_deep() -> RealCompoError:
    return RealCompoError(
        "boxes", f"its lists and objects lie more than {DEEPEST} levels deep",
        "Wire a plain list of boxes",
    )  # fmt: skip


def _flat(value: Sequence[Any]) -> list[Any]:
    """Boxes of one picture, out of the single-element lists around them."""
    items = list(value)
    for _ in range(DEEPEST):
        if not items or not all(
            isinstance(item, (list, tuple)) and numbers(item) is None for item in items
        ):
            return items
        if len(items) > 1:
            raise RealCompoError(
                "boxes",
                f"the boxes belong to {len(items)} pictures",
                "Wire the boxes of one picture",
            )
        items = list(items[0])
    raise _too_deep()


def _text(value: str, prompt: str, depth: int) -> list[BoxEntry] | Layout:
    text = value.strip()
    if not text.startswith(("{", "[")):
        return read_lines(value, prompt)
    try:
        found = read_json(text, "boxes", "the text", "Give valid JSON, or lines of text")
    except RealCompoError:
        # a prompt may begin with a bracket, too: '{red|blue} car: 0 0 1 1'
        first = text.splitlines()[0]
        if read_phrase(first, "line 1", Wordings(prompt)).values is None:
            raise
        return read_lines(value, prompt)
    return read_value(found, prompt, depth + 1)


def read_value(
    value: Any, prompt: str = "", depth: int = 0, form: Form | None = None
) -> list[BoxEntry] | Layout:
    """Entries of a value from another node, or the layout that it is.

    ``prompt``, where it is known, decides what is a phrase in lines of text; ``form`` is what bare
    numbers are, corners unless something says otherwise. Raises RealCompoError for input 'boxes'
    (lines of text: 'phrases').
    """
    if depth > DEEPEST:
        raise _too_deep()
    if hasattr(value, "tolist"):  # torchvision's boxes carry their form
        form = form or named_form(getattr(getattr(value, "format", None), "name", None))
    value = plain(value)
    if isinstance(value, Layout):
        return value
    if isinstance(value, str):
        return _text(value, prompt, depth)
    if is_segments(value):
        return _segments(value)
    if isinstance(value, Mapping):
        return _object(value, prompt, depth)
    if (box := numbers(value)) is not None:
        return [BoxEntry("box 1", values=form(box) if form else box)]
    if isinstance(getattr(value, "xyxy", None), (list, tuple)) or hasattr(
        getattr(value, "xyxy", None), "tolist"
    ):
        return _detections(value, prompt, depth)
    if isinstance(value, (list, tuple)):
        return _listed(value, prompt, depth, form)
    raise RealCompoError(
        "boxes",
        f"a value of type {type(value).__name__} holds no boxes",
        "Wire a list of boxes, a BOUNDING_BOX, SEGS, elements, JSON or text lines",
    )


def _listed(
    value: Sequence[Any], prompt: str, depth: int, form: Form | None
) -> list[BoxEntry] | Layout:
    items = _flat(value)
    # One object for each picture, as Florence-2 and other grounding models answer.
    pictures = [item for item in items if isinstance(item, Mapping) and _holds_many(item)]
    if pictures and len(items) == 1:
        return _object(pictures[0], prompt, depth + 1)
    if pictures:
        raise RealCompoError(
            "boxes",
            f"the boxes belong to {len(items)} pictures",
            "Wire the boxes of one picture",
        )
    require_count(len(items), "boxes", "boxes")
    coco.one_picture(items)
    entries = []
    for number, item in enumerate(items, 1):
        where = f"box {number}"
        if isinstance(item, Mapping):
            entries.append(entry_of(item, where))
        else:
            box = four(item, where)
            entries.append(BoxEntry(where, values=form(box) if form else box))
    return entries


def _holds_many(value: Mapping[str, Any]) -> bool:
    return coco.is_file(value) or _many_key(value) is not None


def _many_key(value: Mapping[str, Any]) -> str | None:
    """The key of an object that holds several boxes, if it is such an object."""
    for key in _MANY:
        found = value.get(key)
        if found is None:
            continue
        listed = isinstance(found, (list, tuple, Mapping)) or hasattr(found, "tolist")
        if listed and not (key == "xyxy" and numbers(found) is not None):
            return key
    return None


def _around(outline: Any, where: str) -> list[float]:
    """x0, y0, x1, y1 around all points of an outline, given as x, y, x, y, ... however nested."""
    flat: list[float] = []
    waiting: list[tuple[Iterator[Any], int]] = [(iter((outline,)), 0)]
    while waiting:
        row, depth = waiting[-1]
        for item in row:
            if is_number(item):
                flat.append(float(item))
                continue
            inner = plain(item)
            if isinstance(inner, (list, tuple)):
                if depth >= DEEPEST:
                    raise _too_deep()
                waiting.append((iter(inner), depth + 1))
                break
            if not is_number(inner):
                raise RealCompoError("boxes", f"{where} holds a {type(item).__name__}", _OUTLINE)
            flat.append(float(inner))
        else:
            waiting.pop()
        if len(flat) > MOST_NUMBERS:
            raise RealCompoError(
                "boxes", f"{where} has more than {MOST_NUMBERS} numbers",
                "Give the outline with fewer points",
            )  # fmt: skip
    if len(flat) < 4 or len(flat) % 2:
        raise RealCompoError("boxes", f"{where} has {len(flat)} numbers", _OUTLINE)
    return [min(flat[0::2]), min(flat[1::2]), max(flat[0::2]), max(flat[1::2])]


def _outlines(value: Any, key: str) -> list[list[float]]:
    found = plain(value)
    if not isinstance(found, (list, tuple)):
        raise RealCompoError("boxes", f"'{key}' is no list", "Give one outline for each thing")
    require_count(len(found), "outlines", "boxes")
    return [_around(outline, f"{key} {n}") for n, outline in enumerate(found, 1)]


def _detections(value: Any, prompt: str, depth: int) -> list[BoxEntry] | Layout:
    """Detections as objects with ``xyxy``, for instance of supervision, with class names if any."""
    data = getattr(value, "data", None)
    names = data.get("class_name") if isinstance(data, Mapping) else None
    found: dict[str, Any] = {"bboxes": value.xyxy}
    return _object(found if names is None else {**found, "labels": names}, prompt, depth)


def _elements(value: Mapping[str, Any]) -> list[BoxEntry] | None:
    """The boxes of a caption's elements, its own or its parts', or None for another object."""
    inner = value.get("compositional_deconstruction")
    elements = (inner if isinstance(inner, Mapping) else value).get("elements")
    if not isinstance(elements, (list, tuple)):
        return None
    boxed = [e for e in elements if isinstance(e, Mapping) and e.get("bbox") is not None]
    require_count(len(boxed), "elements", "boxes")
    return [entry_of(element, f"element {n}") for n, element in enumerate(boxed, 1)]


def _labelled(value: Mapping[str, Any], entries: list[BoxEntry]) -> list[BoxEntry]:
    """The boxes of an object with the labels that stand beside them, if any do."""
    labels = next((plain(value[k]) for k in _LABELS if value.get(k) is not None), None)
    if not isinstance(labels, (list, tuple)) or not labels:
        return entries
    if len(labels) != len(entries):
        raise RealCompoError(
            "boxes",
            f"there are {len(labels)} labels for {len(entries)} boxes",
            "Give one label for each box",
        )
    return [
        replace(e, phrase=shown(label) if not isinstance(label, str) else label)
        for e, label in zip(entries, labels, strict=True)
    ]


def _object(value: Mapping[str, Any], prompt: str, depth: int) -> list[BoxEntry] | Layout:
    """One JSON object: a layout, a caption with elements, a COCO file, boxes beside labels, or one
    box."""
    if "regions" in value:
        return Layout.from_dict(value)
    if coco.is_file(value):
        return coco.boxes_of(value)
    if (elements := _elements(value)) is not None:
        return elements
    key = _many_key(value)
    if key is None:
        return [entry_of(value, "box 1")]
    if key in ("quad_boxes", "polygons"):
        around = _outlines(value[key], key)
        return _labelled(value, [
            BoxEntry(f"box {n}", values=tuple(box)) for n, box in enumerate(around, 1)
        ])  # fmt: skip
    form = None if key == "xyxy" else stated_form(value, f"'{key}'")
    entries = read_value(value[key], prompt, depth + 1, form)
    return entries if isinstance(entries, Layout) else _labelled(value, entries)
