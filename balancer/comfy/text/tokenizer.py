"""The host's CLIP tokenizer, as the engine's ``EncodedPrompt``."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import comfy.sd1_clip

from ...attention.tokens import CHUNK, EncodedPrompt
from ...errors import RealCompoError
from ...text.letters import EMBEDDING
from ...text.spelling import Piece, Vectors, spell
from ...text.weights import escaped, plain_text

WORD_END = "</w>"
"""Mark of CLIP's byte-pair vocabulary on the last piece of a word."""

_tokenizer: Any = None
# Making it takes seconds, and the page's questions come while a prompt runs.
_making = threading.Lock()


def embedding_folders() -> list[str] | None:
    """Where textual embeddings lie; None on a host without model folders."""
    try:
        import folder_paths
    except ImportError:
        return None
    return list(folder_paths.get_folder_paths("embeddings"))


def clip_tokenizer() -> Any:
    """The host's CLIP-L tokenizer with the host's embedding folders, made once."""
    global _tokenizer
    with _making:
        if _tokenizer is None:
            _tokenizer = comfy.sd1_clip.SDTokenizer(embedding_directory=embedding_folders())
    return _tokenizer


def has_embedding(tokenizer: Any, name: str) -> bool:
    """Whether one of the host's tokenizers gives vectors for 'embedding:name'."""
    chunks = tokenizer.tokenize_with_weights(escaped(EMBEDDING + name))
    return any(not isinstance(entry[0], int) for chunk in chunks for entry in chunk)


def _readable_bytes() -> dict[str, int]:
    """Character -> byte of the byte-level vocabularies that CLIP and GPT-2 share.

    Printable Latin-1 bytes stand for themselves, the others are moved behind U+00FF in order.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(moved)}


_BYTES = _readable_bytes()


def character_bytes(piece: str) -> bytes:
    """The bytes that one piece of a byte-level vocabulary spells; others stay as they are."""
    if not all(character in _BYTES for character in piece):
        return piece.encode("utf-8")
    return bytes(_BYTES[character] for character in piece)


def _text(pieces: list[str]) -> str:
    """The word that byte-pair pieces spell; characters outside the vocabulary stay as they are."""
    joined = "".join(pieces).removesuffix(WORD_END)
    return character_bytes(joined).decode("utf-8", errors="replace")


def _spelt(piece: str) -> bytes:
    return character_bytes(piece.removesuffix(WORD_END))


def encoded(chunks: list[list[tuple[Any, ...]]], tokenizer: Any, text: str) -> EncodedPrompt:
    """``EncodedPrompt`` of (token, weight, word id) chunks as the host's ``tokenizer`` gives them.

    ``text`` is what they were made of, without weights. Word id 0 marks start, end and padding.
    The host's word ids count weighted segments and embeddings, not words, so words are put
    together from the pieces instead.
    """
    ids: list[int | None] = []
    positions: list[int] = []
    words: list[str] = []
    pieces: list[Piece] = []
    open_word: list[str] = []

    def close() -> None:
        words.extend([_text(open_word)] * len(open_word))
        open_word.clear()

    for number, chunk in enumerate(chunks):
        for index, (token, _, word) in enumerate(chunk):
            if word == 0:
                continue
            positions.append(number * CHUNK + index)
            if not isinstance(token, int):
                close()
                ids.append(None)
                words.append("")
                pieces.append(Vectors(word))
                continue
            ids.append(token)
            open_word.append(tokenizer.inv_vocab.get(token, ""))
            pieces.append(_spelt(open_word[-1]))
            if open_word[-1].endswith(WORD_END):
                close()
    close()
    row = (tuple(ids), tuple(words), tuple(positions))
    known = spell(pieces, text, partial(has_embedding, tokenizer))
    # a tokenizer that changes more than case and spaces: its own words are searched
    return EncodedPrompt(*row, text, *known) if known else EncodedPrompt(*row)


def readable(text: str) -> str:
    """``text`` if a tokenizer can read it; RealCompoError for half a character (a surrogate)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RealCompoError(
            "layout", f"its text has half a character (U+{ord(text[error.start]):04X}) after "
            f"{ascii(text[max(0, error.start - 20) : error.start])}",
            "Type that character again",
        ) from None  # fmt: skip
    return text


def encode_prompt(text: str) -> EncodedPrompt:
    """Tokens of ``text`` and their positions in the conditioning that CLIPTextEncode makes of it.

    Weights such as ``(red car:1.2)`` are taken out, a textual embedding takes as many positions
    as it has vectors, long texts run on in further chunks of 77 positions. All families with
    cross-attention UNets (SD1.x, SD2.x and both encoders of SDXL) share this vocabulary and this
    layout of chunks; they differ in padding only, so one tokenizer gives the positions for all.
    Raises RealCompoError for a text with half a character.
    """
    tokenizer = clip_tokenizer()
    chunks = tokenizer.tokenize_with_weights(readable(text), return_word_ids=True)
    return encoded(chunks, tokenizer, plain_text(text))


def prompt_weights(text: str) -> dict[int, float]:
    """Weight of every text token of ``text`` by its position, as ``(red car:1.2)`` sets it."""
    chunks = clip_tokenizer().tokenize_with_weights(text, return_word_ids=True)
    return {
        number * CHUNK + index: float(weight)
        for number, chunk in enumerate(chunks)
        for index, (_, weight, word) in enumerate(chunk)
        if word != 0
    }
