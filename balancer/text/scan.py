"""A prompt cut into things, words for places, verbs and separators: English, by closed lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from .letters import EMBEDDED
from .lexicon import (
    ADJECTIVES,
    DETERMINERS,
    FUNCTION_WORDS,
    HOLDERS,
    MEDIUM,
    NUMBERS,
    PLACE,
    POSSESSIVE,
    PRONOUNS,
    RELATION,
    RELATIONS,
    VERB,
    VERB_FORMS,
    is_number,
)
from .words import Word, word_texts, words_of

_SEPARATOR = re.compile(r"[,;.:!?\n]+|(?:and|while|but|plus|as well as)\b|&", re.IGNORECASE)
_BORDER = re.compile(r"[\s,;.:!?&]")
"""Ends a word of a thing, which keeps the signs in it and around it: 'red-haired', '(fate)'."""
_WITH = re.compile(r"with\b", re.IGNORECASE)
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

    kind: Literal["thing", "relation", "place", "separator", "verb"]
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
    return any(word not in idle and not is_number(word) for word in words)


def _starts_thing(text: str, start: int, end: int, before: str) -> bool:
    """Whether a new thing starts with the word ``start``..``end``, as an article does wherever it
    stands; a number only after what must be a verb ('juggling three balls')."""
    word = text[start:end].casefold()
    if word in DETERMINERS:
        return True
    counts = word in NUMBERS or (word.isdecimal() and len(word) < 3)
    is_verb = before.endswith(VERB_FORMS) and not before.endswith(POSSESSIVE)
    return counts and is_verb and text[end : end + 2].strip().isalpha()


def _without_last(words: list[Word], idle: frozenset[str]) -> list[Word]:
    """``words`` without those of ``idle`` at their end."""
    size = len(words)
    while size and words[size - 1].text in idle:
        size -= 1
    return words[:size]


def _end_before_verb(thing: str, after: str) -> int | None:
    """Where ``thing`` ends if a determiner follows it; None if both are one thing.

    A noun hardly ever stands directly before an article: what stands there is a verb ('a dog
    chasing a cat'), or a word that ties ('a glass of the water'), or one that belongs to what
    follows ('half an apple'). The verb is cut off; 0 says that nothing is left then. ``after``
    says what stands before the thing: a 'verb', an ``ACTION``, or ''.
    """
    words = words_of(thing)
    if not words:
        return None
    last = words[-1]
    if thing[last.end :].strip():
        return last.end  # a dash or the like between two things
    if last.text in FUNCTION_WORDS - PRONOUNS | {"like"} or last.text.endswith(POSSESSIVE):
        return None
    kept = _without_last(words, PRONOUNS)
    verb = kept.pop() if kept else last
    is_form = verb.text.endswith(VERB_FORMS) and len(verb.text) > 3
    if after == "verb" or (is_form and not kept):
        return 0  # 'who holds a cup', 'chasing a cat, a dog'
    if not _has_noun([word.text for word in kept]):
        # 'gives the girl a rose' against 'half an apple'
        is_given = after == ACTION and words[0].text in DETERMINERS | PRONOUNS
        return last.end if is_given else None
    if thing[verb.start].isupper() and not is_form:
        return None  # 'Pope Gregory the Great'
    if kept[-1].text in DETERMINERS:
        return verb.end  # no verb: 'one phrase of the prompt a line'
    kept = _without_last(kept, FUNCTION_WORDS)  # 'a man starts to eat a cake'
    # 'of half a star': nothing before the verb is a thing
    return kept[-1].end if kept else None


def _between_things(text: str, position: int, thing: str) -> Item | None:
    """What stands at ``position`` if it is no word of a thing; ``thing`` is what it follows."""
    if found := EMBEDDED.match(text, position):
        # its vectors may say anything, and only the text encoder's folder knows them
        return Item("separator", *found.span(), "e")
    if found := PLACE.match(text, position):
        return Item("place", *found.span(), anchor=_anchor(found))
    if found := RELATION.match(text, position):
        return Item("relation", *found.span(), RELATIONS[" ".join(found.group().lower().split())])
    if found := VERB.match(text, position):
        is_there = found.group().lower().startswith("there")
        return Item("verb", *found.span(), "there" if is_there else "")
    if found := _SEPARATOR.match(text, position):
        return Item("separator", *found.span(), found.group().lower()[:1])
    found = _WITH.match(text, position)
    if found and (not thing or not HOLDERS.isdisjoint(word_texts(thing)[-1:])):
        return Item("separator", *found.span(), "w")
    return None


def scan_items(text: str) -> Iterator[Item]:
    """Things, relations, places, verbs and separators of ``text``, in order."""
    position, after = 0, ""
    start = end = 0  # of the thing that is being read; equal if there is none
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        if start == end and (found := MEDIUM.match(text, position)):
            position = found.end()
            continue
        tail = max(start, end - _BACK)
        if item := _between_things(text, position, text[tail:end]):
            if start < end:
                yield Item("thing", start, end)
            yield item
            start = end = position = item.end
            after = "verb" if item.kind == "verb" and not item.value else ""
            continue
        found = _BORDER.search(text, position)
        stop = found.start() if found else len(text)
        if start < end and _starts_thing(text, position, stop, text[tail:end].casefold()):
            kept = _end_before_verb(text[tail:end], after)
            if kept is not None:
                if tail + kept > start:
                    yield Item("thing", start, tail + kept, DOER)
                yield Item("verb", tail + kept, end, ACTION)
                start, end, after = position, position, ACTION
        start = position if start == end else start
        end = position = stop
    if start < end:
        yield Item("thing", start, end)


def _only_adjectives(text: str) -> bool:
    content = [w for w in word_texts(text) if w not in DETERMINERS and w not in NUMBERS]
    return bool(content) and all(word in ADJECTIVES for word in content)


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
            and DETERMINERS.isdisjoint(word_texts(text[item.start : item.end])[:1])
        ):
            item = replace(item, start=out[-2].start)
            del out[-2:]
        out.append(item)
    return out
