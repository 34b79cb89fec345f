"""A prompt as an editor shows it: its words in the typed text, and the things that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .layout import Layout
from .tokens import ARTICLES, FUNCTION_WORDS, EncodedPrompt, match_regions

EMBEDDING = re.compile(r"embedding:\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Word:
    """One word as the tokenizer reads it.

    ``positions`` are its tokens' places in the conditioning; ``start`` and ``end`` its characters
    in the typed text, both -1 where the text spells it otherwise than the tokenizer.
    """

    text: str
    positions: tuple[int, ...]
    start: int = -1
    end: int = -1


def _grouped(prompt: EncodedPrompt) -> list[tuple[str, list[int]]]:
    """(word, positions) in order; neighbouring pieces of one text count as one word."""
    groups: list[tuple[str, list[int]]] = []
    rest = ""
    for text, position in zip(prompt.words, prompt.positions, strict=True):
        # The pieces of one word carry its whole text; a word said twice in a row looks the same,
        # and one group for both is right enough for showing.
        if groups and text == rest:
            groups[-1][1].append(position)
        else:
            groups.append((text, [position]))
        rest = text
    return groups


def words_in(text: str, prompt: EncodedPrompt) -> tuple[Word, ...]:
    """The words of ``prompt``, found again in the ``text`` that it was encoded from."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose lower case is longer would shift every place
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    words: list[Word] = []
    cursor = 0
    for word, positions in _grouped(prompt):
        if not word:
            embedding = EMBEDDING.search(text, cursor)
            cursor = embedding.end() if embedding else cursor
            words.append(Word("", tuple(positions)))
            continue
        start = lowered.find(word.lower(), cursor)
        if start < 0:
            words.append(Word(word, tuple(positions)))
            continue
        cursor = start + len(word)
        words.append(Word(word, tuple(positions), start, cursor))
    return tuple(words)


def things_in(words: tuple[Word, ...]) -> tuple[str, ...]:
    """Wordings that may name one thing each: what stands between punctuation, 'and', 'on' etc.

    'a red star and a blue circle' gives 'a red star' and 'a blue circle'. Only a proposal for an
    editor; runs of articles alone are left out.
    """
    breaks = FUNCTION_WORDS - ARTICLES
    things: list[str] = []
    run: list[str] = []
    for text in [word.text for word in words] + [""]:
        low = text.casefold()
        if low in breaks or not any(c.isalnum() for c in text):
            if any(word.casefold() not in ARTICLES for word in run):
                things.append(" ".join(run))
            run = []
        else:
            run.append(text)
    return tuple(things)


def describe_match(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> dict[str, Any]:
    """What an editor shows of a layout against its prompt, as plain JSON values.

    ``words``: text, start and end (characters in ``layout.prompt``) of each word. ``things``:
    wordings to propose. ``regions``, in the layout's order: indices into ``words`` (empty if the
    sampler would refuse the region), ``held`` and ``suggestion`` as in ``PhraseMatch``.
    """
    words = words_in(layout.prompt, prompt)
    word_at = {p: index for index, word in enumerate(words) for p in word.positions}
    regions = []
    for match in match_regions(layout, prompt, encode):
        found = dict.fromkeys(word_at[p] for p in match.positions if p in word_at)
        regions.append({
            "words": list(found), "found": bool(match.positions),
            "held": match.held, "suggestion": match.suggestion,
        })  # fmt: skip
    return {
        "words": [{"text": w.text, "start": w.start, "end": w.end} for w in words],
        "things": list(things_in(words)),
        "regions": regions,
    }
