"""Rewards of captions and of pictures, for the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch

from ...captions.rewards import cosines, flat_texts, lexical_similarity, pair_texts, report
from ...errors import RealCompoError
from .captioner import BATCH, require_captioner, require_pictures
from .model_folders import find
from .text_vectors import clip_vectors, load_sentence_encoder


def caption_rewards(
    prompts: Any, captions: Any, clip: Any = None, encoder: str | None = None
) -> tuple[list[float], str]:
    """A reward per caption, and the report.

    By the sentence encoder named ``encoder``, else by ``clip``, else by words in common. An empty
    caption has the reward 0: a captioner that says nothing has seen nothing of the prompt. Raises
    RealCompoError for empty prompts and for numbers that do not fit.
    """
    texts = flat_texts(captions, "captions")
    wanted = _prompts(prompts, texts)
    if encoder is not None:
        model = load_sentence_encoder(find("sentence_encoders", encoder, "encoder"))
        values = cosines(model.vectors(wanted), model.vectors(texts)).tolist()
        how = f"cosine of sentence vectors ({encoder})"
    elif clip is not None:
        vectors, kind = clip_vectors(clip, [*wanted, *texts])
        first, second = vectors.split(len(wanted))
        values = cosines(first, second).tolist()
        how = f"cosine of the text encoder's vectors ({kind})"
    else:
        values = [lexical_similarity(a, c) for a, c in zip(wanted, texts, strict=True)]
        how = "share of words in common (no text encoder connected)"
    values = [v if c.strip() else 0.0 for v, c in zip(values, texts, strict=True)]
    return values, report(wanted, texts, values, how)


def _prompts(prompts: Any, captions: Sequence[str]) -> list[str]:
    listed = flat_texts(prompts, "prompt")
    for number, prompt in enumerate(listed):
        if not prompt.strip():
            which = f"prompt {number} is empty" if len(listed) > 1 else "the prompt is empty"
            raise RealCompoError("prompt", which, "Write what the pictures should show")
    return pair_texts(listed, captions)


@torch.no_grad()
def likelihood_rewards(
    prompts: Any, captioner: Any, images: Sequence[Any], prefix: str = ""
) -> tuple[list[float], str]:
    """Mean log-probability of a prompt's token per picture (<= 0), and the report.

    ``images`` is a list of batches (B, H, W, 3), which may differ in size. Raises RealCompoError
    for anything else, for empty prompts and for numbers that do not fit.
    """
    model = require_captioner(captioner)
    batches = [require_pictures(batch) for batch in images]
    names = [f"picture of {batch.shape[3]}x{batch.shape[2]}" for batch in batches for _ in batch]
    wanted = _prompts(prompts, names)
    model.load()
    values: list[float] = []
    for batch in batches:
        for pictures in batch.split(BATCH):
            texts = wanted[len(values) : len(values) + len(pictures)]
            values += model.likelihood(pictures, texts, prefix).tolist()
            comfy.model_management.throw_exception_if_processing_interrupted()
    how = "mean log-probability of the prompt's tokens, given the picture"
    return values, report(wanted, names, values, how)
