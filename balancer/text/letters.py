"""Texts cut into words, punctuation and barriers: one splitter for every language and encoder.

Upper and lower case, composed and decomposed letters, full and half width, straight and curly
quotes are one. Scripts without spaces (Chinese, Japanese, Thai, Khmer ...) have a word for every
character, an emoji with all that is joined to it (skin tone, flag, family) is one word, and the
host's ``embedding:name`` is one.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import NamedTuple

WORD, PUNCTUATION, BARRIER = "word", "punctuation", "barrier"
"""Kinds of atoms. A barrier is a sign of a dynamic prompt that nobody has resolved: in
'a {red|blue} car' and '__animal__' what stands on both sides of it is no wording."""

EMBEDDING = "embedding:"

# first and last character of the scripts that are written without spaces
_UNSPACED = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x312F),
    (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xA000, 0xA4CF), (0xA980, 0xA9FF),
    (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B2FF), (0x20000, 0x3FFFF),
)  # fmt: skip
_STARTS = [first for first, _ in _UNSPACED]
# what keyboards, word processors and languages put for ' " -
_SIGNS = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\u00b4`", "'"),
     **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
     **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")}
)  # fmt: skip
EMBEDDED = re.compile(r"embedding:[^\s<\[]*[^\s<\[,]")
"""A textual embedding in a prompt; commas behind its name are punctuation."""

# how one character behaves in a text
_SPACE, _LETTER, _DIGIT, _CHARACTER, _SYMBOL = "space", "letter", "digit", "character", "symbol"
_FLAG, _MARK, _JOINER, _WHOLE = "flag", "mark", "joiner", "whole"
_RUNS = (_LETTER, _DIGIT)
_ATTACHED = (_MARK, _JOINER)


class Atom(NamedTuple):
    """``text`` as it is compared, its characters ``start`` to ``end`` (exclusive), its kind."""

    text: str
    start: int
    end: int
    kind: str = WORD


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    number = ord(character)
    if character.isspace() or number == 0x200B:  # a zero-width space parts words, too
        return _SPACE
    category = unicodedata.category(character)
    if category == "Cf" or 0xFE00 <= number <= 0xFE0F or 0xE0100 <= number <= 0xE01EF:
        return _JOINER
    if category[0] == "M" or 0x1F3FB <= number <= 0x1F3FF:
        return _MARK
    if category[0] == "N" and not 0x3005 <= number <= 0x3029:
        return _DIGIT
    if category[0] in "LN":
        index = bisect_right(_STARTS, number) - 1
        return _CHARACTER if index >= 0 and number <= _UNSPACED[index][1] else _LETTER
    if 0x1F1E6 <= number <= 0x1F1FF:
        return _FLAG
    # an older Python does not know the newest emoji
    if category == "So" or number > 0x7F and category[0] == "S" or 0x1F000 <= number <= 0x1FAFF:
        return _SYMBOL
    return PUNCTUATION


def _belongs(character: str) -> bool:
    """Whether it is spelled together with the character before it."""
    number = ord(character)
    half_width_voice, jamo = 0xFF9E <= number <= 0xFF9F, 0x1160 <= number <= 0x11FF
    thai_am = number in (0x0E33, 0x0EB3)  # a mark and a letter in one character
    return half_width_voice or jamo or thai_am or unicodedata.category(character)[0] == "M"


class Normal(NamedTuple):
    """A text as it is compared, and for each of its characters where it comes from."""

    text: str
    starts: list[int]
    ends: list[int]


def normal(text: str) -> Normal:
    """``text`` in one spelling (NFKC, case-folded, straight signs), with the way back."""
    if text.isascii():
        return Normal(
            text.lower().replace("`", "'"), list(range(len(text))), list(range(1, len(text) + 1))
        )
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and not text[end].isascii() and _belongs(text[end]):
            end += 1
        piece = text[start:end].translate(_SIGNS)
        if piece.isascii():
            piece = piece.lower()
        else:
            piece = unicodedata.normalize("NFKC", piece).casefold().translate(_SIGNS)
            piece = unicodedata.normalize("NFKC", piece)
        pieces.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
        start = end
    return Normal("".join(pieces), starts, ends)


def _end_of_word(kinds: list[str], start: int) -> int:
    """Where a run of letters or of digits, or one character of a script without spaces, ends."""
    # a mark without a letter before it is spelled as if there were one
    kind, index = _LETTER if kinds[start] == _MARK else kinds[start], start + 1
    while index < len(kinds) and (
        kinds[index] in _ATTACHED or (kinds[index] == kind and kind in _RUNS)
    ):
        index += 1
    return index


def _end_of_whole(known: Normal, kinds: list[str], start: int) -> int:
    """Where that ends what one sign stands for."""
    index = start + 1
    while index < len(kinds) and (
        kinds[index] in _ATTACHED or known.starts[index] == known.starts[start]
    ):
        index += 1
    return index


def _end_of_symbol(kinds: list[str], text: str, start: int) -> int:
    """Where the emoji that begins at ``start`` ends, with all that is joined to it."""
    index = start + 1
    if kinds[start] == _FLAG and index < len(text) and kinds[index] == _FLAG:
        index += 1
    while index < len(text):
        joined = text[index - 1] == "\u200d" and kinds[index] == _SYMBOL
        if not joined and kinds[index] not in _ATTACHED:
            break
        index += 1
    return index


def _kinds(known: Normal, is_ascii: bool) -> list[str]:
    """The kind of every character; what one sign stands for, as 1/2 or (1), is no more cut."""
    kinds = [_kind(character) for character in known.text]
    start = len(kinds) if is_ascii else 0
    while start < len(kinds):
        end = start + 1
        while end < len(kinds) and known.starts[end] == known.starts[start]:
            end += 1
        if end - start > 1 and len({k for k in kinds[start:end] if k not in _ATTACHED}) > 1:
            kinds[start:end] = [_WHOLE] * (end - start)
        start = end
    return kinds


def _extent(known: Normal, kinds: list[str], start: int) -> tuple[int, str]:
    """Where the atom that begins at ``start`` ends (exclusive), and its kind."""
    kind, sign = kinds[start], known.text[start]
    if kind in (_LETTER, _DIGIT, _CHARACTER, _MARK):
        return _end_of_word(kinds, start), WORD
    if kind == _WHOLE:
        return _end_of_whole(known, kinds, start), WORD
    is_key = sign in "#*" and any(k in _ATTACHED for k in kinds[start + 1 : start + 2])
    if kind in (_SYMBOL, _FLAG) or is_key:  # a key of a telephone is an emoji, too
        return _end_of_symbol(kinds, known.text, start), WORD
    end = start + 1
    if sign in "{}|":
        return end, BARRIER
    while sign == "_" and known.text.startswith("_", end):
        end += 1
    return end, BARRIER if end - start > 1 else PUNCTUATION


def _embedding(text: str, known: Normal, kinds: list[str], start: int) -> Atom | None:
    """The textual embedding that begins at ``start``: as the host, behind a space only."""
    if not known.text.startswith(EMBEDDING, start) or start and kinds[start - 1] != _SPACE:
        return None
    # its name is a file's: taken as it is typed
    found = EMBEDDED.match(text, known.starts[start])
    return Atom(found.group(), *found.span()) if found else None


def _without_joiners(text: str, kinds: list[str]) -> str:
    if text.isascii():
        return text
    return "".join(c for c, kind in zip(text, kinds, strict=True) if kind != _JOINER)


def atoms(text: str) -> list[Atom]:
    """All words, signs and barriers of ``text`` in order; spaces are left out."""
    known = normal(text)
    kinds = _kinds(known, text.isascii())
    out: list[Atom] = []
    index = 0
    while index < len(kinds):
        if kinds[index] in (_SPACE, _JOINER):
            index += 1
        elif atom := _embedding(text, known, kinds, index):
            out.append(atom)
            index = bisect_left(known.starts, atom.end, index)
        else:
            end, kind = _extent(known, kinds, index)
            said = _without_joiners(known.text[index:end], kinds[index:end])
            said = said[:2] if kind == BARRIER else said  # of any length it is one sign
            out.append(Atom(said, known.starts[index], known.ends[end - 1], kind))
            index = end
    return out


def is_ignored(character: str) -> bool:
    """Whether it is a space, or joins or varies others without saying anything itself."""
    return _kind(character) in (_SPACE, _JOINER)


@lru_cache(maxsize=1 << 12)
def has_words(text: str) -> bool:
    """Whether ``text`` says anything: letters, numbers, characters or emoji, not signs alone."""
    return any(atom.kind == WORD for atom in atoms(text))
