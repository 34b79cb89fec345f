"""One box as other programs write it: which four numbers it has, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import RealCompoError, cut, shown
from .box_lines import BoxEntry
from .layout import is_number

Four = tuple[float, float, float, float]
Form = Callable[[Four], Four]
"""Four numbers as somebody wrote them -> x0, y0, x1, y1 in the same unit."""

MOST_NUMBERS = 1 << 20
"""Numbers in one array or tensor: more are a picture, not boxes."""
DEEPEST = 32
"""Lists and objects around a box."""
GRID = 1000.0
"""Ideogram-type elements and Gemini's boxes count in thousandths of the image."""


def corners(four: Four) -> Four:
    """x0, y0, x1, y1."""
    return four


def sized(four: Four) -> Four:
    """x, y of the top left corner, width, height: COCO's form."""
    x, y, w, h = four
    return x, y, x + w, y + h


def centred(four: Four) -> Four:
    """x, y of the middle, width, height: YOLO's form."""
    x, y, w, h = four
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def thousandths(four: Four) -> Four:
    """y0, x0, y1, x1 in thousandths of the image."""
    y0, x0, y1, x1 = (number / GRID for number in four)
    return x0, y0, x1, y1


# What a key that holds four numbers says about them; None: the object's other keys say it.
_LISTS: tuple[tuple[str, Form | None], ...] = (
    ("box", None), ("bbox", None), ("bounding_box", None), ("bbox_2d", corners),
    ("xyxy", corners), ("xywh", sized), ("ltwh", sized), ("cxcywh", centred),
    ("box_2d", thousandths),
)  # fmt: skip
# One number a key.
_APART: tuple[tuple[tuple[str, str, str, str], Form], ...] = (
    (("xmin", "ymin", "xmax", "ymax"), corners),
    (("x_min", "y_min", "x_max", "y_max"), corners),
    (("x0", "y0", "x1", "y1"), corners),
    (("x1", "y1", "x2", "y2"), corners),
    (("left", "top", "right", "bottom"), corners),
    (("x", "y", "width", "height"), sized),
    (("x", "y", "w", "h"), sized),
    (("left", "top", "width", "height"), sized),
    (("left", "top", "w", "h"), sized),
    (("cx", "cy", "width", "height"), centred),
    (("cx", "cy", "w", "h"), centred),
    (("x_center", "y_center", "width", "height"), centred),
    (("xcenter", "ycenter", "width", "height"), centred),
)
# How a box's form is called where it is said in words, or by detectron2's number.
_FORMS: dict[object, Form] = {
    "xyxy": corners, "xyxy_abs": corners, "pascal_voc": corners, "voc": corners, "ltrb": corners,
    "xywh": sized, "xywh_abs": sized, "coco": sized, "ltwh": sized, "tlwh": sized,
    "cxcywh": centred, "yolo": centred, 0: corners, 1: sized,
}  # fmt: skip
_FORM_KEYS = ("bbox_mode", "bbox_format", "box_mode", "box_format", "format")
# Keys of COCO's annotations and results, and of SAM's masks: there a 'bbox' is x, y, w, h.
_COCO_KEYS = ("category_id", "iscrowd", "image_id", "segmentation", "predicted_iou", "area")
# Roboflow gives every detection an id, and x and y of its middle.
_MIDDLE_KEY = "detection_id"
_PHRASE_KEYS = (
    "phrase", "label", "text", "desc", "name", "class_name", "category_name", "category", "class",
)  # fmt: skip


def plain(value: Any) -> Any:
    """Numbers and lists of numpy or torch as Python's own; everything else as it is.

    Raises RealCompoError for input 'boxes' for an array that is far too large, or holds nothing.
    """
    if not hasattr(value, "tolist"):
        return value
    count = getattr(value, "numel", None)
    size: Any = count() if callable(count) else getattr(value, "size", 0)
    if isinstance(size, int) and size > MOST_NUMBERS:
        raise RealCompoError(
            "boxes", f"it holds {size} numbers, and up to {MOST_NUMBERS} are read",
            "Connect boxes, not a picture or a mask",
        )  # fmt: skip
    try:
        return value.tolist()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise RealCompoError(
            "boxes", f"a {type(value).__name__} gives no numbers ({cut(str(error))})",
            "Connect boxes as numbers",
        ) from None  # fmt: skip


def numbers(value: object) -> Four | None:
    """Four finite numbers, or None."""
    value = plain(value)
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    one, two, three, four = (plain(number) for number in value)
    if not all(map(is_number, (one, two, three, four))):
        return None
    return float(one), float(two), float(three), float(four)


