"""The tokens of an encoded prompt, and the text that they spell, ready for searches."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from .letters import WORD
from .spelling import NOWHERE
from .words import Indexed, Runs

Span = tuple[int, int]
"""First token and the one after the last, as indices into an encoded prompt."""


@dataclass(frozen=True)
class EncodedPrompt:
    """The real text tokens of a prompt, in order; start, end and padding tokens are left out.

    ``ids`` are token ids (None for the vectors of a textual embedding), ``words`` the text of the
    word each token belongs to ('' if there is none) and ``positions`` the token's place in the
    conditioning, chunk * 77 + index. All three have the same length.

    ``text`` is what was encoded, without weights, and ``places`` the characters of it that each
    token spells (start, end exclusive; ``spelling.NOWHERE`` if none). Without ``places`` the text
    is put together from ``words``. ``missing`` are the names of textual embeddings that the text
    asks for and the tokenizer does not have.
    """

    ids: tuple[int | None, ...]
    words: tuple[str, ...]
    positions: tuple[int, ...]
    text: str = ""
    places: tuple[tuple[int, int], ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.words) == len(self.positions):
            raise ValueError("ids, words and positions of an encoded prompt differ in length")
        if self.places and len(self.places) != len(self.ids):
            raise ValueError("places and ids of an encoded prompt differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> PromptIndex:
        """What searches need, made once."""
        return PromptIndex(self)


def _spelt(words: tuple[str, ...]) -> tuple[str, list[tuple[int, int]]]:
    """The words in a row, and the place of every token; neighbours of one text are one word."""
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    start, before = 0, None
    for word in words:
        if word and word == before:
            places.append(places[-1])
        elif word:
            parts.append(word)
            places.append((start, start + len(word)))
            start += len(word) + 1
        else:
            places.append(NOWHERE)
        before = word
    return " ".join(parts), places


class PromptIndex:
    """An encoded prompt made ready for searches: its tokens by id, its text by words."""

    def __init__(self, prompt: EncodedPrompt) -> None:
        self.is_placed = bool(prompt.places) or not prompt.ids and bool(prompt.text)
        text, places = prompt.text, list(prompt.places)
        if not self.is_placed:
            text, places = _spelt(prompt.words)
        self.ids = Runs(prompt.ids)
        self.text = Indexed(text)
        self.places = places
        self.at = {position: index for index, position in enumerate(prompt.positions)}
        self._placed = [index for index, span in enumerate(places) if span != NOWHERE]
        self._starts = [places[index][0] for index in self._placed]
        self._ends = [places[index][1] for index in self._placed]
        self._word_starts = [word.start for word in self.text.words]

    def tokens(self, start: int, end: int) -> Span | None:
        """The tokens that spell any of the characters ``start`` to ``end``; None if none does."""
        first = bisect_right(self._ends, start)
        stop = bisect_left(self._starts, end)
        return (self._placed[first], self._placed[stop - 1] + 1) if first < stop else None

    def whole(self, start: int, end: int) -> Span | None:
        """As ``tokens``, but None, too, where a word between is spelled by no token."""
        first = bisect_left(self._word_starts, start)
        for word in islice(self.text.words, first, None):
            if word.start >= end:
                break
            if word.kind == WORD and self.tokens(word.start, word.end) is None:
                return None
        return self.tokens(start, end)

    def cuts(self, span: Span) -> bool:
        """Whether a run of tokens begins or ends within a word: '2' in '12'."""
        if not self.is_placed:
            return False
        start, end = self.places[span[0]][0], self.places[span[1] - 1][1]
        return any(edge >= 0 and self.text.cuts(edge) for edge in (start, end))
