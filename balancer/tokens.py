"""Which tokens of an encoded prompt a region's phrase stands for.

Matching runs on token ids, not on text: the phrase goes through the same tokenizer as the prompt
and is found as a contiguous run. Word pieces, upper and lower case, punctuation, weights such as
``(red car:1.2)`` and the borders of 77-token chunks therefore need no rules of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from .errors import RealCompoError
from .layout import Layout, Region

CHUNK = 77
"""Positions of one CLIP chunk in the conditioning, start and end token included."""

ARTICLES = frozenset({"a", "an", "the"})

# Closed word classes only: their attention says nothing about one object's place. Counts ("two")
# and adjectives stay, they belong to the object.
FUNCTION_WORDS = ARTICLES | {
    *("and", "or", "nor", "but", "of", "in", "on", "at", "to", "with", "without", "by", "for"),
    *("from", "into", "onto", "near", "next", "beside", "besides", "between", "behind", "under"),
    *("below", "beneath", "over", "above", "inside", "outside", "against", "along", "across"),
    *("around", "through", "as", "than", "that", "which", "is", "are", "its", "his", "her"),
    *("their",),
}


@dataclass(frozen=True)
class EncodedPrompt:
    """The real text tokens of a prompt, in order; start, end and padding tokens are left out.

    ``ids`` are token ids (None for the vectors of a textual embedding, which match no phrase),
    ``words`` the text of the word each token belongs to ('' if there is none) and ``positions``
    the token's place in the conditioning, chunk * 77 + index. All three have the same length.
    """

    ids: tuple[int | None, ...]
    words: tuple[str, ...]
    positions: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.words) == len(self.positions):
            raise ValueError("ids, words and positions of an encoded prompt differ in length")

    def __len__(self) -> int:
        return len(self.ids)


def _starts(prompt: EncodedPrompt, ids: tuple[int | None, ...]) -> list[int]:
    """Indices into ``prompt`` where ``ids`` begins, from left to right, without overlap."""
    found: list[int] = []
    if not ids or None in ids:
        return found
    index = 0
    while index + len(ids) <= len(prompt.ids):
        if prompt.ids[index : index + len(ids)] == ids:
            found.append(index)
            index += len(ids)
        else:
            index += 1
    return found


def _spans(prompt: EncodedPrompt, phrase: EncodedPrompt) -> list[tuple[int, int]]:
    """All occurrences as (start, length); without its articles in front if need be.

    The full wording goes first, so that 'the red car' means the second car of 'a red car and the
    red car'; a phrase whose article differs from the prompt's still finds its object.
    """
    skip = 0
    while True:
        ids = phrase.ids[skip:]
        starts = _starts(prompt, ids)
        if starts:
            return [(start, len(ids)) for start in starts]
        if skip + 1 >= len(phrase) or phrase.words[skip].casefold() not in ARTICLES:
            return []
        skip += 1


def count_phrase(prompt: EncodedPrompt, phrase: EncodedPrompt) -> int:
    """How many occurrences ``match_phrase`` can tell apart."""
    return len(_spans(prompt, phrase))


def match_phrase(
    prompt: EncodedPrompt, phrase: EncodedPrompt, occurrence: int = 0
) -> tuple[int, ...]:
    """Positions of one occurrence of ``phrase`` in ``prompt``: the whole run, function words too.

    A phrase's leading articles may be missing from the prompt. Returns an empty tuple if the
    prompt holds the phrase less than ``occurrence + 1`` times.
    """
    spans = _spans(prompt, phrase)
    if not 0 <= occurrence < len(spans):
        return ()
    start, length = spans[occurrence]
    return prompt.positions[start : start + length]


def content_positions(prompt: EncodedPrompt, positions: tuple[int, ...]) -> tuple[int, ...]:
    """``positions`` without articles, conjunctions, prepositions and punctuation.

    Their maps are spread over the picture and would blur the average of a phrase. If nothing else
    is left, all positions stay.
    """
    word_at = dict(zip(prompt.positions, prompt.words, strict=True))
    kept = tuple(
        p
        for p in positions
        if word_at[p].casefold() not in FUNCTION_WORDS and any(c.isalnum() for c in word_at[p])
    )
    return kept or positions


def _wording(prompt: EncodedPrompt) -> list[str]:
    """The prompt's words in order; the pieces of one word, which share its text, count once."""
    words: list[str] = []
    before = ""
    for word in prompt.words:
        if word and word != before:
            words.append(word)
        before = word
    return words


