"""SD3 and SD3.5: joint blocks, text by CLIP, by T5 or by both in one row."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...attention.regions import Tokens
from ...attention.tokens import CHUNK, resolve_tokens
from ...layouts.layout import Layout
from ..text.tokenizer import encode_prompt
from .joint import JointFamily
from .phrases import find_phrases, unlike
from .t5 import T5_WIDTH, t5_phrase, t5_words

CLIP_WIDTH = 2048
"""Channels that CLIP-L and CLIP-G fill in SD3's conditioning; the rest is zero in their rows."""


def _positions(layout: Layout, embedding: Tensor, where: str) -> Tokens:
    """CLIP's rows come first, 77 a chunk, then T5's; either may be missing.

    Which of them are there is told by the upper channels, which CLIP leaves at zero.
    """
    if embedding.shape[2] != T5_WIDTH:
        raise unlike(where, "SD3's")
    filled = (embedding[..., CLIP_WIDTH:] != 0).any(dim=-1).all(dim=0)
    empty = (embedding[..., CLIP_WIDTH:] == 0).all(dim=-1).all(dim=0)
    clip_rows = int(empty.sum())
    t5_rows = embedding.shape[1] - clip_rows
    words, used = t5_words(layout.prompt)
    chunks = max(encode_prompt(layout.prompt).positions, default=0) // CHUNK + 1
    in_order = bool(empty[:clip_rows].all()) and bool(filled[clip_rows:].all())
    if not in_order or clip_rows not in (0, chunks * CHUNK) or (t5_rows and t5_rows < used):
        raise unlike(where, "SD3's of this prompt")
    parts: list[Tokens] = []
    if clip_rows:
        parts.append(resolve_tokens(layout, encode_prompt(layout.prompt), encode_prompt))
    if t5_rows:
        moved = tuple(tuple(clip_rows + token for token in span) for span in words.tokens)
        parts.append(find_phrases(layout, replace(words, tokens=moved), t5_phrase))
    # both encoders tell the model of the same words
    return tuple(
        tuple(dict.fromkeys(token for span in spans for token in span))
        for spans in zip(*parts, strict=True)
    )


FAMILIES = (
    JointFamily(
        network=("comfy.ldm.modules.diffusionmodules.mmdit", "OpenAISignatureMMDITWrapper"),
        model="SD3", blocks="joint_blocks", text_in="context_embedder", positions=_positions,
        runs_again=True,
    ),
)  # fmt: skip
