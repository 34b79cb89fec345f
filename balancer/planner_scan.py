"""A prompt cut into things, words for places, verbs and separators: English, by closed lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .letters import EMBEDDED
from .planner_words import (
    ADJECTIVES,
    DETERMINERS,
    MEDIUM,
    NUMBERS,
    PLACE,
    RELATION,
    RELATIONS,
    SURROUNDINGS,
    VERB,
)
from .words import words_of

_SEPARATOR = re.compile(r"[,;.:!?\n]+|(?:and|while|but|plus|as well as)\b|&", re.IGNORECASE)
_WORD = re.compile(r"[^\s,;.:!?&]+")
_OF_SCENE = frozenset({"scene", "room", "picture", "image", "landscape", "composition", "view"})

Anchor = tuple[str, str]
"""('left' | 'middle' | 'right' | '', 'top' | 'middle' | 'bottom' | '')."""


@dataclass(frozen=True)
class Item:
    """A piece of a prompt: a thing, or what stands between things."""

    kind: str  # thing, relation, place, separator, verb
    start: int
    end: int
    value: str = ""
    anchor: Anchor = ("", "")


def _anchor(found: re.Match[str]) -> Anchor:
    words = [found["level"], found["side"], found["one"]]
    across, down = "", ""
    for word in (word.lower() for word in words if word):
        if word in ("left", "right"):
            across = word
        elif word in ("top", "upper", "background"):
            down = "top"
        elif word in ("bottom", "lower", "foreground"):
            down = "bottom"
        else:
            across, down = across or "middle", down or "middle"
    return across, down


def scan_items(text: str) -> Iterator[Item]:
    """Things, relations, places, verbs and separators of ``text``, in order."""
    position, open_at, open_end = 0, -1, -1

    def closed() -> Iterator[Item]:
        if open_at >= 0:
            yield Item("thing", open_at, open_end)

    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        at_start = open_at < 0
        found, item = None, None
        if at_start and (found := MEDIUM.match(text, position)):
            position = found.end()
            continue
        if found := EMBEDDED.match(text, position):
            # its vectors may say anything, and only the text encoder's folder knows them
            item = Item("separator", *found.span(), "e")
        elif found := PLACE.match(text, position):
            item = Item("place", *found.span(), anchor=_anchor(found))
        elif found := RELATION.match(text, position):
            kind = RELATIONS[" ".join(found.group().lower().split())]
            item = Item("relation", *found.span(), kind)
        elif found := VERB.match(text, position):
            item = Item("verb", *found.span())
        elif found := _SEPARATOR.match(text, position):
            item = Item("separator", *found.span(), found.group().lower()[:1])
        elif found := re.compile(r"with\b", re.IGNORECASE).match(text, position):
            words = [word.text for word in words_of(text[open_at:open_end])]
            # 'a room with two cats' is about the cats, 'a man with a hat' about one thing.
            if open_at < 0 or words[-1:] and words[-1] in SURROUNDINGS | _OF_SCENE:
                item = Item("separator", *found.span(), "w")
        if item is not None:
            yield from closed()
            open_at = -1
            yield item
            position = item.end
            continue
        found = found or _WORD.match(text, position)
        end = found.end() if found else position + 1
        if found:
            open_at, open_end = (position if open_at < 0 else open_at), end
        position = end
    yield from closed()


def _only_adjectives(text: str) -> bool:
    words = [word.text for word in words_of(text)]
    content = [w for w in words if w not in DETERMINERS and w not in NUMBERS]
    return bool(content) and all(w in ADJECTIVES for w in content)


def _first_word(text: str) -> str:
    return next((word.text for word in words_of(text)), "")


def joined_adjectives(items: list[Item], text: str) -> list[Item]:
    """Adjectives that a comma or 'and' parted from their noun joined to it again."""
    out: list[Item] = []
    for item in items:
        if (
            item.kind == "thing"
            and len(out) >= 2
            and out[-1].kind == "separator"
            and out[-1].value in (",", "a", "&")
            and out[-2].kind == "thing"
            and _only_adjectives(text[out[-2].start : out[-2].end])
            and _first_word(text[item.start : item.end]) not in DETERMINERS
        ):
            item = replace(item, start=out[-2].start)
            del out[-2:]
        out.append(item)
    return out
