"""Where a layout's phrases stand among a prompt's tokens, whatever the tokenizer's pieces are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...attention.regions import Tokens
from ...attention.tokens import EncodedPrompt, plain_prompt, resolve_tokens
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ...text.spelling import NOWHERE, Piece
from ..text.prompt_rows import EXPLICIT, check_rows, prompt_rows
from ..text.tokenizer import encode_prompt


@dataclass(frozen=True)
class Words:
    """A text as words, and for each of them the positions of the tokens that spell it."""

    prompt: EncodedPrompt
    tokens: Tokens


def split_words(
    rows: list[int], places: Sequence[tuple[int, int]], text: str, missing: tuple[str, ...] = ()
) -> Words:
    """Words of ``text`` whose tokens stand in ``rows`` and spell its characters at ``places``.

    Upper and lower case are one, as they are to CLIP: these tokenizers have different pieces for
    'Car', 'car' and ' car', so that phrases must be found by words, not by pieces; a piece that
    goes across a word's border belongs to both sides. The prompt's own ``positions`` count words.
    """
    holders: dict[int, list[int]] = {}
    for row, (start, end) in zip(rows, places, strict=True):
        for character in range(max(start, 0), end):
            holders.setdefault(character, []).append(row)
    whole = plain_prompt(text)
    spelt = [
        tuple(dict.fromkeys(row for c in range(start, end) for row in holders.get(c, ())))
        for start, end in whole.places
    ]
    kept = [index for index, row in enumerate(spelt) if row]
    prompt = EncodedPrompt(
        tuple(whole.ids[index] for index in kept), tuple(whole.words[index] for index in kept),
        tuple(range(len(kept))), text, tuple(whole.places[index] for index in kept), missing,
    )  # fmt: skip
    return Words(prompt, tuple(spelt[index] for index in kept))


def as_spelt(rows: list[int], pieces: Sequence[Piece]) -> Words:
    """Words of what the pieces spell, whatever was typed."""
    known = [piece if isinstance(piece, bytes) else b" " for piece in pieces]
    owners = [index for index, piece in enumerate(known) for _ in piece]
    text, places = "", [NOWHERE] * len(known)
    at = 0
    for character in b"".join(known).decode("utf-8", "surrogateescape"):
        for index in owners[at : (at := at + len(character.encode("utf-8", "surrogateescape")))]:
            start = places[index][0] if places[index] != NOWHERE else len(text)
            places[index] = (start, len(text) + 1)
        text += character
    return split_words(rows, places, text)


def find_phrases(layout: Layout, words: Words, encode: Callable[[str], EncodedPrompt]) -> Tokens:
    """Token positions of every region by word; explicit ones are taken as they are."""
    found = resolve_tokens(layout, words.prompt, encode)
    return tuple(
        span if region.tokens is not None
        else tuple(dict.fromkeys(t for word in span for t in words.tokens[word]))
        for region, span in zip(layout.regions, found, strict=True)
    )  # fmt: skip


def clip_phrases(layout: Layout, conditioning: Any, where: str) -> Tokens:
    """Token positions of every region in what CLIP makes of the layout's prompt.

    Raises RealCompoError unless the conditioning, input ``where``, is as long as that.
    """
    prompt = encode_prompt(layout.prompt)
    found = resolve_tokens(layout, prompt, encode_prompt)
    check_rows(conditioning, prompt_rows(prompt), where)
    return found


def unlike(where: str, what: str) -> RealCompoError:
    """The refusal of conditioning that is not ``what``."""
    return RealCompoError(
        where, f"the conditioning is not {what}, so the phrases' tokens are not certain",
        "Encode the very prompt that the layout carries with CLIP Text Encode, or"
        f" {EXPLICIT}.",
    )  # fmt: skip
