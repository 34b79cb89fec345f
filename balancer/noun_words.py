"""Which thing a wording speaks of, and with which attributes: English, by closed word lists.

'a small red car' and a detector's tag 'cars' speak of the same thing; 'red' and 'small' are what
the phrase says of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .planner_words import DETERMINERS, GROUPS, NUMBERS
from .tokens import FUNCTION_WORDS
from .words import words_of

_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot",
    "teeth": "tooth", "mice": "mouse", "geese": "goose", "wolves": "wolf", "knives": "knife",
    "leaves": "leaf", "shelves": "shelf", "loaves": "loaf", "halves": "half", "oxen": "ox",
}  # fmt: skip
_SAME = (
    "person man woman boy girl child kid lady gentleman guy baby toddler player rider dancer "
    "human pedestrian",
    "couch sofa settee", "tv television monitor", "bicycle bike", "motorcycle motorbike",
    "airplane plane aeroplane aircraft jet", "phone smartphone cellphone", "dog puppy",
    "cat kitten", "horse pony", "donut doughnut", "handbag purse bag", "car automobile",
    "boat ship sailboat", "cup mug", "laptop notebook computer", "bird sparrow gull owl parrot",
    "sheep lamb", "cow bull calf", "chair armchair", "picture painting",
)  # fmt: skip
_GROUPS: dict[str, set[int]] = {}
for _number, _row in enumerate(_SAME):
    for _word in _row.split():
        _GROUPS.setdefault(_word, set()).add(_number)
# Their last word alone names another thing.
_WHOLE = {("hot", "dog"), ("teddy", "bear"), ("rubber", "duck"), ("piggy", "bank")}
# What follows is not the thing itself, but something at it.
_STOPS = {"with", "without", "wearing", "holding", "in", "on", "at", "near", "from", "by", "that",
          "which"}  # fmt: skip


def _forms(word: str) -> set[str]:
    """The word and what it may be the plural of."""
    forms = {word, _IRREGULAR.get(word, word)}
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
    groups = [{g for form in _forms(word) for g in _GROUPS.get(form, ())} for word in (one, other)]
    return bool(groups[0] & groups[1])


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
    words = [word.text for word in words_of(text)]
    joined = " ".join(words)
    for group in sorted(GROUPS, key=len, reverse=True):
        if joined.startswith(group + " "):
            words = words[len(group.split()) :]
            break
    cut = next((n for n, word in enumerate(words) if n and word in _STOPS), len(words))
    words = words[:cut]
    head = words[: words.index("of")] if "of" in words[1:] else words
    after = words[len(head) + 1 :]

    def content(row: list[str]) -> list[str]:
        idle = FUNCTION_WORDS | DETERMINERS | set(NUMBERS)
        return [word for word in row if word not in idle and not word.isdecimal()]

    plain, more = content(head), content(after)
    if not plain:
        plain, more = more, []
    if not plain:
        return Wording()
    return Wording(plain[-1], tuple(more), tuple(plain[:-1]))


def named(wording: Wording) -> str:
    """The thing alone, as a detector is asked for it: 'traffic light' of 'a green traffic light'.

    Words before the noun that are no known adjective stay with it.
    """
    from .planner_words import ADJECTIVES

    kept: list[str] = []
    for word in reversed(wording.attributes):
        if word in ADJECTIVES or word.endswith(("ing", "ed", "ish", "ful", "ous", "y")):
            break
        kept.insert(0, word)
    return " ".join([*kept, wording.noun])


def _whole(wording: Wording) -> bool:
    return bool(wording.attributes) and (wording.attributes[-1], wording.noun) in _WHOLE


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
