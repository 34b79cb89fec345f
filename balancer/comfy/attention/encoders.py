"""Where a layout's phrases stand in the conditioning that a model family is given.

Flux and Chroma are told the text by T5, SD3 by CLIP, by T5 or by both in one row, Qwen-Image by a
language model behind a template. Each family is known by the host's own class of the model, and
its conditioning must look as the host's encoder makes it; where anything else comes, it is refused
rather than guessed at, since positions that are wrong steer the picture by other words.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...errors import RealCompoError
from ...layout import Layout
from ...regions import Tokens
from ...spelling import NOWHERE, Piece, Unknown, Vectors, spell
from ...tokens import CHUNK, EncodedPrompt, plain_prompt, resolve_tokens
from ...weights import plain_text, read_escapes, read_weights
from ..prompt_rows import EXPLICIT, check_rows, prompt_rows, read_first, say_which
from ..text import character_bytes, embedding_folders, encode_prompt, readable

T5_WIDTH, QWEN_WIDTH = 4096, 3584
CLIP_WIDTH = 2048
"""Channels that CLIP-L and CLIP-G fill in SD3's conditioning; the rest is zero in their rows."""

_EXPLICIT = EXPLICIT[0].upper() + EXPLICIT[1:]


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
        tuple(dict.fromkeys(row for c in range(*place) for row in holders.get(c, ())))
        for place in whole.places
    ]
    kept = [index for index, row in enumerate(spelt) if row]
    prompt = EncodedPrompt(
        tuple(whole.ids[index] for index in kept), tuple(whole.words[index] for index in kept),
        tuple(range(len(kept))), text, tuple(whole.places[index] for index in kept), missing,
    )  # fmt: skip
    return Words(prompt, tuple(spelt[index] for index in kept))


def _as_spelt(rows: list[int], pieces: Sequence[Piece]) -> Words:
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


# -- T5 (Flux, Chroma, a part of SD3) -------------------------------------------------------------


@lru_cache(maxsize=1)
def _t5() -> Any:
    from comfy.text_encoders.flux import T5XXLTokenizer

    return T5XXLTokenizer(embedding_directory=embedding_folders())


def t5_words(text: str) -> tuple[Words, int]:
    """Words of ``text`` with their positions in T5's output, and the number of tokens in use.

    Weights such as ``(red car:1.2)`` are taken out, a textual embedding breaks words, what comes
    after the text is padding.
    """
    tokenizer = _t5()
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
    known = spell(pieces, plain)
    words = split_words(rows, known.places, plain, known.missing) if known else None
    return words or _as_spelt(rows, pieces), len(rows)


def _t5_phrase(text: str) -> EncodedPrompt:
    return t5_words(text)[0].prompt


