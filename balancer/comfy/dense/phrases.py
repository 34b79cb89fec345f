"""Phrases encoded alone, in the place of their words in an encoded prompt (DenseDiffusion)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attention.regions import Tokens
from ...attention.tokens import CHUNK, EncodedPrompt
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ...text.weights import escaped
from ..inputs.encoded import checked_vectors
from ..text.prompt_rows import Conditioning
from ..text.tokenizer import encode_prompt, prompt_weights


def with_phrases(positive: Conditioning, clip: Any, layout: Layout, spans: Tokens) -> Conditioning:
    """``positive`` with every region's words as the region's phrase has them when it stands alone.

    ``spans`` are the token positions of the regions' phrases (``tokens.phrase_spans``). Words of
    one phrase then know nothing of the others, so that "a red star and a blue circle" cannot mix
    its colours in the text already. Weights in the prompt stay in force; a leading article that
    the prompt does not have is left out. Regions with explicit token positions keep theirs. The
    input is not changed.

    Raises RealCompoError where the text encoder is not the one of ``positive``.
    """
    weights, prompt = prompt_weights(layout.prompt), encode_prompt(layout.prompt)
    rows: list[tuple[list[int], list[tuple[Any, Tensor]]]] = []
    known: dict[Any, list[tuple[Any, Tensor]]] = {}
    for region, span in zip(layout.regions, spans, strict=True):
        if region.tokens is not None:
            continue
        text, own = _alone(prompt, region.phrase, span)
        wanted = tuple(weights.get(position, 1.0) for position in span)
        key = (text, own, wanted)
        if key not in known:
            known[key] = _encoded(clip, text, own, wanted)
        rows.append((list(span), known[key]))
    result: Conditioning = []
    for embedding, options in positive:
        embedding = embedding.clone()
        for span, versions in rows:
            # an encoder with scheduled hooks gives one version for every part of the schedule
            part = _part(options)
            fitting = next((value for at, value in versions if at == part), versions[0][1])
            if fitting.shape[-1] != embedding.shape[-1]:
                raise RealCompoError(
                    "clip", f"it gives vectors of {fitting.shape[-1]} numbers, the conditioning "
                    f"has {embedding.shape[-1]}", "Connect the CLIP that encoded 'positive'",
                )  # fmt: skip
            embedding[:, span] = fitting.to(embedding)
        result.append([embedding, options])
    return result


def _alone(
    prompt: EncodedPrompt, phrase: str, span: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
    """The text to encode for the tokens ``span`` of ``prompt``, and for each its position in it.

    The phrase as it is typed where that gives the very tokens, else the prompt's own wording.
    """
    index = prompt.index
    tokens = [index.at[position] for position in span]
    typed = encode_prompt(phrase)
    if typed.ids[-len(span) :] == tuple(prompt.ids[token] for token in tokens):
        return phrase, typed.positions[-len(span) :]
    places = [index.places[token] for token in tokens]
    first = min(start for start, end in places if end > 0)
    text = escaped(index.text.text[first : max(end for _, end in places)])
    own = encode_prompt(text)
    positions: list[int] = []
    for number, (start, end) in enumerate(places):
        run = own.index.tokens(start - first, end - first) if end > 0 else None
        first_own, stop = run or (0, len(own))
        # the pieces of one character need not be as many as in the prompt
        order = places[:number].count((start, end))
        positions.append(own.positions[min(first_own + order, stop - 1)])
    return text, tuple(positions)


def _part(options: Mapping[str, Any]) -> Any:
    return options.get("clip_start_percent"), options.get("clip_end_percent")


def _rows(embedding: Any, positions: tuple[int, ...]) -> Tensor:
    found = checked_vectors(embedding)
    if max(positions, default=0) >= found.shape[1]:
        raise RealCompoError(
            "clip", f"it gives {found.shape[1]} vectors, where the phrase alone has more words",
            "Connect the CLIP that encoded 'positive'",
        )  # fmt: skip
    return found[0, list(positions)].to(torch.float32)


def _encoded(
    clip: Any, phrase: str, positions: tuple[int, ...], weights: tuple[float, ...]
) -> list[tuple[Any, Tensor]]:
    """(part of the schedule, vectors (len(positions), D)) of a phrase, its tokens so weighted."""
    tokens = clip.tokenize(phrase)
    if isinstance(tokens, Mapping):
        wanted = dict(zip(positions, weights, strict=True))
        tokens = {
            name: [
                [
                    (token[0], wanted.get(number * CHUNK + index, token[1]), *token[2:])
                    for index, token in enumerate(chunk)
                ]
                for number, chunk in enumerate(chunks)
            ]
            for name, chunks in tokens.items()
        }
    if hasattr(clip, "encode_from_tokens_scheduled"):
        versions = clip.encode_from_tokens_scheduled(tokens)
    else:
        versions = [[clip.encode_from_tokens(tokens), {}]]
    return [
        (_part(options), _rows(embedding, positions))
        for embedding, options in versions
    ]
