"""Which tokens of an encoded prompt a region's phrase stands for.

The phrase goes through the same tokenizer as the prompt. First it is searched as a contiguous run
of token ids; where that is not there, its words are searched in the text that the tokens spell
(``text/words.py``), and the tokens are those that hold them. So a phrase that planners, rules or a
suggestion take from the prompt is found whatever the tokenizer makes of its borders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from ..errors import RealCompoError, shown
from ..layouts.layout import Layout, Region
from ..text.encoded_prompt import EncodedPrompt, Span
from ..text.letters import has_words
from ..text.lexicon import ARTICLES, FUNCTION_WORDS
from ..text.nearest import nearest
from ..text.weights import plain_text
from ..text.words import indexed, loose_spans

CHUNK = 77
"""Positions of one CLIP chunk in the conditioning, start and end token included."""

_LONGEST_SHOWN = 300
"""Characters of a prompt in a message."""
_SUGGESTIONS = 4
"""Near wordings that are tried before none is proposed."""


def _says(words: tuple[str, ...]) -> bool:
    """Whether more than articles and signs is left."""
    return any(has_words(word) and word.casefold() not in ARTICLES for word in words)


def _by_ids(prompt: EncodedPrompt, phrase: EncodedPrompt) -> list[Span]:
    """All runs of the phrase's tokens; without its articles in front if need be.

    The full wording goes first, so that 'the red car' means the second car of 'a red car and the
    red car'; a phrase whose article differs from the prompt's still finds its object.
    """
    skip = 0
    while None not in phrase.ids:
        ids = phrase.ids[skip:]
        found = [(start, start + len(ids)) for start in prompt.index.ids.find(ids)]
        found = [span for span in found if not prompt.index.cuts(span)]
        if found:
            return found
        if skip + 1 >= len(phrase) or phrase.words[skip].casefold() not in ARTICLES:
            break
        skip += 1
        if not _says(phrase.words[skip:]):
            break
    return []


def _searches(prompt: EncodedPrompt, phrase: EncodedPrompt, typed: str) -> Iterator[list[Span]]:
    """Occurrences of ``phrase`` by one way of searching after the other."""
    if phrase.missing:
        return  # what is left of it is another phrase
    yield _by_ids(prompt, phrase)
    index = prompt.index
    # brackets in a wording of the prompt's may be no weights: '(fate)' of an escaped one
    for wanted in dict.fromkeys((typed, plain_text(typed), phrase.index.text.text)):
        spans = (index.whole(start, end) for start, end in loose_spans(index.text, wanted))
        yield [span for span in spans if span is not None]


def _spans(
    prompt: EncodedPrompt, phrase: EncodedPrompt, typed: str, need: int = 1
) -> list[Span]:
    """All occurrences by the first search that has ``need``, else by the first that has any.

    ``typed`` is the text that ``phrase`` was encoded from. Its leading articles may be missing
    from the prompt.
    """
    some: list[Span] = []
    for found in _searches(prompt, phrase, typed):
        if len(found) >= need:
            return found
        some = some or found
    return some


def content_positions(prompt: EncodedPrompt, positions: tuple[int, ...]) -> tuple[int, ...]:
    """``positions`` without articles, conjunctions, prepositions and punctuation.

    Their maps are spread over the picture and would blur the average of a phrase. If nothing else
    is left, all positions stay.
    """
    tokens = [prompt.index.at[position] for position in positions]
    # once per word: a text without spaces may be one word of thousands of tokens
    content = {
        word: word.casefold() not in FUNCTION_WORDS and has_words(word)
        for word in {prompt.words[token] for token in tokens}
    }
    # a textual embedding has no id, and is content
    kept = tuple(
        position
        for position, token in zip(positions, tokens, strict=True)
        if prompt.ids[token] is None or content[prompt.words[token]]
    )
    return kept or positions


def suggest(
    prompt: EncodedPrompt, phrase: str, encode: Callable[[str], EncodedPrompt]
) -> str | None:
    """The wording in ``prompt`` that looks most like ``phrase``, or None if nothing does.

    It keeps its punctuation and the phrase's article, and is one that is found in the prompt.
    """
    for wording in islice(nearest(prompt.index.text, plain_text(phrase), 0.6), _SUGGESTIONS):
        if _spans(prompt, encode(wording), wording):
            return wording
    return None


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
    holds instead (None if nothing is near, or if the phrase is there). ``missing`` are the
    textual embeddings that the phrase asks for and nobody has.
    """

    positions: tuple[int, ...]
    occurrence: int
    held: int
    suggestion: str | None = None
    missing: tuple[str, ...] = ()


def match_regions(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> tuple[PhraseMatch, ...]:
    """One match for every region, in the layout's order; never raises for what is not found.

    ``prompt`` is the encoded text of the conditioning and ``encode`` the tokenizer it came from.
    """
    groups: dict[object, list[tuple[int, Region]]] = {}
    phrases: dict[str, EncodedPrompt] = {}
    result: dict[int, PhraseMatch] = {}
    for index, region in enumerate(layout.regions):
        if region.tokens is not None:
            result[index] = PhraseMatch(region.tokens, 0, 1)
            continue
        phrase = phrases.get(region.phrase) or encode(region.phrase)
        phrases[region.phrase] = phrase
        # embeddings have no ids to tell them by
        key = region.phrase if None in phrase.ids or not phrase.ids else phrase.ids
        groups.setdefault(key, []).append((index, region))
    for regions in groups.values():
        typed = regions[0][1].phrase
        phrase = phrases[typed]
        need = 1 + max(region.occurrence for _, region in regions)
        spans = _spans(prompt, phrase, typed, need)
        if not spans:
            near = None if phrase.missing else suggest(prompt, typed, encode)
            for index, region in regions:
                result[index] = PhraseMatch((), region.occurrence, 0, near, phrase.missing)
            continue
        for index, occurrence in _occurrences(regions, len(spans)).items():
            positions: tuple[int, ...] = ()
            if occurrence < len(spans):
                positions = prompt.positions[slice(*spans[occurrence])]
            result[index] = PhraseMatch(positions, occurrence, len(spans))
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
        said = shown(region.phrase, _LONGEST_SHOWN)
        if region.tokens is not None:
            result.append(region.tokens)
        elif match.missing:
            raise RealCompoError(
                "layout",
                f"region {number}: the phrase {said} names the embedding "
                f"{shown(match.missing[0], _LONGEST_SHOWN)}, which is not there",
                "Put its file into the models' folder 'embeddings', or name the thing in words",
            )
        elif not match.held:
            text = shown(prompt.index.text.text, _LONGEST_SHOWN)
            hint = f"Did you mean '{match.suggestion}'? " if match.suggestion else ""
            raise RealCompoError(
                "layout",
                f"region {number}: the phrase {said} is not in the prompt",
                f"{hint}Use the prompt's own wording, here {text}",
            )
        elif not match.positions:
            raise RealCompoError(
                "layout",
                f"region {number} asks for occurrence {match.occurrence + 1} of "
                f"{said}, but the prompt holds it {match.held} times",
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


def plain_prompt(text: str) -> EncodedPrompt:
    """``text`` as if every word and sign of it were a token; positions count them from 0.

    For encoders whose pieces depend on case and spaces: what is found among words is found there,
    by the tokens that spell these words.
    """
    parts = indexed(text).atoms
    ids = tuple(int.from_bytes(a.text.encode("utf-8", "surrogatepass"), "big") for a in parts)
    places = tuple((part.start, part.end) for part in parts)
    words = tuple(part.text for part in parts)
    return EncodedPrompt(ids, words, tuple(range(len(parts))), text, places)
