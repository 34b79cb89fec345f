"""A prompt as an editor shows it: its words in the typed text, and the things that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..layouts.layout import Layout
from ..text.letters import BARRIER, EMBEDDING, Atom
from ..text.lexicon import ARTICLES, FUNCTION_WORDS
from ..text.spelling import NOWHERE
from ..text.weights import read_weights
from .tokens import EncodedPrompt, content_positions, match_regions

_BREAKS = FUNCTION_WORDS - ARTICLES
# What may stand between two words of one thing: nothing, a blank, or what joins one word's parts.
_JOINED = re.compile(r"\s*|['\u2019_\u2010\u2011-]")


@dataclass(frozen=True)
class PromptWord:
    """One word or sign of a prompt.

    ``positions`` are the places in the conditioning of the tokens that spell any of it; ``start``
    and ``end`` its characters in the typed text, both -1 where the tokenizer spells another text.
    """

    text: str
    positions: tuple[int, ...]
    start: int = -1
    end: int = -1


def _positions(prompt: EncodedPrompt, atom: Atom) -> tuple[int, ...]:
    span = prompt.index.tokens(atom.start, atom.end)
    if span is None:
        return ()
    characters = prompt.index.places[slice(*span)]
    inside = prompt.positions[slice(*span)]
    return tuple(p for p, spelt in zip(inside, characters, strict=True) if spelt != NOWHERE)


def words_in(text: str, prompt: EncodedPrompt) -> tuple[PromptWord, ...]:
    """The words and signs of ``prompt``, where they stand in the ``text`` it was encoded from."""
    plain, origin = read_weights(text)
    known = prompt.index.text
    words: list[PromptWord] = []
    for atom in known.atoms:
        positions = _positions(prompt, atom)
        if not positions:
            continue
        start, end = -1, -1
        if prompt.index.is_placed and plain == known.text:
            start, end = origin[atom.start], origin[atom.end - 1] + 1
        words.append(PromptWord(atom.text, positions, start, end))
    return tuple(words)


def _things(prompt: EncodedPrompt) -> list[tuple[str, tuple[int, ...]]]:
    """(wording, positions of its tokens) of what may name one thing, in the prompt's order.

    That is what stands between punctuation, 'and', 'on' etc.: 'a red star and a blue circle' gives
    'a red star' and 'a blue circle'. Only a proposal for an editor, each of which is found in the
    prompt; runs of articles alone, textual embeddings and dynamic prompts are left out.
    """
    index = prompt.index
    known = index.text
    things: list[tuple[str, tuple[int, ...]]] = []
    run: list[Atom] = []

    def close() -> None:
        # the choices of '{red|blue} car', and what they belong to, name no one thing
        one = all(word.kind != BARRIER for word in run)
        if one and any(word.text not in ARTICLES for word in run):
            first, last = run[0].start, run[-1].end
            span = index.whole(first, last)
            if span:
                text = known.text[first:last].lower()
                things.append((text, content_positions(prompt, prompt.positions[slice(*span)])))
        run.clear()

    for atom in known.words:
        if run and not _JOINED.fullmatch(known.text[run[-1].end : atom.start]):
            close()
        if atom.text in _BREAKS or atom.text.startswith(EMBEDDING):
            close()
        else:
            run.append(atom)
    close()
    return things


def describe_match(
    layout: Layout, prompt: EncodedPrompt, encode: Callable[[str], EncodedPrompt]
) -> dict[str, Any]:
    """What an editor shows of a layout against its prompt, as plain JSON values.

    ``words``: text, start and end (characters in ``layout.prompt``) of each word. ``things``:
    wordings to propose, ``free``: those of them that no region speaks of yet. ``regions``, in the
    layout's order: indices into ``words`` (empty if the sampler would refuse the region), ``held``
    and ``suggestion`` as in ``PhraseMatch``.
    """
    words = words_in(layout.prompt, prompt)
    words_at: dict[int, list[int]] = {}
    for index, word in enumerate(words):
        for position in word.positions:
            words_at.setdefault(position, []).append(index)
    regions, meant = [], set()
    for match in match_regions(layout, prompt, encode):
        meant.update(match.positions)
        found = dict.fromkeys(word for p in match.positions for word in words_at.get(p, ()))
        regions.append({
            "words": list(found), "found": bool(match.positions),
            "held": match.held, "suggestion": match.suggestion,
        })  # fmt: skip
    things = _things(prompt)
    return {
        "words": [{"text": w.text, "start": w.start, "end": w.end} for w in words],
        "things": [text for text, _ in things],
        "free": [text for text, positions in things if meant.isdisjoint(positions)],
        "regions": regions,
    }
