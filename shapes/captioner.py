"""A tiny BLIP that says what is in a picture of the shapes world, as an ordinary model folder.

It is the very class that users' BLIP folders load into, so the demo runs the same code as they do:
config, word list and weights lie in ``shapes/weights/captioner`` in Hugging Face's form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .style import WEIGHTS
from .weights_file import write_file
from .world import COLOURS, PLURALS, SHAPES, WORDS

FOLDER = WEIGHTS / "captioner"
SIDE = 128
PATCH = 16
WIDTH = 128
# BLIP's special tokens: [DEC] begins what the decoder says, [SEP] ends it.
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]", "[ENC]")
PAD, END, BEGIN = (VOCABULARY.index(word) for word in ("[PAD]", "[SEP]", "[DEC]"))
LONGEST = 48
# The library's own start for the vision part, 1e-10, leaves a network of this size without a
# gradient; .02, its start for the text part, is meant for six times this width.
SPREAD = 0.05


def blip_config() -> Any:
    """``transformers.BlipConfig`` of 0.93 M parameters."""
    from transformers import BlipConfig

    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "initializer_range": SPREAD,
        "projection_dim": 16,
    }
    return BlipConfig(
        vision_config={
            **shared,
            "num_hidden_layers": 3,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": len(VOCABULARY),
            "encoder_hidden_size": WIDTH,
            "max_position_embeddings": LONGEST,
            "bos_token_id": BEGIN,
            "pad_token_id": PAD,
            # the library's name of what a question ends with; a caption ends with [SEP]
            "eos_token_id": END,
            "sep_token_id": END,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "is_decoder": True,
        },
        image_text_hidden_size=16,
    )


def caption_ids(captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """(B, T) token ids and mask (1: token) of captions given as words, with begin and end."""
    ids_of = {word: number for number, word in enumerate(VOCABULARY)}
    lines = [[BEGIN, *(ids_of[word] for word in words), END] for words in captions]
    longest = max(map(len, lines))
    ids = torch.tensor([line + [PAD] * (longest - len(line)) for line in lines])
    return ids, (ids != PAD).long()


def read_pairs(caption: str) -> set[tuple[str, str]]:
    """(colour, shape) pairs that a caption names; a colour counts with the noun right after it."""
    words = caption.replace(",", " ").split()
    nouns = {shape: shape for shape in SHAPES} | {many: one for one, many in PLURALS.items()}
    return {
        (first, nouns[second])
        for first, second in pairwise(words)
        if first in COLOURS and second in nouns
    }


def write_folder(folder: Path, state: dict[str, Tensor], facts: dict[str, str]) -> list[Path]:
    """The model folder: weights in half precision, config, word list; returns its files.

    ``facts`` goes into the weights file's metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["BlipForConditionalGeneration"], **blip_config().to_diff_dict()}
    texts = {
        "config.json": json.dumps(config, indent=2, sort_keys=True),
        "preprocessor_config.json": json.dumps(
            {
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "image_processor_type": "BlipImageProcessor",
                "processor_class": "BlipProcessor",
                "rescale_factor": 1 / 255,
                "resample": 3,
                "size": {"height": SIDE, "width": SIDE},
            },
            indent=2,
        ),
        "tokenizer_config.json": json.dumps(
            {
                "do_lower_case": True,
                "model_max_length": LONGEST,
                "processor_class": "BlipProcessor",
                "tokenizer_class": "BertTokenizer",
                "additional_special_tokens": ["[ENC]"],
                "bos_token": "[DEC]",
            },
            indent=2,
        ),
        "vocab.txt": "\n".join(VOCABULARY),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8", newline="\n")
    path = folder / "model.safetensors"
    write_file(path, state, {"format": "pt", **facts})
    return [folder / name for name in (*texts, path.name)]
