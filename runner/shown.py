"""What the nodes of a run showed, and the files among it: of any form, as nodes are of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import RowError, tidy
from .errors import shown as quoted
from .job import Picture
from .pictures import LARGEST_FILE, LARGEST_ROW, MOST_FILES, as_picture

Shown = dict[str, Any]
"""What the nodes of a run showed: ``{node: {key: [entries]}}``."""


def plain(value: Any, deepest: int = 64) -> Any:
    """``value`` as it comes through JSON: classes of the host mean nothing where it is not.

    What JSON cannot write (a key that is no text, a list in itself, more than ``deepest`` levels)
    becomes text.
    """
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError, RecursionError):
        pass
    if deepest and isinstance(value, dict):
        return {tidy(key, 200): plain(one, deepest - 1) for key, one in value.items()}
    if deepest and isinstance(value, (list, tuple)):
        return [plain(one, deepest - 1) for one in value]
    return f"({type(value).__name__})"


def files_of(shown: Any) -> list[tuple[str, dict[str, Any]]]:
    """(node, entry) of the files that a run made: those saved, or, without any, the previews.

    What has not the form of an entry, as nodes of others show it, is none. Raises ``RowError`` for
    more than ``MOST_FILES``.
    """
    shows_of = shown.items() if isinstance(shown, dict) else ()
    entries = [
        (str(node), entry)
        for node, shows in sorted(shows_of, key=lambda pair: _natural(str(pair[0])))
        if isinstance(shows, dict)
        for key in sorted(shows, key=str)
        for entry in (shows[key] if isinstance(shows[key], (list, tuple)) else ())
        if isinstance(entry, dict) and {"filename", "type"} <= set(entry)
    ]
    saved = [(node, entry) for node, entry in entries if entry["type"] == "output"]
    found = saved or [(node, entry) for node, entry in entries if entry["type"] == "temp"]
    if len(found) > MOST_FILES:
        raise RowError(f"it made {len(found)} files, and up to {MOST_FILES} of a row are taken")
    return found


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Node ids are numbers as text, in subgraphs several with colons; 9 comes before 10."""
    parts = [(part, len(part) < 20 and part.isascii() and part.isdigit())
             for part in name.split(":")]  # fmt: skip
    return [(not number, int(part) if number else 0, part) for part, number in parts]


def collect(shown: Shown, fetch: Callable[[dict[str, Any]], bytes]) -> list[Picture]:
    """A run's files, whole, by ``fetch(entry)``. Raises ``RowError``."""
    found, size = [], 0
    for node, entry in files_of(shown):
        found.append(as_picture(node, entry, fetch(entry)))
        size = check_size(size + len(found[-1].data))
    return found


def check_size(size: int) -> int:
    """``size``, unless it is too much for one row."""
    if size > LARGEST_ROW:
        raise RowError(f"its files take more than {LARGEST_ROW >> 20} MiB, which is too much")
    return size


def read_file(base: Path, entry: dict[str, Any]) -> bytes:
    """A file that a node saved below ``base``. Raises ``RowError`` for one that is elsewhere or too
    large, ``FileNotFoundError`` if there is none."""
    parts = [entry["type"], entry.get("subfolder") or "", entry["filename"]]
    if not all(isinstance(part, str) and "\0" not in part for part in parts) or not parts[2]:
        raise RowError(f"a node gave {quoted(entry['filename'])} as the name of a file")
    path = base.joinpath(*parts)
    if not path.resolve().is_relative_to(base.resolve()):
        raise RowError(f"a node saved {quoted(path)}, which is not below the output folder")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise RowError(
            f"{quoted(path.name)} has {size >> 20} MiB, and up to {LARGEST_FILE >> 20} are taken"
        )
    return path.read_bytes()
