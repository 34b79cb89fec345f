"""Which characters of a text every token of it spells, for any tokenizer.

Tokenizers lower letters, compose them, drop spaces and cut characters in the middle. What their
pieces spell is compared with the text in one form (``letters.normal``), so that words and phrases
can be searched in the text, and the tokens be those that hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .letters import EMBEDDING, WORD, atoms, is_ignored, normal

NOWHERE: tuple[int, int] = (-1, -1)
"""Place of a token that spells nothing of the text."""

_LOOK = (12, 4, 1)
"""Characters behind an unknown piece that are looked for, as many as are there."""
_EMBEDDED, _UNKNOWN = "\ufdd0", "\ufdd1"


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


def _typed(text: str) -> Row:
    """The characters of a text without spaces; a textual embedding is one mark."""
    row: Row = []
    names = [(a.start, a.end) for a in atoms(text) if a.text.startswith(EMBEDDING)
             and a.kind == WORD] if EMBEDDING in text else []  # fmt: skip
    names.append((len(text), len(text)))
    number = 0
    for character, start, end in zip(*normal(text), strict=True):
        while start >= names[number][1] and number + 1 < len(names):
            number += 1
        if names[number][0] <= start < names[number][1]:
            if start == names[number][0]:
                row.append((_EMBEDDED, *names[number]))
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


def spell(pieces: Sequence[Piece], text: str) -> Spelling | None:
    """Where in ``text`` the ``pieces`` of its tokens stand; None if they spell something else.

    ``text`` has no weights (``weights.read_weights``); ``pieces`` are UTF-8 in the order of the
    tokens, and may differ from it in case, spaces and composition.
    """
    spelt, typed = _spelt(pieces), _typed(text)
    one, other = ("".join(entry[0] for entry in row) for row in (spelt, typed))
    places = [NOWHERE] * len(pieces)
    missing: list[str] = []

    def put(index: int, start: int, end: int) -> None:
        _, first, last = spelt[index]
        for token in range(first, last + 1):
            known = places[token]
            places[token] = (start, end) if known == NOWHERE else (known[0], max(known[1], end))

    i, j = 0, 0
    while i < len(one) or j < len(other):
        if one[i : i + 1] == other[j : j + 1]:
            put(i, typed[j][1], typed[j][2])
            i, j = i + 1, j + 1
        elif other[j : j + 1] == _EMBEDDED:
            start, end = typed[j][1:]
            name = normal(text[start:end]).text
            if one.startswith(name, i):  # a tokenizer that knows no embeddings
                for index in range(i, i + len(name)):
                    put(index, start, end)
                i += len(name)
            else:
                missing.append(text[start + len(EMBEDDING) : end])
                # older hosts leave out all up to the next space, '<b>' behind the name, too
                while j + 1 < len(other) and typed[j + 1][1] <= typed[j][2] and (
                    one[i : i + 1] != other[j + 1]
                ):  # fmt: skip
                    j += 1
            j += 1
        elif one[i : i + 1] == _UNKNOWN:
            stop = i + 1
            while one[stop : stop + 1] == _UNKNOWN:
                stop += 1
            # they end where what the next piece spells begins
            rest = one[stop : stop + _LOOK[0]].split(_UNKNOWN)[0].split(_EMBEDDED)[0]
            last = other.find(_EMBEDDED, j) if one[stop : stop + 1] == _EMBEDDED else len(other)
            # (a missing embedding may follow soon)
            tries = (other.find(rest[:size], j) for size in _LOOK) if rest else iter((last,))
            at = next((place for place in tries if place >= 0), -1)
            if at < 0:
                return None
            parts = _parted(typed[j:at])
            if len(parts) != stop - i:  # any of them may spell any of it
                parts = [(parts[0][0], parts[-1][1])] * (stop - i) if parts else []
            for index, part in zip(range(i, stop), parts, strict=False):
                put(index, *part)
            i, j = stop, at
        else:
            return None
    return Spelling(tuple(places), tuple(missing))
