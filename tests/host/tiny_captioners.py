"""Tiny random captioners of every family, as the model folders that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "red", "blue", "circle", "square", "and", "photo", "of", "what", "is", "there")


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def _spread(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights large enough for a gradient: the library's own start is near zero in places."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def _finish(folder: Path, model: Any, **told: Any) -> Path:
    model.save_pretrained(str(folder), safe_serialization=True)
    told = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **told}
    (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def blip2(folder: Path, kind: str = "opt") -> Path:
    """BLIP-2 with a language model of OPT's or of T5's kind."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig, T5Config

    tokens = len(_tokenizer(folder))
    # a beginning-of-text token that the picture's places are filled before
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text: Any = OPTConfig(
        vocab_size=tokens, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=48,
        max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.0, **ids,
    )  # fmt: skip
    if kind == "t5":
        text = T5Config(
            vocab_size=tokens, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2,
            decoder_start_token_id=0, dropout_rate=0.0, **ids,
        )  # fmt: skip
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**size, "intermediate_size": 48, "image_size": 32, "patch_size": 8},
        qformer_config={**size, "intermediate_size": 48, "encoder_hidden_size": 32,
                        "vocab_size": 20, "hidden_dropout_prob": 0.0,
                        "attention_probs_dropout_prob": 0.0},
        text_config=text.to_dict(), num_query_tokens=3, image_token_index=4,
    )  # fmt: skip
    model = _spread(Blip2ForConditionalGeneration(config), 1)
    return _finish(folder, model, size={"height": 32, "width": 32})


def florence2(folder: Path) -> Path:
    """Florence-2 in the library's own form."""
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration

    tokens = len(_tokenizer(folder))
    text = BartConfig(
        vocab_size=tokens, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=96, dropout=0.0, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    config = Florence2Config(
        text_config=text.to_dict(), image_token_id=4,
        vision_config={
            "embed_dim": [16, 32], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2],
            "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32,
            "drop_path_rate": 0.0,
        },
    )  # fmt: skip
    model = _spread(Florence2ForConditionalGeneration(config), 2)
    # 32 pixels at strides of 4 and 2: 16 places, and their mean
    size = {"height": 32, "width": 32}
    return _finish(folder, model, size=size, image_seq_length=17)