def four(value: object, where: str) -> Four:
    """Four finite numbers, or RealCompoError."""
    found = numbers(value)
    if found is None:
        raise RealCompoError(
            "boxes", f"{where} is {shown(plain(value))}",
            "A box is four finite numbers: x0, y0, x1, y1",
        )  # fmt: skip
    return found


def named_form(name: object) -> Form | None:
    """The form of a name ('xywh', 'coco', ...) or of detectron2's number."""
    if isinstance(name, bool):
        return None
    if isinstance(name, int):
        return _FORMS.get(int(name))
    return _FORMS.get(name.casefold()) if isinstance(name, str) else None


def stated_form(value: Mapping[str, Any], where: str) -> Form | None:
    """The form that an object names for its boxes, or None; RealCompoError for an unknown one."""
    for key in _FORM_KEYS:
        stated = value.get(key)
        if stated is None:
            continue
        form = named_form(stated)
        if form is not None:
            return form
        if key != "format":  # which also names files
            raise RealCompoError(
                "boxes", f"{where} has the {key} {shown(stated)}",
                "Known are xyxy, xywh and cxcywh (also pascal_voc, coco, yolo)",
            )  # fmt: skip
    return None


def name_of(value: Mapping[str, Any]) -> str:
    """The first name that a box carries, its own or in ``metadata``."""
    inner = value.get("metadata")
    for source in (value, inner if isinstance(inner, Mapping) else {}):
        for key in _PHRASE_KEYS:
            if isinstance(source.get(key), str) and source[key].strip():
                return source[key]
    return ""


def _by_area(value: Mapping[str, Any], box: Four, where: str) -> Form:
    """What an object with 'area' alone means: its box's area where it is one of the two, else an
    outline's, which is no larger than width x height."""
    area, (a, b, c, d) = plain(value.get("area")), box
    if not is_number(area):
        return sized
    for form, whole in ((sized, c * d), (corners, (c - a) * (d - b))):
        if abs(area - whole) <= 0.02 * abs(whole):
            return form
    if 0 <= area <= c * d:
        return sized
    raise RealCompoError(
        "boxes", f"{where} has an 'area' of {area:g}, which fits neither x, y, width, height nor"
        " two corners", "Give 'xywh' or 'xyxy' instead of 'bbox'",
    )  # fmt: skip


def _unsaid(value: Mapping[str, Any], box: Four, where: str) -> tuple[Form, str]:
    """The form of a bare 'bbox' by the keys beside it, and the key that says x, y, w, h."""
    stated = stated_form(value, where)
    if stated is not None:
        return stated, ""
    coco = [key for key in _COCO_KEYS if key in value]
    if coco == ["area"]:
        form = _by_area(value, box, where)
        return form, "area" if form is sized else ""
    if coco:
        return sized, coco[0]
    # Elements of a canvas node or an Ideogram caption: y before x, thousandths of the image.
    return (thousandths if "type" in value else corners), ""


def entry_of(value: Mapping[str, Any], where: str, depth: int = 0) -> BoxEntry:
    """The box of one object, with its name; RealCompoError for input 'boxes' if it has none."""
    for key, form in _LISTS:
        box = value.get(key)
        if box is None:
            continue
        if isinstance(box, Mapping):
            if depth >= DEEPEST:
                raise RealCompoError(
                    "boxes", f"{where} lies more than {DEEPEST} levels deep", "Give plain boxes"
                )
            entry = entry_of(box, where, depth + 1)
            return replace(entry, phrase=name_of(value) or entry.phrase)
        given = four(box, where)
        form, said = (form, "") if form is not None else _unsaid(value, given, where)
        desc = value.get("desc")
        named = name_of(value)
        if form is thousandths and isinstance(desc, str) and desc.strip():
            named = desc
        return BoxEntry(where, named, form(given), relative=form is thousandths, sized=said)
    for keys, form in _APART:
        if all(key in value for key in keys):
            given = four([value[key] for key in keys], where)
            form = centred if form is sized and _MIDDLE_KEY in value else form
            return BoxEntry(where, name_of(value), form(given))
    held = cut(", ".join(sorted(str(key) for key in list(value)[:16])))
    raise RealCompoError(
        "boxes", f"{where} has the keys {held}",
        "Give 'bbox' with x0, y0, x1, y1, or 'x', 'y', 'width' and 'height'",
    )  # fmt: skip
