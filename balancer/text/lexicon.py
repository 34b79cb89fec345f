"""The English words that the pack knows: articles, numbers, places, relations, verbs, nouns.

Closed lists on purpose: what a rule does can be read here, and what it does not know it leaves to
the user or to a language model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _set("a an the")
FUNCTION_WORDS = ARTICLES | _set(
    "and or nor but of in on at to with without by for from into onto near next beside besides "
    "between behind under below beneath over above inside outside against along across around "
    "through as than that which is are its his her their"
)
"""Closed word classes only: their attention says nothing about one object's place. Counts ('two')
and adjectives stay, they belong to the object."""
DETERMINERS = ARTICLES | _set(
    "some many each every both another this that these those his her its their my our your"
)
PRONOUNS = _set(
    "it them him her he she they one another each other itself themselves side top this that which "
    "who there"
)
ADJECTIVES = _set(
    "red green blue yellow orange purple pink brown black white gray grey golden gold silver beige "
    "cyan magenta turquoise violet teal dark light bright pale big small large tiny huge old new "
    "young shiny fluffy round tall short long wooden metal plastic soft hard striped spotted cute "
    "beautiful rusty wet dry"
)
NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_GROUPS = {
    "a pair of": 2, "a couple of": 2, "a trio of": 3, "a few": 3, "several": 3,
    "half a dozen": 6, "a dozen": 12,
}  # fmt: skip


def is_number(word: str) -> bool:
    """'three' or '12'."""
    return word in NUMBERS or word.isdecimal()


def leading_group(words: Sequence[str]) -> tuple[int, int]:
    """(how many, in so many words) that a wording begins with, as 'a pair of'; (1, 0) if none."""
    for group, number in _GROUPS.items():
        said = group.split()
        if list(words[: len(said)]) == said:
            return number, len(said)
    return 1, 0


VERB_FORMS = ("ing", "s", "ed")
"""How a verb may end that no list holds."""
POSSESSIVE = ("'s", "\u2019s")
MEDIA = (
    "photo|photograph|picture|image|painting|drawing|illustration|sketch|rendering|render|"
    "portrait|close-up|closeup|shot|view|scene|poster|print|watercolor|watercolour|snapshot|"
    "depiction|artwork"
)
SURROUNDINGS = _set(
    "room kitchen bedroom bathroom office studio beach forest park field fields street road garden "
    "sky desert mountains city landscape meadow background floor ground grass lawn snow water sea "
    "ocean lake river night day morning evening sunset sunrise dusk dawn light lighting rain fog "
    "mist village town jungle countryside yard backyard space air wall distance style"
)
HOLDERS = SURROUNDINGS | _set("scene picture image composition view")
"""'A room with two cats' is about the cats, 'a man with a hat' about one thing."""

RELATIONS: dict[str, str] = {
    **{f"{at} left{side} of": "left" for at in ("to the", "on the", "at the")
       for side in ("", " side", " hand side")},
    **{f"{at} right{side} of": "right" for at in ("to the", "on the", "at the")
       for side in ("", " side", " hand side")},
    "left of": "left", "right of": "right", "to the left": "left", "to the right": "right",
    "above": "above", "over": "above", "on top of": "on", "atop": "on", "on": "on", "upon": "on",
    "riding": "on", "standing on": "on", "sitting on": "on",
    "below": "below", "under": "below", "underneath": "below", "beneath": "below",
    "next to": "beside", "beside": "beside", "near": "beside", "alongside": "beside",
    "adjacent to": "beside", "close to": "beside", "side by side with": "beside",
    "in between": "between", "between": "between",
    "in front of": "front", "behind": "behind", "in back of": "behind",
    "in the middle of": "inside", "in the center of": "inside", "in the centre of": "inside",
    "at": "at", "inside of": "inside", "inside": "inside", "within": "inside", "into": "inside",
    "in": "inside",
    "holding": "holds", "carrying": "holds", "wearing": "holds",
}  # fmt: skip
"""Wording -> what it says of the thing before it about the thing after it."""

VERBS = (
    "there is|there are|is|are|was|were|sits|sit|stands|stand|lies|lie|rests|rest|hangs|hang|"
    "floats|float|flies|fly|placed|located|positioned|situated|perched|parked|seated|leaning|"
    "sitting|standing|lying|resting|hanging|floating|flying|hovering|sleeping|running|walking|"
    "jumping|playing|looking|facing|that|which|who|directly|just|right above|right below"
)
"""Words between a thing and its place that say nothing about where."""

_SIDES = "left|right"
_LEVELS = "top|upper|bottom|lower|middle|center|centre"
_FRAME = (
    r"(?:[\s-]+(?:hand\s+)?(?:corner|side|part|half|third|area|edge|portion))?"
    r"(?:\s+of\s+(?:the\s+)?(?:picture|image|frame|scene|photo|photograph|canvas|painting|drawing"
    r"|view|composition))?"
)
# What follows must not belong to the same noun phrase, as in 'on the left wall'.
_END = (
    r"(?=\s*(?:[,.;:!?\n]|$)|\s+(?:and|or|but|while|with|is|are|there|stands?|sits?|lies?|hangs?"
    r"|a|an|the|one|two|three|four|five|six|seven|eight|nine|ten|several|some|\d+|in|on|at|above"
    r"|below|under|over|next|behind|beside|near|between)\b)"
)
_AT = r"(?:in|on|at|to|near|towards?)"
PLACE = re.compile(
    rf"(?:(?:{_AT}\s+)?(?:the\s+)?(?P<level>{_LEVELS})[\s-]+(?P<side>{_SIDES}|center|centre|middle)"
    rf"|{_AT}\s+the\s+(?:far\s+|very\s+|extreme\s+)?"
    rf"(?P<one>{_SIDES}|{_LEVELS}|foreground|background)){_FRAME}{_END}",
    re.IGNORECASE,
)
"""A place in the picture: 'in the top left corner', 'on the right', 'in the middle'."""


def _phrase(words: str) -> str:
    return r"\s+".join(map(re.escape, words.split()))


RELATION = re.compile(
    "(?:" + "|".join(_phrase(w) for w in sorted(RELATIONS, key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)
VERB = re.compile("(?:" + "|".join(map(_phrase, VERBS.split("|"))) + r")\b", re.IGNORECASE)
MEDIUM = re.compile(
    rf"(?:(?:an?|the)\s+)?(?:[\w-]+\s+){{0,4}}?(?:{MEDIA})\s+(?:of|showing|depicting|with|featuring)"
    r"\s+",
    re.IGNORECASE,
)
"""'an oil painting of': says what the picture is, not what is in it."""

IRREGULAR_PLURALS = {
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
SAME_THING = {word: number for number, row in enumerate(_SAME) for word in row.split()}
"""Nouns that a detector and a phrase may use for one thing -> the number of their group."""
WHOLE_NAMES = {("hot", "dog"), ("teddy", "bear"), ("rubber", "duck"), ("piggy", "bank")}
"""Their last word alone names another thing."""
ASIDES = _set("with without wearing holding in on at near from by that which")
"""What follows is not the thing itself, but something at it."""
