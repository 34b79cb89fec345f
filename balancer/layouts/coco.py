"""A whole COCO file (Lin et al., arXiv 1405.0312) of one picture, as boxes with names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import RealCompoError
from .box_forms import entry_of, plain
from .box_lines import BoxEntry, require_count
from .layout import is_number


def is_file(value: Mapping[str, Any]) -> bool:
    """Whether an object is a file with 'annotations' beside 'images' or 'categories'."""
    return isinstance(value.get("annotations"), (list, tuple)) and (
        "images" in value or "categories" in value
    )


def one_picture(items: Sequence[Any]) -> None:
    """Raise RealCompoError for input 'boxes' if objects name more than one picture."""
    pictures = [plain(item.get("image_id")) for item in items if isinstance(item, Mapping)]
    count = len({repr(one) for one in pictures if isinstance(one, (int, str))})
    if count > 1:
        raise RealCompoError(
            "boxes", f"the boxes belong to {count} pictures", "Wire the boxes of one picture"
        )


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _size(value: Mapping[str, Any], image: object) -> tuple[float, float] | None:
    """width, height of the picture, where the file says them."""
    pictures = _objects(value.get("images"))
    if len(pictures) != 1:
        pictures = [one for one in pictures if one.get("id") == image]
    size = (pictures[0].get("width"), pictures[0].get("height")) if len(pictures) == 1 else ()
    known = len(size) == 2 and all(is_number(side) and side > 0 for side in size)  # type: ignore[operator]
    return (float(size[0]), float(size[1])) if known else None  # type: ignore[arg-type]


def boxes_of(value: Mapping[str, Any]) -> list[BoxEntry]:
    """The file's boxes; named by its categories, in shares where it knows the picture's size.

    Raises RealCompoError for input 'boxes' for several pictures, and as ``entry_of``.
    """
    items = list(value["annotations"])
    one_picture(items)
    require_count(len(items), "boxes", "boxes")
    names = {
        one["id"]: str(one["name"])
        for one in _objects(value.get("categories"))
        if isinstance(one.get("id"), (int, str)) and isinstance(one.get("name"), str)
    }
    entries = []
    for number, item in enumerate(items, 1):
        where = f"annotation {number}"
        if not isinstance(item, Mapping):
            raise RealCompoError("boxes", f"{where} is no object", "Wire a COCO file as it is")
        # whatever else an annotation holds: in such a file its box is x, y, width and height
        entry = entry_of({"category_id": None, **item}, where)
        kind = item.get("category_id")
        name = names.get(kind, "") if isinstance(kind, (int, str)) else ""
        entry = replace(entry, phrase=entry.phrase or name)
        size = _size(value, item.get("image_id"))
        if size is not None and not entry.relative and entry.values is not None:
            x0, y0, x1, y1 = entry.values
            shares = (x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1])
            entry = replace(entry, values=shares, relative=True)
        entries.append(entry)
    return entries
