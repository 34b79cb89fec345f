"""A vector per text, from the host's text encoders or a sentence encoder in a local folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ...errors import RealCompoError
from ...values import checked
from ..inputs.encoded import checked_vectors
from .model_folders import read_settings, require_tokenizer

BATCH = 32


def clip_vectors(clip: Any, texts: Sequence[str]) -> tuple[Tensor, str]:
    """(N, D) vectors of texts by a CLIP socket's encoder, and how they were made.

    The pooled output where it was trained to stand for the whole text, that is where the encoder
    has a text projection; else the mean over the words' vectors. Raises RealCompoError for
    something that is no CLIP.
    """
    parts = ("tokenize", "encode_from_tokens", "cond_stage_model")
    if not all(hasattr(clip, part) for part in parts):
        raise RealCompoError("clip", "it is not a CLIP", "Connect a CLIP or checkpoint loader")
    projected = any(
        name.rsplit(".", 1)[-1] == "text_projection"
        for name, _ in (*clip.cond_stage_model.named_modules(), *_parameters(clip))
    )
    rows = {}
    pooled_too = projected
    for text in dict.fromkeys(texts):
        tokens = clip.tokenize(text, return_word_ids=True)
        vectors, pooled = clip.encode_from_tokens(_plain(tokens), return_pooled=True)
        checked_vectors(vectors)
        pooled_too = pooled_too and pooled is not None
        whole = pooled[0] if pooled_too and pooled is not None else None
        rows[text] = _mean_of_words(vectors, tokens) if whole is None else whole
        comfy.model_management.throw_exception_if_processing_interrupted()
    how = "pooled text vectors" if pooled_too else "mean of the words' vectors"
    found = torch.stack([rows[text].float().cpu().flatten() for text in texts])
    return checked.plain_tensor(found, "clip", "vectors", "Connect another CLIP"), how


def _parameters(clip: Any) -> list[tuple[str, Any]]:
    return list(clip.cond_stage_model.named_parameters())


def _plain(tokens: Any) -> Any:
    """Tokens without word ids, as encoders of every host version take them."""
    if not isinstance(tokens, Mapping):
        return tokens
    return {
        name: [[token[:2] for token in chunk] for chunk in chunks]
        for name, chunks in tokens.items()
    }


def _mean_of_words(vectors: Tensor, tokens: Any) -> Tensor:
    """(D,) mean over the tokens that belong to words; zero, like nothing, for an empty text."""
    chunks = next(iter(tokens.values())) if isinstance(tokens, Mapping) else tokens
    words = [word != 0 for chunk in chunks for _, _, word in chunk]
    if len(words) != vectors.shape[1]:
        # encoders that cut a template off, or put two encoders in one row
        return vectors[0].mean(0)
    inside = torch.tensor(words, device=vectors.device)
    return vectors[0][inside].mean(0) if bool(inside.any()) else torch.zeros_like(vectors[0, 0])


class SentenceEncoder:
    """A sentence encoder of a Hugging Face folder (MiniLM, MPNet, BGE, ...), kept by the host."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, first_token: bool) -> None:
        from .captioner import Held

        self.tokenizer, self.first_token = tokenizer, first_token
        management = comfy.model_management
        self.patcher = comfy.model_patcher.ModelPatcher(
            Held(model.eval().requires_grad_(False)),
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """(N, D): the mean over tokens, or the first token's, as the folder says."""
        comfy.model_management.load_models_gpu([self.patcher])
        device, parts = self.patcher.load_device, []
        for start in range(0, len(texts), BATCH):
            given = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True, truncation=True, return_tensors="pt",
            ).to(device)  # fmt: skip
            hidden = self.patcher.model.inner(**given).last_hidden_state.float()
            mask = given["attention_mask"][..., None]
            pooled = hidden[:, 0] if self.first_token else (hidden * mask).sum(1) / mask.sum(1)
            parts.append(pooled.cpu())
            comfy.model_management.throw_exception_if_processing_interrupted()
        return torch.cat(parts)


@lru_cache(maxsize=1)
def load_sentence_encoder(folder: Path) -> SentenceEncoder:
    """The encoder of a folder; loaded once. RealCompoError if it is none.

    Weights must be safetensors; nothing is downloaded and no code of the folder is run. Pooling
    follows the folder's ``1_Pooling/config.json``, the mean where there is none.
    """
    import transformers

    if not any(folder.glob("*.safetensors")):
        raise RealCompoError(
            "encoder", f"'{folder.name}' holds no .safetensors weights",
            "Download the model's safetensors files too; pickled weights are never loaded",
        )  # fmt: skip
    require_tokenizer(folder, "encoder")
    config = folder / "1_Pooling" / "config.json"
    pooling = read_settings(config, "encoder") if config.is_file() else {}
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with torch.inference_mode(False), torch.no_grad():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
            model = transformers.AutoModel.from_pretrained(
                str(folder), use_safetensors=True, **options
            )
    except Exception as error:  # the library and its parts raise every kind, plain Exception too
        raise RealCompoError(
            "encoder", f"'{folder.name}' cannot be loaded ({' '.join(str(error).split())[:300]})",
            "Choose a folder with a sentence encoder that transformers loads itself",
        ) from error  # fmt: skip
    return SentenceEncoder(model, tokenizer, bool(pooling.get("pooling_mode_cls_token")))
