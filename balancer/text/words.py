"""The words of a prompt, before any tokenizer: where a phrase stands, in the text's own words.

Planners and converters handle wordings; which tokens those are is settled later, by the tokenizer
of the prompt's encoder (``attention/tokens.py``), which searches with the same splitter
(``letters.py``) and in the same order. A phrase that is a slice of the prompt is always found
there.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .letters import BARRIER, PUNCTUATION, WORD, Atom, atoms
from .lexicon import ARTICLES
from .weights import plain_text

# What holds the parts of one word together: dog's, red-haired.
_HYPHEN = re.compile("['`\u2018\u2019\u02bc\u00b4\uff07\u2010\u2011-]")
_PHRASE = 200
"""Characters of a text that is short enough to be kept with its words."""
_SPOKEN = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Word:
    """One word of a text: its lower-case form, and where it stands (end exclusive)."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """All words of ``text`` in order; punctuation is left out.

    ``dog's`` and ``red-haired`` are one word each, and so is what stands between two spaces of a
    script that has none.
    """
    return list(_phrase_words(text)) if len(text) <= _PHRASE else _words(text)


def word_texts(text: str) -> list[str]:
    """The lower-case forms of ``words_of(text)``."""
    return [word.text for word in words_of(text)]


@lru_cache(maxsize=1 << 12)
def _phrase_words(text: str) -> tuple[Word, ...]:
    return tuple(_words(text))


def _words(text: str) -> list[Word]:
    words: list[Word] = []
    for atom in atoms(text):
        if atom.kind != WORD:
            continue
        between = text[words[-1].end : atom.start] if words else " "
        joined = between == "" or _HYPHEN.fullmatch(between)
        if joined and _SPOKEN.search(words[-1].text) and _SPOKEN.search(atom.text):
            sign = "" if not between else "-" if between in "-\u2010\u2011" else "'"
            before = words.pop()
            words.append(Word(before.text + sign + atom.text, before.start, atom.end))
        else:
            words.append(Word(atom.text, atom.start, atom.end))
    return words


class Runs:
    """Finds runs of items in a row of items, in time that does not depend on their repetition."""

    def __init__(self, row: Iterable[Hashable]) -> None:
        codes: dict[Hashable, str] = {}
        self._codes = codes
        self._line = "".join(codes.setdefault(item, chr(len(codes))) for item in row)

    def find(self, wanted: Sequence[Hashable]) -> list[int]:
        """Where ``wanted`` begins, from left to right, without overlap."""
        codes = [self._codes.get(item) for item in wanted]
        if not codes or None in codes:
            return []
        run = "".join(code for code in codes if code is not None)
        found: list[int] = []
        index = self._line.find(run)
        while index >= 0:
            found.append(index)
            index = self._line.find(run, index + len(run))
        return found


class Indexed:
    """A text cut into words once, for many searches."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.atoms = atoms(text)

    @cached_property
    def words(self) -> list[Atom]:
        """Words and barriers, punctuation left out."""
        return [atom for atom in self.atoms if atom.kind != PUNCTUATION]

    @cached_property
    def exact(self) -> Runs:
        """Words and punctuation."""
        return Runs(atom.text for atom in self.atoms)

    @cached_property
    def loose(self) -> Runs:
        """Words and barriers alone."""
        return Runs((atom.text, atom.kind) for atom in self.words)

    @cached_property
    def _starts(self) -> list[int]:
        return [atom.start for atom in self.words]

    def next_word(self, start: int) -> int:
        """Where the first word at or behind character ``start`` begins; the text's end if none."""
        index = bisect_left(self._starts, start)
        while index < len(self.words) and self.words[index].kind != WORD:
            index += 1
        return self._starts[index] if index < len(self.words) else len(self.text)

    def cuts(self, border: int) -> bool:
        """Whether the border before character ``border`` goes through a word."""
        index = bisect_right(self._starts, border) - 1
        return index >= 0 and self._starts[index] < border < self.words[index].end


@lru_cache(maxsize=8)
def indexed(text: str) -> Indexed:
    """``text`` cut into words; the last few texts are kept."""
    return Indexed(text)


def without_articles(row: list[Atom]) -> Iterator[list[Atom]]:
    """``row``, then without one article in front, without two ...; never articles alone."""
    yield row
    for skip, atom in enumerate(row, 1):
        rest = row[skip:]
        if atom.text not in ARTICLES or all(
            a.text in ARTICLES or a.kind == PUNCTUATION for a in rest
        ):
            return
        yield rest


def _spans(row: list[Atom], starts: list[int], size: int) -> list[tuple[int, int]]:
    """Start and end in the text of the ``size`` atoms of ``row`` from each of ``starts`` on."""
    return [(row[index].start, row[index + size - 1].end) for index in starts]


def loose_spans(text: Indexed, phrase: str) -> list[tuple[int, int]]:
    """Every place (start, end) of ``phrase`` in ``text`` by its words, punctuation aside."""
    for row in without_articles(indexed(phrase).words):
        if all(atom.kind == BARRIER for atom in row):
            return []
        if starts := text.loose.find([(atom.text, atom.kind) for atom in row]):
            return _spans(text.words, starts, len(row))
    return []


def _exact_spans(text: Indexed, phrase: str) -> list[tuple[int, int]]:
    """Every place (start, end) of ``phrase`` in ``text`` with its punctuation."""
    for row in without_articles(indexed(phrase).atoms):
        if not any(atom.kind == WORD for atom in row):
            return []
        if starts := text.exact.find([atom.text for atom in row]):
            return _spans(text.atoms, starts, len(row))
    return []


def find_phrase(text: str, phrase: str) -> list[tuple[int, int]]:
    """Every place (start, end) of ``phrase`` in ``text``, upper and lower case aside.

    As in the search for tokens, the full wording goes first, then what is left without the
    articles in front of it, then the same without punctuation, and last without the weights that
    the phrase may carry. ``text`` has none (``plain_text``).
    """
    known = indexed(text)
    for wanted in dict.fromkeys((phrase, plain_text(phrase))):
        found = _exact_spans(known, wanted) or loose_spans(known, wanted)
        if found:
            return found
    return []


def mention(text: str, phrase: str, start: int) -> int | None:
    """Which occurrence of ``phrase`` in ``text`` begins at ``start``, spaces and signs aside."""
    first = indexed(text).next_word(start)
    starts = [begin for begin, _ in find_phrase(text, phrase)]
    index = bisect_left(starts, start)
    return index if index < len(starts) and starts[index] <= first else None
