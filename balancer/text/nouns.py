"""Which thing a wording speaks of, and with which attributes: English, by the lexicon's lists.

'a small red car' and a detector's tag 'cars' speak of the same thing; 'red' and 'small' are what
the phrase says of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .lexicon import (
    ADJECTIVES,
    ASIDES,
    DETERMINERS,
    FUNCTION_WORDS,
    IRREGULAR_PLURALS,
    SAME_THING,
    WHOLE_NAMES,
    is_number,
    leading_group,
)
from .words import word_texts


def _forms(word: str) -> set[str]:
    """The word and what it may be the plural of."""
    forms = {word, IRREGULAR_PLURALS.get(word, word)}
    if word.endswith("s") and len(word) > 3:
        forms.add(word[:-1])
        if word.endswith("es"):
            forms.add(word[:-2])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
    return forms


def same_word(one: str, other: str) -> bool:
    """Equal but for number ('crosses', 'cross')."""
    return bool(_forms(one) & _forms(other))


def _same_thing(one: str, other: str) -> bool:
    if same_word(one, other):
        return True
    first, second = (
        {SAME_THING[form] for form in _forms(word) if form in SAME_THING} for word in (one, other)
    )
    return bool(first & second)


@dataclass(frozen=True)
class Wording:
    """A phrase or tag taken apart.

    ``noun`` names the thing, ``parts`` other nouns that may ('coffee' in 'a cup of coffee'),
    ``attributes`` is what is said of it. All lower case; ``noun`` is '' for no words at all.
    """

    noun: str = ""
    parts: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.attributes, *([self.noun] if self.noun else []), *self.parts)


def wording(text: str) -> Wording:
    """``text`` taken apart; articles, numbers and what stands behind 'with', 'in' are left out."""
    words = word_texts(text)
    _, counting = leading_group(words)
    if counting < len(words):  # 'several' alone is all that there is
        words = words[counting:]
    cut = next((n for n, word in enumerate(words) if n and word in ASIDES), len(words))
    words = words[:cut]
    head = words[: words.index("of")] if "of" in words[1:] else words
    parts, more = _content(head), _content(words[len(head) + 1 :])
    if not parts:
        parts, more = more, []
    return Wording(parts[-1], tuple(more), tuple(parts[:-1])) if parts else Wording()


def _content(words: list[str]) -> list[str]:
    idle = FUNCTION_WORDS | DETERMINERS
    return [word for word in words if word not in idle and not is_number(word)]


def named(wording: Wording) -> str:
    """The thing alone, as a detector is asked for it: 'traffic light' of 'a green traffic light'.

    Words before the noun that are no known adjective stay with it.
    """
    kept: list[str] = []
    for word in reversed(wording.attributes):
        if word in ADJECTIVES or word.endswith(("ing", "ed", "ish", "ful", "ous", "y")):
            break
        kept.insert(0, word)
    return " ".join([*kept, wording.noun])


def _whole(wording: Wording) -> bool:
    return bool(wording.attributes) and (wording.attributes[-1], wording.noun) in WHOLE_NAMES


def noun_fit(tag: Wording, phrase: Wording) -> int:
    """How surely both name one thing: 3 the same noun, 2 the phrase's noun is in the tag, 1 the
    tag's noun is in the phrase, 0 not at all."""
    if not tag.noun or not phrase.noun:
        return 0
    if _whole(tag) != _whole(phrase) and same_word(tag.noun, phrase.noun):
        return 0
    if _same_thing(tag.noun, phrase.noun):
        return 3
    if any(_same_thing(word, phrase.noun) for word in (*tag.attributes, *tag.parts)):
        return 2
    if any(_same_thing(tag.noun, word) for word in phrase.parts):
        return 1
    return 0


def attribute_fit(tag: Wording, phrase: Wording) -> float:
    """What both say of the thing, less what only one says; 0 where neither says anything.

    Never below -5, so that it decides between equally good nouns only.
    """
    shared = sum(any(same_word(a, b) for b in phrase.attributes) for a in tag.attributes)
    alone = len(tag.attributes) - shared + 0.5 * max(0, len(phrase.attributes) - shared)
    return max(-5.0, 5.0 * shared - alone)


def shares_attribute(tag: Wording, phrase: Wording) -> bool:
    """Whether one attribute is said by both."""
    return any(same_word(a, b) for a in tag.attributes for b in phrase.attributes)
