"""English words that the rule-based planner knows: places, relations, verbs, surroundings.

Closed lists on purpose: what a rule does can be read here, and what it does not know it leaves to
the user or to a language model.
"""

from __future__ import annotations

import re


def _list(text: str) -> list[str]:
    return text.split()


NUMBERS = {
    word: number
    for number, word in enumerate(
        _list("one two three four five six seven eight nine ten eleven twelve"), 1
    )
}
GROUPS = {
    "a pair of": 2, "a couple of": 2, "a trio of": 3, "a few": 3, "several": 3,
    "half a dozen": 6, "a dozen": 12,
}  # fmt: skip
DETERMINERS = frozenset(
    _list(
        "a an the some many each every both another this that these those his her its their my our "
        "your"
    )
)
PRONOUNS = frozenset(
    _list(
        "it them him her he she they one another each other itself themselves side top this that "
        "which who there"
    )
)
ADJECTIVES = frozenset(
    _list(
        "red green blue yellow orange purple pink brown black white gray grey golden gold silver "
        "beige cyan magenta turquoise violet teal dark light bright pale big small large tiny huge "
        "old new young shiny fluffy round tall short long wooden metal plastic soft hard striped "
        "spotted cute beautiful rusty wet dry"
    )
)
MEDIA = (
    "photo|photograph|picture|image|painting|drawing|illustration|sketch|rendering|render|"
    "portrait|close-up|closeup|shot|view|scene|poster|print|watercolor|watercolour|snapshot|"
    "depiction|artwork"
)
SURROUNDINGS = frozenset(
    _list(
        "room kitchen bedroom bathroom office studio beach forest park field fields street road "
        "garden sky desert mountains city landscape meadow background floor ground grass lawn snow "
        "water sea ocean lake river night day morning evening sunset sunrise dusk dawn light "
        "lighting rain fog mist village town jungle countryside yard backyard space air wall "
        "distance style"
    )
)

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
