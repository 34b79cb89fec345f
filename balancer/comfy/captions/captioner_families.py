"""What differs between BLIP, BLIP-2 and Florence-2: how text and pictures are put to them.

A decoder-only captioner reads the beginning and the caption as one row of tokens; an
encoder-decoder (Florence-2, BLIP-2 with T5) reads the beginning on one side and writes the caption
on the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import RealCompoError

IGNORED = -100
"""Label of what is no token; its prediction counts for nothing."""
ENDLESS = 1_000_000
"""Tokens of a caption where the model has no bound of its own."""


@dataclass
class Family:
    """One family with the figures of one model; the base class is a decoder-only captioner."""

    model_class = ""
    longest: int
    """Tokens that the model has positions for."""
    special: frozenset[int] = field(default_factory=frozenset)
    """Ids that are not words, beside the tokenizer's own."""

    @classmethod
    def of(cls, config: Any, extra: dict[str, Any], where: str) -> Family:
        """The family for a loaded model's config and the folder's file on pictures."""
        raise NotImplementedError

    def begin(self, tokenizer: Any, prefix: str) -> list[int]:
        """Tokens that stand before a caption."""
        raise NotImplementedError

    def text(self, tokenizer: Any, text: str) -> list[int]:
        """Tokens of a caption, with the token that ends it."""
        raise NotImplementedError

    def room(self, begun: int) -> int:
        """Tokens that a caption may have after ``begun`` ones."""
        return max(self.longest - begun, 1)

    def generate(self, model: Any, pixels: Tensor, ids: Tensor, **options: Any) -> Tensor:
        """(B, T) tokens of the captions alone, for normalised ``pixels`` (B, 3, H, W) after the
        tokens ``ids`` (B, T0)."""
        tokens = model.generate(
            pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **options
        )
        count = ids.shape[1]
        same = tokens.shape[1] >= count and bool((tokens[:, :count] == ids).all())
        return tokens[:, count:] if same else tokens

    def logits(self, model: Any, pixels: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        """(B, T, V) logits of ``labels`` (B, T), each from the tokens before it; ``pixels`` and
        ``ids`` as of ``generate``."""
        row = torch.cat((ids, labels.clamp(min=0)), 1)
        mask = torch.cat((torch.ones_like(ids), (labels != IGNORED).to(ids)), 1)
        logits = model(pixel_values=pixels, input_ids=row, attention_mask=mask).logits
        return logits[:, -labels.shape[1] - 1 : -1]


def _words(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass
class Blip(Family):
    """BLIP: [DEC] prefix caption [SEP]."""

    model_class = "BlipForConditionalGeneration"
    start: int = 0
    end: int = 0

    @classmethod
    def of(cls, config: Any, extra: dict[str, Any], where: str) -> Family:
        text = config.text_config
        special = frozenset({text.bos_token_id, text.sep_token_id, text.pad_token_id})
        return cls(text.max_position_embeddings, special, text.bos_token_id, text.sep_token_id)

    def begin(self, tokenizer: Any, prefix: str) -> list[int]:
        return [self.start, *_words(tokenizer, prefix)]

    def text(self, tokenizer: Any, text: str) -> list[int]:
        return [*_words(tokenizer, text), self.end]

    def generate(self, model: Any, pixels: Tensor, ids: Tensor, **options: Any) -> Tensor:
        # the library takes the tokenizer's closing token off again
        closed = torch.cat((ids, torch.full_like(ids[:, :1], self.end)), 1)
        tokens = model.generate(
            pixel_values=pixels, input_ids=closed, attention_mask=torch.ones_like(closed), **options
        )
        return tokens[:, ids.shape[1] :]


@dataclass
class _EncoderDecoder(Family):
    """The caption is the decoder's, the beginning the encoder's."""

    def room(self, begun: int) -> int:
        return self.longest

    def generate(self, model: Any, pixels: Tensor, ids: Tensor, **options: Any) -> Tensor:
        return model.generate(
            pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **options
        )

    def logits(self, model: Any, pixels: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        return model(
            pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels
        ).logits


def _closed(tokenizer: Any, text: str) -> list[int]:
    """Tokens with the tokenizer's end token, without its start token."""
    return [*_words(tokenizer, text), tokenizer.eos_token_id]


@dataclass
class Blip2(Family):
    """BLIP-2 with OPT: tokens for the picture, then </s> prefix caption </s>."""

    model_class = "Blip2ForConditionalGeneration"
    image_tokens: tuple[int, ...] = ()
    start: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any, extra: dict[str, Any], where: str) -> Family:
        image = getattr(config, "image_token_index", None)
        if image is None:
            raise RealCompoError(
                where, "this BLIP-2 folder names no token for the picture ('image_token_index')",
                "Download the model's present files",
            )  # fmt: skip
        text = config.text_config
        image_tokens = (image,) * config.num_query_tokens
        longest = getattr(text, "max_position_embeddings", ENDLESS)
        if config.use_decoder_only_language_model:
            return cls(longest, frozenset({image}), image_tokens, (text.bos_token_id,))
        return Blip2T5(longest, frozenset({image}), image_tokens)

    def begin(self, tokenizer: Any, prefix: str) -> list[int]:
        return [*self.image_tokens, *self.start, *_words(tokenizer, prefix)]

    def text(self, tokenizer: Any, text: str) -> list[int]:
        # the word pieces of OPT carry the space before them
        return _closed(tokenizer, " " + text.strip())


@dataclass
class Blip2T5(_EncoderDecoder):
    """BLIP-2 with T5: tokens for the picture and the prefix; the caption beside them."""

    model_class = "Blip2ForConditionalGeneration"
    image_tokens: tuple[int, ...] = ()

    def begin(self, tokenizer: Any, prefix: str) -> list[int]:
        return [*self.image_tokens, *_closed(tokenizer, prefix)]

    def text(self, tokenizer: Any, text: str) -> list[int]:
        return _closed(tokenizer, text)


QUESTIONS = {
    "": "Describe in detail what is shown in the image.",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
}


@dataclass
class Florence2(_EncoderDecoder):
    """Florence-2: tokens for the picture and a question; the caption beside them."""

    model_class = "Florence2ForConditionalGeneration"
    image_tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any, extra: dict[str, Any], where: str) -> Family:
        settings = extra.get("image_processor", extra)
        count, image = settings.get("image_seq_length"), getattr(config, "image_token_id", None)
        if not count or image is None:
            raise RealCompoError(
                where, "this Florence-2 folder does not say how many tokens a picture takes",
                "Take the files made for transformers' own class (florence-community)",
            )  # fmt: skip
        longest = getattr(config.text_config, "max_position_embeddings", ENDLESS)
        return cls(longest, frozenset({image}), (image,) * int(count))

    def begin(self, tokenizer: Any, prefix: str) -> list[int]:
        question = QUESTIONS.get(prefix.strip(), prefix)
        words = _closed(tokenizer, question)
        return [*self.image_tokens, tokenizer.bos_token_id, *words]

    def text(self, tokenizer: Any, text: str) -> list[int]:
        return [tokenizer.bos_token_id, *_closed(tokenizer, text.strip())]


FAMILIES: dict[str, type[Family]] = {"blip": Blip, "blip-2": Blip2, "florence2": Florence2}
