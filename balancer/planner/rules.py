"""A layout by rules, without any model: an English prompt's things, counts and words for places."""

from __future__ import annotations

from ..errors import RealCompoError
from ..layouts.layout import Region, checked_phrases, checked_prompt
from ..llm.protocol import MAX_REGIONS
from ..text.parse import occurrences, parse_prompt
from ..text.weights import plain_text
from .answer import Plan
from .place import place

_MOST_THINGS = 16


def plan_by_rules(prompt: str, width: int = 0, height: int = 0) -> Plan:
    """Regions for the noun phrases of ``prompt``; the same prompt always gives the same ones.

    Numbers give as many boxes that share the phrase; 'left of', 'above', 'between', 'in the top
    left corner' and the like are obeyed; what nothing is said about stands side by side in the
    order of the prompt. ``width`` and ``height`` (pixels, 0 = square) shape the boxes. Raises
    RealCompoError for input 'prompt' if it names no thing.
    """
    text = plain_text(checked_prompt(prompt))
    parsed = parse_prompt(text)
    if not parsed.things:
        raise RealCompoError(
            "prompt",
            "the rules find no thing in it",
            "Name things, as in 'a red star left of a blue circle', or use a language model",
        )
    checked_phrases(thing.phrase for thing in parsed.things)
    notes = list(parsed.notes)
    if len(parsed.things) > _MOST_THINGS:
        notes.append(f"only the first {_MOST_THINGS} of {len(parsed.things)} things have boxes")
        parsed.relations = [r for r in parsed.relations if max(r.one, r.other) < _MOST_THINGS]
        del parsed.things[_MOST_THINGS:]
    aspect = width / height if width > 0 and height > 0 else 1.0
    boxes, said = place(parsed, aspect)
    # Copies share one mention; a second mention of the same words is another occurrence.
    regions = [
        Region(thing.phrase, box, occurrence=occurrence)
        for thing, occurrence, copies in zip(
            parsed.things, occurrences(text, parsed.things), boxes, strict=True
        )
        for box in copies
    ]
    if len(regions) > MAX_REGIONS:
        notes.append(f"only the first {MAX_REGIONS} of {len(regions)} boxes were kept")
    return Plan(tuple(regions[:MAX_REGIONS]), notes=(*notes, *said))
