"""Which characters of a text every token of it spells, for any tokenizer.

Tokenizers lower letters, compose them, drop spaces and cut characters in the middle. What their
pieces spell is compared with the text in one form (``letters.normal``), so that words and phrases
can be searched in the text, and the tokens be those that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .letters import EMBEDDING, WORD, Atom, atoms, is_ignored, normal

NOWHERE: tuple[int, int] = (-1, -1)
"""Place of a token that spells nothing of the text."""

_LOOK = (12, 4, 1)
"""Characters behind an unknown piece that are looked for, as many as are there."""
_EMBEDDED, _ABSENT, _UNKNOWN = "\ufdd0", "\ufdd1", "\ufdd2"


@dataclass(frozen=True)
class Vectors:
    """In the place of a piece: one vector of a textual embedding; ``number`` tells them apart."""

    number: int


class Unknown:
    """In the place of a piece: it stands for characters that the vocabulary does not have."""


Piece = bytes | Vectors | Unknown


class Spelling(NamedTuple):
    """``places``: (start, end) in the text for every token, ``NOWHERE`` if it spells none of it.
    ``missing``: names of textual embeddings in the text that became no token."""

    places: tuple[tuple[int, int], ...]
    missing: tuple[str, ...] = ()


Row = list[tuple[str, int, int]]
"""(character or mark, first token, last token) or (character or mark, start, end in the text)."""


def _spelt(pieces: Sequence[Piece]) -> Row:
    """What the pieces spell, without spaces."""
    row: Row = []
    for run in _runs(pieces):
        piece = pieces[run[0]]
        if not isinstance(piece, bytes):
            row.append((_UNKNOWN if isinstance(piece, Unknown) else _EMBEDDED, run[0], run[-1]))
            continue
        owners = [index for index in run for _ in pieces[index]]  # type: ignore[union-attr]
        spelt = b"".join(pieces[index] for index in run)  # type: ignore[misc]
        text = spelt.decode("utf-8", "surrogateescape")
        at = [0]
        for character in text:
            at.append(at[-1] + len(character.encode("utf-8", "surrogateescape")))
        for character, start, end in zip(*normal(text), strict=True):
            if not is_ignored(character):
                row.append((character, owners[at[start]], owners[at[end] - 1]))
    return row


def _runs(pieces: Sequence[Piece]) -> Iterator[list[int]]:
    """Neighbouring pieces that are read as one: bytes, or the vectors of one embedding."""
    run: list[int] = []
    for index, piece in enumerate(pieces):
        if run:
            before = pieces[run[-1]]
            text = isinstance(piece, bytes) and isinstance(before, bytes)
            if not (text or isinstance(piece, Vectors) and piece == before):
                yield run
                run = []
        run.append(index)
    if run:
        yield run


def _names(text: str) -> list[Atom]:
    """The textual embeddings in ``text``."""
    if EMBEDDING not in text:
        return []
    return [a for a in atoms(text) if a.kind == WORD and a.text.startswith(EMBEDDING)]


def _typed(text: str, names: list[Atom], absent: frozenset[str]) -> Row:
    """The characters of a text without spaces; a textual embedding is one mark."""
    row: Row = []
    borders = [*((atom.start, atom.end) for atom in names), (len(text), len(text))]
    number = 0
    for character, start, end in zip(*normal(text), strict=True):
        while start >= borders[number][1] and number + 1 < len(borders):
            number += 1
        if borders[number][0] <= start < borders[number][1]:
            if start == borders[number][0]:
                mark = _ABSENT if names[number].text in absent else _EMBEDDED
                row.append((mark, *borders[number]))
        elif not is_ignored(character):
            row.append((character, start, end))
    return row


def _parted(row: Row) -> list[tuple[int, int]]:
    """Places of the pieces that spaces part."""
    parts: list[tuple[int, int]] = []
    for _, start, end in row:
        if parts and start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    return parts


class _Alignment:
    """Two rows, what the tokens spell and what was typed, read side by side.

    ``at`` and ``typed_at`` are the next entries to be read. Every reader goes on and returns True
    where its rule holds, and returns False where it does not.
    """

    def __init__(self, spelt: Row, typed: Row, text: str, tokens: int) -> None:
        self.spelt, self.typed, self.text = spelt, typed, text
        self.line, self.typed_line = ("".join(e[0] for e in row) for row in (spelt, typed))
        self.at, self.typed_at = 0, 0
        self.places = [NOWHERE] * tokens
        self.missing: list[str] = []

    def _put(self, index: int, start: int, end: int) -> None:
        _, first, last = self.spelt[index]
        for token in range(first, last + 1):
            before, until = self.places[token]
            self.places[token] = (start if before < 0 else before, max(until, end))

    def same(self) -> bool:
        """Both rows go on with one character, or with an embedding."""
        mark = self.line[self.at : self.at + 1]
        if mark != self.typed_line[self.typed_at : self.typed_at + 1]:
            return False
        self._put(self.at, *self.typed[self.typed_at][1:])
        self.at, self.typed_at = self.at + 1, self.typed_at + 1
        return True

    def embedding(self) -> bool:
        """An embedding was typed that gave no vectors."""
        if self.typed_line[self.typed_at : self.typed_at + 1] not in (_EMBEDDED, _ABSENT):
            return False
        start, end = self.typed[self.typed_at][1:]
        name = normal(self.text[start:end]).text
        if self.line.startswith(name, self.at):  # a tokenizer that knows no embeddings
            for index in range(self.at, self.at + len(name)):
                self._put(index, start, end)
            self.at += len(name)
        else:
            self.missing.append(self.text[start + len(EMBEDDING) : end])
            self._skip_attached()
        self.typed_at += 1
        return True

    def _skip_attached(self) -> None:
        """Older hosts leave out all up to the next space, '<b>' behind the name, too."""
        typed = self.typed
        while (
            self.typed_at + 1 < len(typed)
            and typed[self.typed_at + 1][1] <= typed[self.typed_at][2]
            and self.line[self.at : self.at + 1] != typed[self.typed_at + 1][0]
        ):
            self.typed_at += 1

    def unknown(self) -> bool:
        """Pieces stand for characters that the vocabulary does not have: all up to the next piece
        that spells something."""
        stop = self.at
        while self.line[stop : stop + 1] == _UNKNOWN:
            stop += 1
        typed_stop = self._next_known(stop)
        if stop == self.at or typed_stop < 0:
            return False
        parts = _parted(self.typed[self.typed_at : typed_stop])
        if len(parts) != stop - self.at:  # any of them may spell any of it
            parts = [(parts[0][0], parts[-1][1])] * (stop - self.at) if parts else []
        for index, part in zip(range(self.at, stop), parts, strict=False):
            self._put(index, *part)
        self.at, self.typed_at = stop, typed_stop
        return True

    def _next_known(self, stop: int) -> int:
        """Where in the typed row that begins what is spelt from ``stop`` on; -1 if nowhere."""
        line, begin = self.typed_line, self.typed_at
        if self.line[stop : stop + 1] == _EMBEDDED:
            return line.find(_EMBEDDED, begin)
        rest = self.line[stop : stop + _LOOK[0]].split(_UNKNOWN)[0].split(_EMBEDDED)[0]
        if not rest:
            return len(line)
        # (a missing embedding may follow soon)
        found = (line.find(rest[:size], begin) for size in _LOOK)
        return next((index for index in found if index >= 0), -1)


def spell(
    pieces: Sequence[Piece], text: str, has: Callable[[str], bool] = lambda _: True
) -> Spelling | None:
    """Where in ``text`` the ``pieces`` of its tokens stand; None if they spell something else.

    ``text`` has no weights (``weights.read_weights``); ``pieces`` are UTF-8 in the order of the
    tokens, and may differ from it in case, spaces and composition. ``has`` says whether the
    tokenizer knows the textual embedding of a name; it is asked where the text names more of them
    than gave vectors.
    """
    spelt, names = _spelt(pieces), _names(text)
    absent: frozenset[str] = frozenset()
    if sum(mark == _EMBEDDED for mark, _, _ in spelt) < len(names):
        different = {atom.text for atom in names}
        absent = frozenset(name for name in different if not has(name.removeprefix(EMBEDDING)))
    both = _Alignment(spelt, _typed(text, names, absent), text, len(pieces))
    while both.at < len(both.line) or both.typed_at < len(both.typed_line):
        if not (both.same() or both.embedding() or both.unknown()):
            return None
    return Spelling(tuple(both.places), tuple(both.missing))
