"""The layout of an editor's JSON text, together with one that came by wire.

The text is a layout's JSON with keys that only an editor reads: a region's ``colour``, and beside
the regions ``editor`` with the grid, the backdrop and ``source``, which says of which wired layout
the drawing is an edited copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ..errors import RealCompoError
from .layout import Layout, layout_value, require_layout

WHERE = "layout_json"


def fingerprint(layout: Layout) -> str:
    """Short name of a layout's content; equal layouts have equal names on every machine."""
    return hashlib.sha256(layout.to_json().encode()).hexdigest()[:16]


def _drawn(text: str) -> tuple[Layout, str | None]:
    """The drawing and the name of the wired layout that it started from."""
    if not isinstance(text, str):
        raise RealCompoError(WHERE, f"got a {type(text).__name__}, not a text", "Give a layout")
    if not text.strip():
        return Layout(()), None
    value = layout_value(text, WHERE)
    try:
        drawn = Layout.from_dict(value)
    except RealCompoError as error:
        # The engine speaks of 'the layout', the user sees the field.
        raise error.at("", WHERE) from None
    editor = value.get("editor")
    source = editor.get("source") if isinstance(editor, Mapping) else None
    return drawn, source if isinstance(source, str) else None


def edited_layout(text: str, prompt: str, width: int, height: int, wired: object = None) -> Layout:
    """The regions that ``text`` draws, for an image of ``width`` x ``height`` pixels.

    ``wired`` (a Layout or None) brings the regions instead until an editor has taken them over;
    from then on the drawing wins until ``wired`` changes. The prompt is the first that is not
    blank of ``prompt``, the wired layout's and the text's own. Raises RealCompoError for a text
    that is no layout, a wired value that is none, and sizes below 1.
    """
    drawn, source = _drawn(text)
    given = None if wired is None else require_layout(wired)
    # A wired layout that is not what the drawing edits takes its place.
    replaced = given is not None and source != fingerprint(given)
    regions = given.regions if given is not None and replaced else drawn.regions
    prompts = (prompt, given.prompt if given is not None else "", drawn.prompt)
    first = next((entry for entry in prompts if entry.strip()), "")
    return Layout(regions, first, width, height)


def to_adopt(text: str, wired: object = None) -> dict[str, Any] | None:
    """The wired layout that an editor shall take over, with its name; None if there is none."""
    given = None if wired is None else require_layout(wired)
    if given is None:
        return None
    name = fingerprint(given)
    return None if _drawn(text)[1] == name else {"source": name, "layout": given.to_dict()}
