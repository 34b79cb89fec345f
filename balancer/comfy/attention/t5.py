"""T5's tokens: the text of Flux and Chroma, and a part of SD3's."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from ...attention.regions import Tokens
from ...attention.tokens import EncodedPrompt
from ...layouts.layout import Layout
from ...log import LOG
from ...text.spelling import Piece, Unknown, Vectors, spell
from ...text.weights import plain_text
from ..text.tokenizer import embedding_folders, has_embedding, readable
from .phrases import Words, as_spelt, find_phrases, split_words, unlike

T5_WIDTH = 4096


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from comfy.text_encoders.flux import T5XXLTokenizer

    return T5XXLTokenizer(embedding_directory=embedding_folders())


def t5_words(text: str) -> tuple[Words, int]:
    """Words of ``text`` with their positions in T5's output, and the number of tokens in use.

    Weights such as ``(red car:1.2)`` are taken out, a textual embedding breaks words, what comes
    after the text is padding.
    """
    tokenizer = _tokenizer()
    (chunk,) = tokenizer.tokenize_with_weights(readable(text), return_word_ids=True)
    special = set(tokenizer.tokenizer.all_special_ids)
    rows: list[int] = []
    pieces: list[Piece] = []
    for position, (token, _, word) in enumerate(chunk):
        if word == 0:
            continue
        rows.append(position)
        if not isinstance(token, int):
            pieces.append(Vectors(word))
        elif token in special:
            pieces.append(Unknown())
        else:  # U+2581 is SentencePiece's space
            pieces.append(tokenizer.inv_vocab[token].replace("\u2581", " ").encode())
    plain = plain_text(text)
    known = spell(pieces, plain, partial(has_embedding, tokenizer))
    words = split_words(rows, known.places, plain, known.missing) if known else None
    return words or as_spelt(rows, pieces), len(rows)


def t5_phrase(text: str) -> EncodedPrompt:
    """``text`` as words, to be found among a prompt's."""
    return t5_words(text)[0].prompt


def t5_phrases(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    """Token positions of every region in ``embedding`` (B, T, 4096); RealCompoError where that is
    not T5's of the layout's prompt."""
    words, used = t5_words(layout.prompt)
    # more rows are padding, or tokens that another node appended
    if embedding.shape[2] != T5_WIDTH or embedding.shape[1] < used:
        raise unlike(where, "T5's of this prompt")
    _say_if_longer(embedding.shape[1], used, where)
    return find_phrases(layout, words, t5_phrase)


def _say_if_longer(rows: int, used: int, where: str) -> None:
    """Padding may be of any length, so a prompt in front cannot be told from it for certain."""
    usual = max(used, int(_tokenizer().min_length or 0))
    if rows not in (used, usual):
        LOG.warning(
            "RealCompo: '%s' has %d rows of tokens where the layout's prompt makes %d. Tokens"
            " behind it (a style model's, padding) are fine; behind another prompt (Conditioning"
            " Concat) the phrases would be read as its words.", where, rows, usual,
        )  # fmt: skip
