"""Which prompts a finetuning on pairs of objects sees, from what a user typed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ..errors import RealCompoError
from ..text.parse import parse_prompt
from ..text.weights import escaped, plain_text
from ..text.words import find_phrase
from ..values.checked import lines

SEPARATOR = "|"
LineKind = Literal["prompts", "concepts"]
_TO_BRACE = re.compile(r"[^{}]*[{}]?")
MOST_CONCEPTS = 1000
"""Concepts to pair: half a million pairs are shuffled."""
TEMPLATE = "a photo of {a} and {b}"


@dataclass(frozen=True)
class TrainingPrompt:
    """One prompt and the phrases of its objects, in the prompt's own wording."""

    text: str
    objects: tuple[str, ...]


def _parts(line: str) -> list[str]:
    """``line`` cut at every |, but not between the choices of a dynamic prompt, '{red|blue}'."""
    cuts = [
        run.start() + index
        for run in _TO_BRACE.finditer(line)
        if not run.group().endswith("}")
        for index, sign in enumerate(run.group())
        if sign == SEPARATOR
    ]
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(line)]
    return [line[start:end] for start, end in zip(starts, ends, strict=True)]


def parse_lines(text: str) -> list[TrainingPrompt]:
    """Prompts from lines 'a cat and a dog | a cat | a dog'.

    Blank lines and lines that begin with # are passed over. Weights, as in '(red:1.3)', are taken
    out: what is trained is what the words mean, not how loud they are. A line without objects gets
    those that the planner's noun-phrase rules find in it. Raises RealCompoError for an object that
    its prompt does not hold, and when there are no prompts.
    """
    prompts = []
    for number, line in enumerate(lines(text, "prompts"), 1):
        if not line or line.startswith("#"):
            continue
        prompt, *objects = (plain_text(part.strip()) for part in _parts(line))
        objects = [thing for thing in objects if thing.strip()]
        if not objects:
            objects = [thing.phrase for thing in parse_prompt(prompt).things]
        for thing in objects:
            if not find_phrase(prompt, thing):
                raise RealCompoError(
                    "prompts", f"line {number}: '{thing}' is not in '{prompt}'",
                    "Name objects after | in the prompt's own words",
                )  # fmt: skip
        prompts.append(TrainingPrompt(escaped(prompt), tuple(map(escaped, objects))))
    if not prompts:
        raise RealCompoError(
            "prompts", "there is no prompt",
            "Write one per line, as 'a cat and a dog | a cat | a dog'",
        )  # fmt: skip
    return prompts


def draw_pairs(text: str, template: str, count: int, seed: int) -> list[TrainingPrompt]:
    """``count`` prompts, each about two of the concepts in ``text`` (one per line).

    ``template`` has {a} and {b} where they go, and may have several wordings with | between.
    Different pairs are drawn as long as there are any; ``seed`` decides which, in which order and
    wording. Raises RealCompoError for fewer than two concepts and for another template.
    """
    given = lines(text, "prompts")
    concepts = list(dict.fromkeys(x for x in given if x and not x.startswith("#")))
    if len(concepts) > MOST_CONCEPTS:
        raise RealCompoError(
            "prompts", f"there are {len(concepts)} concepts", f"Give up to {MOST_CONCEPTS}"
        )
    if len(concepts) < 2:
        raise RealCompoError(
            "prompts", f"there are {len(concepts)} concepts to draw pairs from",
            "Write at least two, one per line, or set 'lines' to prompts",
        )  # fmt: skip
    wordings = [part.strip() for part in template.split(SEPARATOR) if part.strip()]
    if not wordings or any(w.count("{a}") != 1 or w.count("{b}") != 1 for w in wordings):
        raise RealCompoError(
            "template", f"'{template}' does not have {{a}} and {{b}} once each",
            f"Write it as '{TEMPLATE}'",
        )  # fmt: skip
    rng = random.Random(seed)
    pairs = list(combinations(concepts, 2))
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        rng.shuffle(pairs)
        chosen += pairs
    prompts = []
    for one, other in chosen[:count]:
        a, b = (one, other) if rng.random() < 0.5 else (other, one)
        text = rng.choice(wordings).replace("{a}", a).replace("{b}", b)
        prompts.append(TrainingPrompt(text, (a, b)))
    return prompts
