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
    PRONOUNS,
    RELATION,
    RELATIONS,
    SURROUNDINGS,
    VERB,
)
from .words import FUNCTION_WORDS, words_of

_SEPARATOR = re.compile(r"[,;.:!?\n]+|(?:and|while|but|plus|as well as)\b|&", re.IGNORECASE)
_WORD = re.compile(r"[^\s,;.:!?&]+")
_OF_SCENE = frozenset({"scene", "room", "picture", "image", "landscape", "composition", "view"})

_VERB_FORMS = ("ing", "s", "ed")
_POSSESSIVE = ("'s", "\u2019s")
_BACK = 200
"""Characters of a thing before a word that say whether the word starts another one."""
DOER = "doer"
"""What an item says of a thing whose verb was cut from it: it does something."""
ACTION = "action"
"""What an item says of a verb that no list holds: its doer and what follows go together."""

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


def _has_noun(words: list[str]) -> bool:
    """Whether words can be a thing: more than articles, numbers, pronouns and adjectives."""
    idle = DETERMINERS | PRONOUNS | ADJECTIVES
    return any(w not in idle and w not in NUMBERS and not w.isdecimal() for w in words)


def _starts_thing(text: str, start: int, end: int, before: str) -> bool:
    """Whether a new thing starts with the word ``start``..``end``, as an article does wherever it
    stands; a number only after what must be a verb ('juggling three balls')."""
    word = text[start:end].casefold()
    if word in DETERMINERS:
        return True
    counts = word in NUMBERS or (word.isdecimal() and len(word) < 3)
    is_verb = before.endswith(_VERB_FORMS) and not before.endswith(_POSSESSIVE)
    return counts and is_verb and text[end : end + 2].strip().isalpha()


def _cut_at_verb(text: str, start: int, end: int, after: str) -> int | None:
    """Where the thing in ``start``..``end`` ends if a determiner follows it, None if both are one.

    A noun hardly ever stands directly before an article: what stands there is a verb ('a dog
    chasing a cat'), or a word that ties ('a glass of the water'), or one that belongs to what
    follows ('half an apple'). The verb is cut off; ``start`` says that nothing is left then.
    ``after`` says what stands before the thing: a 'verb', an ``ACTION``, or ''.
    """
    start = max(start, end - _BACK)
    words = words_of(text[start:end])
    if not words:
        return None
    if text[start + words[-1].end : end].strip():
        return start + words[-1].end  # a dash or the like between two things
    tied = words[-1].text in FUNCTION_WORDS - PRONOUNS or words[-1].text == "like"
    if tied or words[-1].text.endswith(_POSSESSIVE):
        return None
    kept = words
    while kept and kept[-1].text in PRONOUNS:
        kept = kept[:-1]
    last = kept[-1] if kept else words[-1]
    kept = kept[:-1]
    is_form = last.text.endswith(_VERB_FORMS) and len(last.text) > 3
    if after == "verb" or (not kept and is_form):
        return start  # 'who holds a cup', 'chasing a cat, a dog'
    if not _has_noun([word.text for word in kept]):
        # 'gives the girl a rose' against 'half an apple'
        given = after == ACTION and words[0].text in DETERMINERS | PRONOUNS
        return start + words[-1].end if given else None
    if text[start + last.start].isupper() and not is_form:
        return None  # 'Pope Gregory the Great'
    if kept[-1].text in DETERMINERS:
        return start + last.end  # no verb: 'one phrase of the prompt a line'
    while kept and kept[-1].text in FUNCTION_WORDS:
        kept = kept[:-1]  # 'a man starts to eat a cake'
    if not kept:
        return None  # 'of half a star': nothing before the verb is a thing
    return start + kept[-1].end


def scan_items(text: str) -> Iterator[Item]:
    """Things, relations, places, verbs and separators of ``text``, in order."""
    position, open_at, open_end = 0, -1, -1
    after = ""

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
            there = "there" if found.group().lower().startswith("there") else ""
            item = Item("verb", *found.span(), there)
        elif found := _SEPARATOR.match(text, position):
            item = Item("separator", *found.span(), found.group().lower()[:1])
        elif found := re.compile(r"with\b", re.IGNORECASE).match(text, position):
            tail = text[max(open_at, open_end - _BACK) : open_end]
            words = [word.text for word in words_of(tail)]
            # 'a room with two cats' is about the cats, 'a man with a hat' about one thing.
            if open_at < 0 or words[-1:] and words[-1] in SURROUNDINGS | _OF_SCENE:
                item = Item("separator", *found.span(), "w")
        if item is not None:
            yield from closed()
            open_at, after = -1, "verb" if item.kind == "verb" and not item.value else ""
            yield item
            position = item.end
            continue
        found = found or _WORD.match(text, position)
        end = found.end() if found else position + 1
        if found and open_at >= 0:
            before = text[max(open_at, open_end - _BACK) : open_end].casefold()
            if _starts_thing(text, position, end, before):
                cut = _cut_at_verb(text, open_at, open_end, after)
                if cut is not None:
                    if cut > open_at:
                        yield Item("thing", open_at, cut, DOER)
                    yield Item("verb", cut, open_end, ACTION)
                    open_at, after = -1, ACTION
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
            and out[-2].end - out[-2].start < _BACK
            and _only_adjectives(text[out[-2].start : out[-2].end])
            and _first_word(text[item.start : item.end]) not in DETERMINERS
        ):
            item = replace(item, start=out[-2].start)
            del out[-2:]
        out.append(item)
    return out