def suggest(prompt: EncodedPrompt, phrase: EncodedPrompt) -> str | None:
    """The wording in ``prompt`` that looks most like ``phrase``, or None if nothing does."""
    words = [word for word in _wording(prompt) if any(c.isalnum() for c in word)]
    wanted = _wording(phrase)
    while len(wanted) > 1 and wanted[0].casefold() in ARTICLES:
        wanted = wanted[1:]
    runs = {
        " ".join(words[start : start + length])
        for length in range(max(1, len(wanted) - 1), len(wanted) + 2)
        for start in range(len(words) - length + 1)
        if words[start].casefold() not in FUNCTION_WORDS
        and words[start + length - 1].casefold() not in FUNCTION_WORDS
    }
    best = difflib.get_close_matches(" ".join(wanted), sorted(runs), n=1, cutoff=0.6)
    return best[0] if best else None


def _occurrences(regions: list[tuple[int, Region]], held: int) -> dict[int, int]:
    """Region index -> occurrence, for regions of one phrase that the prompt holds ``held`` times.

    Without an explicit occurrence, equal phrases take the prompt's occurrences one after the
    other, and the last one is shared by all that remain: 'two corgis' is one span for two boxes.
    """
    if any(region.occurrence for _, region in regions):
        return {index: region.occurrence for index, region in regions}
    return {index: min(order, held - 1) for order, (index, _) in enumerate(regions)}


@dataclass(frozen=True)
class PhraseMatch:
    """Where one region's words stand in an encoded prompt.

    ``positions`` is the whole run of the phrase, function words too, or the region's explicit
    tokens; empty if the prompt does not hold the occurrence. ``occurrence`` is the one meant,
    ``held`` how often the prompt holds the phrase, ``suggestion`` the nearest wording that it
    holds instead (None if nothing is near, or if the phrase is there).
    """

    positions: tuple[int, ...]
    occurrence: int
    held: int
    suggestion: str | None = None


def match_regions(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> tuple[PhraseMatch, ...]:
    """One match for every region, in the layout's order; never raises for what is not found.

    ``prompt`` is the encoded text of the conditioning and ``encode`` the tokenizer it came from.
    """
    groups: dict[tuple[int | None, ...], list[tuple[int, Region]]] = {}
    phrases: dict[tuple[int | None, ...], EncodedPrompt] = {}
    result: dict[int, PhraseMatch] = {}
    for index, region in enumerate(layout.regions):
        if region.tokens is not None:
            result[index] = PhraseMatch(region.tokens, 0, 1)
            continue
        phrase = encode(region.phrase)
        phrases[phrase.ids] = phrase
        groups.setdefault(phrase.ids, []).append((index, region))
    for ids, regions in groups.items():
        phrase, held = phrases[ids], count_phrase(prompt, phrases[ids])
        if not held:
            near = suggest(prompt, phrase)
            for index, region in regions:
                result[index] = PhraseMatch((), region.occurrence, 0, near)
            continue
        for index, occurrence in _occurrences(regions, held).items():
            span = match_phrase(prompt, phrase, occurrence)
            result[index] = PhraseMatch(span, occurrence, held)
    return tuple(result[index] for index in range(len(layout.regions)))


def phrase_spans(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> tuple[tuple[int, ...], ...]:
    """Token positions of every region's whole wording, function words too, in the layout's order.

    ``prompt`` is the encoded text of the conditioning and ``encode`` the tokenizer it came from.
    Explicit ``tokens`` of a region are taken as they are. Raises RealCompoError for a phrase or
    an occurrence that the prompt does not hold, and for an empty prompt.
    """
    if not len(prompt) and any(region.tokens is None for region in layout.regions):
        raise RealCompoError(
            "layout",
            "the layout knows no prompt, so its phrases cannot be found in it",
            "Connect the prompt's text to the layout node's input 'prompt'",
        )
    result: list[tuple[int, ...]] = []
    matches = match_regions(layout, prompt, encode)
    for number, (region, match) in enumerate(zip(layout.regions, matches, strict=True), 1):
        if region.tokens is not None:
            result.append(region.tokens)
        elif not match.held:
            hint = f"Did you mean '{match.suggestion}'? " if match.suggestion else ""
            raise RealCompoError(
                "layout",
                f"region {number}: the phrase '{region.phrase}' is not in the prompt",
                f"{hint}Use the prompt's own wording, here '{' '.join(_wording(prompt))}'",
            )
        elif not match.positions:
            raise RealCompoError(
                "layout",
                f"region {number} asks for occurrence {match.occurrence + 1} of "
                f"'{region.phrase}', but the prompt holds it {match.held} times",
                "Choose an occurrence that is there, or word the prompt accordingly",
            )
        else:
            result.append(match.positions)
    return tuple(result)


def resolve_tokens(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> tuple[tuple[int, ...], ...]:
    """Token positions of every region, to be averaged over, in the layout's order.

    As ``phrase_spans``, without the function words of a phrase that was searched.
    """
    spans = phrase_spans(layout, prompt, encode)
    return tuple(
        span if region.tokens is not None else content_positions(prompt, span)
        for region, span in zip(layout.regions, spans, strict=True)
    )
