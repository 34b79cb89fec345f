"""Is conditioning as long as the layout's prompt makes it? Positions are counted from its start.

A prompt that another node put in front moves every word of the layout's: positions still fit, and
would be read as other words. So more rows are as telling as fewer. Tokens that a style model
appends are behind the text and less than a chunk; they move nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ...attention.tokens import CHUNK, EncodedPrompt
from ...errors import RealCompoError
from ...log import LOG

Conditioning = list[list[Any]]
"""The host's CONDITIONING: a list of [embedding (B, T, D), options]."""

EXPLICIT = (
    "give every region its token positions ('tokens' in RealCompo Layout Editor's layout_json)"
)


def prompt_rows(prompt: EncodedPrompt) -> int:
    """Rows of the conditioning that CLIP makes of a prompt: 77 for every chunk."""
    return CHUNK * (max(prompt.positions, default=0) // CHUNK + 1)


def read_first(conditioning: Conditioning) -> Iterator[Tensor]:
    """Embeddings (B, T, width) that are the first in force in some part of the schedule: words are
    read there."""
    free = [(0.0, 1.0)]
    for embedding, options in conditioning:
        if "default" in options:
            continue
        first = float(options.get("start_percent", 0.0))
        last = float(options.get("end_percent", 1.0))
        sides = ((s, min(e, first)) for s, e in free), ((max(s, last), e) for s, e in free)
        left = sorted((start, end) for side in sides for start, end in side if start < end)
        if left != free:
            yield embedding
        free = left


def check_rows(conditioning: Conditioning, rows: int, where: str) -> None:
    """Raise RealCompoError unless the layout's words can stand where its prompt has them.

    ``rows`` as from ``prompt_rows``; ``where`` is the input's name. Says in the log which of
    several prompts is taken for the layout's.
    """
    if not conditioning:
        raise RealCompoError(where, "the conditioning is empty", "Connect an encoded prompt.")
    first = list(read_first(conditioning))
    for embedding in first:
        if not rows <= embedding.shape[1] < rows + CHUNK:
            raise RealCompoError(
                where, f"it has {embedding.shape[1]} rows of tokens where the layout's prompt makes"
                f" {rows}, so the phrases' words may stand anywhere in it",
                "Write all words into the one prompt that the layout carries and encode that with"
                f" CLIP Text Encode (no Conditioning Concat), or {EXPLICIT}.",
            )  # fmt: skip
    say_which(conditioning, first, where)


def say_which(conditioning: Conditioning, first: list[Tensor], where: str) -> None:
    """Log it where several prompts are in force, of which the first is taken for the layout's."""
    others = sum(
        "default" not in options and not any(one is read for read in first)
        for one, options in conditioning
    )
    if others:
        LOG.info(
            "RealCompo: '%s' holds %d more prompt(s) in force at once; the layout's phrases are"
            " read in the first. Combine the layout's own prompt first.", where, others,
        )  # fmt: skip