def _from_t5(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    words, used = t5_words(layout.prompt)
    # more rows are padding, or tokens that another node appended
    if embedding.shape[2] != T5_WIDTH or embedding.shape[1] < used:
        raise _unlike(where, "T5's of this prompt")
    _say_if_longer(embedding.shape[1], used, where)
    return find_phrases(layout, words, _t5_phrase)


def _say_if_longer(rows: int, used: int, where: str) -> None:
    """Padding may be of any length, so a prompt in front cannot be told from it for certain."""
    usual = max(used, int(_t5().min_length or 0))
    if rows not in (used, usual):
        logging.warning(
            "RealCompo: '%s' has %d rows of tokens where the layout's prompt makes %d. Tokens"
            " behind it (a style model's, padding) are fine; behind another prompt (Conditioning"
            " Concat) the phrases would be read as its words.", where, rows, usual,
        )  # fmt: skip


# -- SD3 ------------------------------------------------------------------------------------------


def _from_sd3(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    """CLIP's rows come first, 77 a chunk, then T5's; either may be missing.

    Which of them are there is told by the upper channels, which CLIP leaves at zero.
    """
    if embedding.shape[2] != T5_WIDTH:
        raise _unlike(where, "SD3's")
    filled = (embedding[..., CLIP_WIDTH:] != 0).any(dim=-1).all(dim=0)
    empty = (embedding[..., CLIP_WIDTH:] == 0).all(dim=-1).all(dim=0)
    clip_rows = int(empty.sum())
    t5_rows = embedding.shape[1] - clip_rows
    words, used = t5_words(layout.prompt)
    chunks = max(encode_prompt(layout.prompt).positions, default=0) // CHUNK + 1
    in_order = bool(empty[:clip_rows].all()) and bool(filled[clip_rows:].all())
    if not in_order or clip_rows not in (0, chunks * CHUNK) or (t5_rows and t5_rows < used):
        raise _unlike(where, "SD3's of this prompt")
    parts: list[Tokens] = []
    if clip_rows:
        parts.append(resolve_tokens(layout, encode_prompt(layout.prompt), encode_prompt))
    if t5_rows:
        moved = tuple(tuple(clip_rows + token for token in span) for span in words.tokens)
        parts.append(find_phrases(layout, replace(words, tokens=moved), _t5_phrase))
    # both encoders tell the model of the same words
    return tuple(
        tuple(dict.fromkeys(token for span in spans for token in span))
        for spans in zip(*parts, strict=True)
    )


# -- Qwen-Image -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _qwen() -> Any:
    from comfy.text_encoders.qwen_image import QwenImageTokenizer

    return QwenImageTokenizer(embedding_directory=embedding_folders())


class _Numbered:
    """In the language model's place: every token's embedding is its own index."""

    def encode_token_weights(self, chunks: list[list[Any]]) -> tuple[Tensor, None, dict[str, Any]]:
        count = len(chunks[0])
        mask = torch.ones(1, count, dtype=torch.long)
        return torch.arange(count).view(1, -1, 1), None, {"attention_mask": mask}


def _kept(tokenizer: Any, text: str) -> list[int]:
    """Tokens of ``text`` that are in the conditioning: the host's own encoder cuts them.

    The host drops its template's first part after the language model has run; asked with numbers
    for embeddings, it says what is left.
    """
    from comfy.text_encoders.qwen_image import QwenImageTEModel

    tokens = tokenizer.tokenize_with_weights(text)
    encoder = QwenImageTEModel.__new__(QwenImageTEModel)
    torch.nn.Module.__init__(encoder)
    encoder.clip_name, encoder.clip = tokenizer.clip_name, tokenizer.clip
    setattr(encoder, tokenizer.clip, _Numbered())
    rows = encoder.encode_token_weights(tokens)[0]
    (chunk,) = tokens[tokenizer.clip_name]
    return [chunk[index][0] for index in rows.flatten().tolist()]


def qwen_words(text: str) -> tuple[Words, int] | None:
    """Words of ``text`` with their positions in Qwen-Image's conditioning, and its whole length.

    This host's tokenizer knows no weights: of ``(red car:1.2)`` it reads brackets and number, too,
    and the words are those of what is meant. None if the tokens do not spell the text, as with a
    template of the user's own.
    """
    tokenizer = _qwen()
    kept, frame = _kept(tokenizer, readable(text)), _kept(tokenizer, "")
    own = kept[: len(kept) - len(frame)]
    vocabulary = getattr(tokenizer, tokenizer.clip).inv_vocab
    pieces = [character_bytes(vocabulary[token]) for token in own]
    unescaped, plain = read_escapes(text), read_weights(text)
    known = spell(pieces, unescaped.text)
    if known is None or known.missing or kept[len(own) :] != frame:
        return None
    # from what was read to what was typed, and on to what is meant
    typed = [
        (unescaped.origin[start], unescaped.origin[end - 1] + 1) if end > 0 else NOWHERE
        for start, end in known.places
    ]
    meant = [tuple(bisect_left(plain.origin, edge) for edge in place) for place in typed]
    places = [(start, end) if start < end else NOWHERE for start, end in meant]
    return split_words(list(range(len(own))), places, plain.text), len(kept)


def _from_qwen(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    found = qwen_words(layout.prompt)
    # pictures and other templates come before the text, and would move it by an unknown number
    if found is None or tuple(embedding.shape[1:]) != (found[1], QWEN_WIDTH):
        raise _unlike(where, "Qwen-Image's of this prompt alone")
    return find_phrases(layout, found[0], lambda phrase: plain_prompt(plain_text(phrase)))


# -- the families ---------------------------------------------------------------------------------


_BY_CLASS: dict[str, Callable[[Layout, Tensor, str], Tokens]] = {
    "Flux": _from_t5,
    "Chroma": _from_t5,
    "SD3": _from_sd3,
    "QwenImage": _from_qwen,
}


def locate(layout: Layout, model: Any, conditioning: Any, where: str) -> Tokens:
    """Token positions of the layout's regions in ``conditioning``, encoded for ``model``.

    ``model`` is the host's model object and ``where`` the name of the conditioning's input.
    Raises RealCompoError for phrases that the prompt does not hold, and where the positions are
    not certain: an unknown family, or conditioning that is not the encoded prompt. Regions with
    explicit tokens need no certainty.
    """
    layout.require_regions()
    if all(region.tokens is not None for region in layout.regions):
        return tuple(region.tokens or () for region in layout.regions)
    if isinstance(model.diffusion_model, UNetModel) or not layout.prompt.strip():
        prompt = encode_prompt(layout.prompt)
        found = resolve_tokens(layout, prompt, encode_prompt)
        check_rows(conditioning, prompt_rows(prompt), where)
        return found
    # the very class: later families are subclasses with text encoders of their own
    kind = type(model)
    known = _BY_CLASS.get(kind.__name__) if kind.__module__ == "comfy.model_base" else None
    if known is None:
        raise RealCompoError(
            where, f"nobody knows how a '{kind.__name__}' model is told its prompt",
            f"{_EXPLICIT}, or set the balancer's mode to fixed.",
        )  # fmt: skip
    if not conditioning:
        raise RealCompoError(where, "the conditioning is empty", "Connect an encoded prompt.")
    first = list(read_first(conditioning)) or [conditioning[0][0]]
    say_which(conditioning, first, where)
    # parts of the schedule with an embedding of their own must agree on where the words are
    found = {id(one): known(layout, one, where) for one in first}
    if len(set(found.values())) != 1:
        raise _unlike(where, "of one length in all parts of the schedule")
    return found.popitem()[1]


def _unlike(where: str, what: str) -> RealCompoError:
    return RealCompoError(
        where, f"the conditioning is not {what}, so the phrases' tokens are not certain",
        "Encode the very prompt that the layout carries with CLIP Text Encode, or"
        f" {EXPLICIT}.",
    )  # fmt: skip
