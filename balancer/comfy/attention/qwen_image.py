"""Qwen-Image: double blocks, text by a language model behind a template."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...attention.regions import Tokens
from ...attention.tokens import plain_prompt
from ...layouts.layout import Layout
from ...text.spelling import NOWHERE, spell
from ...text.weights import plain_text, read_escapes, read_weights
from ..text.tokenizer import character_bytes, embedding_folders, readable
from .joint import JointFamily
from .phrases import Words, find_phrases, split_words, unlike

QWEN_WIDTH = 3584


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
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
    tokenizer = _tokenizer()
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
    meant = [tuple(bisect_left(plain.origin, edge) for edge in span) for span in typed]
    places = [(start, end) if start < end else NOWHERE for start, end in meant]
    return split_words(list(range(len(own))), places, plain.text), len(kept)


def _positions(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    found = qwen_words(layout.prompt)
    # pictures and other templates come before the text, and would move it by an unknown number
    if found is None or tuple(embedding.shape[1:]) != (found[1], QWEN_WIDTH):
        raise unlike(where, "Qwen-Image's of this prompt alone")
    return find_phrases(layout, found[0], lambda phrase: plain_prompt(plain_text(phrase)))


FAMILIES = (
    JointFamily(
        network=("comfy.ldm.qwen_image.model", "QwenImageTransformer2DModel"), model="QwenImage",
        blocks="transformer_blocks", text_in="txt_in", positions=_positions,
    ),
)  # fmt: skip
