"""Wordings of a text that look like a phrase which is not in it, in bounded time."""

from __future__ import annotations

import difflib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product

from .letters import BARRIER, EMBEDDING, Atom
from .lexicon import ARTICLES, FUNCTION_WORDS
from .words import Indexed, indexed

# All bounds are per phrase.
_MOST_WORDS = 24
"""Words of a phrase that anything is proposed for."""
_MOST_LETTERS = 200
"""Characters of such a phrase, and of what is proposed."""
_ALIKE = 8
"""Words of the text that may stand for one word of the phrase."""
_MENTIONS = 12
"""Places of each such word that are looked at."""
_STARTS = 12
"""Words of a text that a whole wording is tried from."""
_COMMON = 400
"""A pair of letters that more words of the text share says nothing."""
_BREAKS = frozenset("\n;!?")


def _pairs(word: str) -> set[str]:
    marked = f"\x00{word}\x00"
    return {marked[at : at + 2] for at in range(len(marked) - 1)} | set(word)


class _Vocabulary:
    """The different words of a text, found by the letters that they share with another word."""

    def __init__(self, text: Indexed) -> None:
        self.mentions: dict[str, list[int]] = defaultdict(list)
        for index, word in enumerate(text.words):
            if word.kind != BARRIER and not word.text.startswith(EMBEDDING):
                row = self.mentions[word.text]
                if len(row) < _MENTIONS:
                    row.append(index)
        self._size: dict[str, int] = {}
        self._holders: dict[str, list[str]] = defaultdict(list)
        for word in self.mentions:
            pairs = _pairs(word[:_MOST_LETTERS])
            self._size[word] = len(pairs)
            for pair in pairs:
                self._holders[pair].append(word)

    def alike(self, word: str) -> list[tuple[float, str]]:
        """(share of common letters and pairs of letters, word) of the most similar ones."""
        pairs = _pairs(word[:_MOST_LETTERS])
        rows = [self._holders[pair] for pair in pairs if pair in self._holders]
        shared: Counter[str] = Counter()
        for row in rows:
            if len(row) <= _COMMON:
                shared.update(row)
        if word in self.mentions:
            shared[word] = len(pairs)
        found = [(2 * n / (len(pairs) + self._size[w]), w) for w, n in shared.items()]
        return heapq.nlargest(_ALIKE, found)


@lru_cache(maxsize=4)
def _vocabulary(text: Indexed) -> _Vocabulary:
    return _Vocabulary(text)


def _starts(text: Indexed, wanted: list[Atom]) -> list[int]:
    """Where a wording like ``wanted`` may begin, the likeliest first."""
    votes: dict[int, float] = defaultdict(float)
    known = _vocabulary(text)
    for offset, word in enumerate(wanted):
        for share, found in known.alike(word.text):
            idle = word.text in FUNCTION_WORDS or found in FUNCTION_WORDS
            for at in known.mentions[found]:
                votes[at - offset] += share * (0.1 if idle else 1.0)
    return heapq.nsmallest(_STARTS, votes, key=lambda at: (-votes[at], at))


def _slice(text: Indexed, start: int, stop: int) -> list[Atom] | None:
    """The words from ``start`` to ``stop`` if they can be one wording."""
    if not 0 <= start < stop <= len(text.words):
        return None
    run = text.words[start:stop]
    first, last = run[0], run[-1]
    if first.text in FUNCTION_WORDS or last.text in FUNCTION_WORDS:
        return None
    between = text.text[first.start : last.end]
    if len(between) > 2 * _MOST_LETTERS or not _BREAKS.isdisjoint(between):
        return None
    # after a bracket 'embedding:name' is text; alone it would be read as an embedding
    if between.startswith(EMBEDDING):
        return None
    if any(word.kind == BARRIER or word.text.startswith(EMBEDDING) for word in run):
        return None
    return run


def _scores(text: Indexed, wanted: list[Atom], cutoff: float) -> dict[tuple[int, int], float]:
    """(start, stop) of wordings about as long as ``wanted`` -> how alike they are; 0 for those that
    are below ``cutoff`` for certain."""
    compared = difflib.SequenceMatcher(b=_said(wanted), autojunk=False)

    @cache
    def score(words: str) -> float:
        compared.set_seq1(words)
        near = compared.real_quick_ratio() >= cutoff and compared.quick_ratio() >= cutoff
        return compared.ratio() if near else 0.0

    scores: dict[tuple[int, int], float] = {}
    sizes = (len(wanted) - 1, len(wanted), len(wanted) + 1)
    for begin, shift, size in product(_starts(text, wanted), (-1, 0, 1), sizes):
        start, stop = begin + shift, begin + shift + size
        if (start, stop) not in scores and (run := _slice(text, start, stop)):
            scores[(start, stop)] = score(_said(run))
    return scores


def _said(words: list[Atom]) -> str:
    return " ".join(word.text for word in words)


def nearest(text: Indexed, phrase: str, cutoff: float) -> Iterator[str]:
    """Slices of ``text`` that are at least ``cutoff`` alike to ``phrase``, the best first.

    Alike is difflib's ratio (0..1) of the words: a plural or a small slip is about 0.9. A slice
    keeps its punctuation, and the article that the phrase has if it stands there, too. It never
    goes across the end of a sentence or the signs of a dynamic prompt.
    """
    wanted = indexed(phrase[: 4 * _MOST_LETTERS]).words
    article = ""
    while len(wanted) > 1 and wanted[0].text in ARTICLES:
        article, wanted = wanted[0].text, wanted[1:]
    if not wanted or len(wanted) > _MOST_WORDS or len(_said(wanted)) > _MOST_LETTERS:
        return
    scores = _scores(text, wanted, cutoff)
    for start, stop in sorted(scores, key=lambda run: (-scores[run], run)):
        if scores[(start, stop)] < cutoff:
            return
        if start and article and text.words[start - 1].text == article:
            before = text.text[text.words[start - 1].end : text.words[start].start]
            start -= not before.strip()
        yield text.text[text.words[start].start : text.words[stop - 1].end]


def nearest_wording(text: str, phrase: str, cutoff: float = 0.8) -> str | None:
    """The slice of ``text`` that is most alike to ``phrase`` (see ``nearest``), or None."""
    return next(iter(nearest(indexed(text), phrase, cutoff)), None)
