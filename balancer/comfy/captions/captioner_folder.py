"""A captioner from an ordinary Hugging Face folder.

What is read from the folder: ``config.json``, the tokenizer, safetensors weights, and the size and
colour scaling that pictures are prepared with. Nothing is downloaded and no code of the folder is
run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from safetensors import safe_open

from ...errors import RealCompoError, shown
from ...log import LOG
from .captioner import Captioner, words_of
from .captioner_families import FAMILIES, Family
from .captioner_pictures import picture_settings, read_preparation
from .model_folders import TOKENIZER_FILES, read_settings, require_tokenizer

SINGLE_UP_TO = 1_000_000_000
"""Weights of a model that runs in single precision on every device."""


def load_captioner(folder: Path, where: str = "folder") -> Captioner:
    """The captioner of a model folder; RealCompoError at ``where`` if it is none that we know.

    Known are BLIP, BLIP-2 and Florence-2 in the form that ``transformers`` loads itself.
    """
    config = read_settings(folder / "config.json", where)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = "BLIP, BLIP-2 or Florence-2"
        raise RealCompoError(
            where,
            f"'{folder.name}' is a {shown(str(config.get('model_type')))} model, not a captioner",
            f"Choose a folder with a {known} captioning model",
        )  # fmt: skip
    if not any(folder.glob("*.safetensors")):
        raise RealCompoError(
            where, f"'{folder.name}' holds no .safetensors weights",
            "Download the model's safetensors files too; pickled weights are never loaded",
        )  # fmt: skip
    for name in ("text_config", "vision_config", "qformer_config"):
        if not isinstance(config.get(name, {}), dict):
            raise RealCompoError(
                where, f"'{name}' in config.json of '{folder.name}' is not an object",
                "Download config.json again",
            )  # fmt: skip
    require_tokenizer(folder, where)
    preparation = read_preparation(folder, config, where)
    # what is made inside inference mode can never pass a gradient on
    with torch.inference_mode(False), torch.no_grad():
        model, tokenizer = _from_library(folder, family, where)
    try:
        made = family.of(model.config, picture_settings(folder, where), where)
        captioner = Captioner(model, tokenizer, made, preparation)
        _try_once(captioner, folder)
    except RealCompoError as error:
        raise error.at("", where) from None
    except Exception as error:  # the library and its parts raise every kind, plain Exception too
        raise _not_loaded(folder, where, error) from error
    return captioner


def _not_loaded(folder: Path, where: str, error: Exception) -> RealCompoError:
    return RealCompoError(
        where, f"'{folder.name}' cannot be loaded ({words_of(error)})",
        "Check that the download is whole and of the form that transformers loads itself",
    )  # fmt: skip


def _try_once(captioner: Captioner, folder: Path) -> None:
    """Ask for a word's tokens and hold every token to what the model has: nothing is computed.

    A tokenizer without its words gives no token for any text, or the unknown one for all.
    """
    tokenizer, family = captioner.tokenizer, captioner.family
    words = tokenizer("a red circle and a blue square", add_special_tokens=False)["input_ids"]
    known = [token for token in words if token not in {tokenizer.unk_token_id, None}]
    if not known:
        raise RealCompoError(
            "folder", f"the tokenizer in '{folder.name}' knows no words",
            f"Download its files too: {TOKENIZER_FILES}",
        )  # fmt: skip
    table: Any = captioner.module.get_input_embeddings  # of transformers' models
    rows = table().weight.shape[0]
    tokens = [*family.begin(tokenizer, ""), *family.text(tokenizer, "a red circle")]
    if any(not isinstance(token, int) or not 0 <= token < rows for token in tokens):
        raise RealCompoError(
            "folder", f"the tokenizer in '{folder.name}' has other tokens than the model, which"
            f" has {rows}", "Download both from one place",
        )  # fmt: skip
    if not isinstance(family.longest, int) or len(family.begin(tokenizer, "")) >= family.longest:
        raise RealCompoError(
            "folder", f"'{folder.name}' leaves a caption no room: its model reads"
            f" {shown(family.longest)} tokens", "Download config.json again",
        )  # fmt: skip


def _dtype(folder: Path) -> torch.dtype:
    """Single precision where it fits easily: rewards of alike pictures differ by little, and half
    precision loses gradients. Larger models run in what the device is made for."""
    device = comfy.model_management.text_encoder_device()
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            # .keys() is a method of the file, which cannot be iterated itself
            names = file.keys()
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    if count < SINGLE_UP_TO or comfy.model_management.is_device_cpu(device):
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16


def _from_library(folder: Path, family: type[Family], where: str) -> tuple[Any, Any]:
    import transformers

    # the library's version 5 renamed it
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind = getattr(transformers, family.model_class, None)
    if kind is None:
        raise RealCompoError(
            where, f"transformers {transformers.__version__} does not know {family.model_class}",
            "Update it: python -m pip install -U transformers",
        )  # fmt: skip
    try:
        dtype = _dtype(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
        model, report = kind.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **{name: dtype}, **options
        )
    except Exception as error:  # the library and its parts raise every kind, plain Exception too
        raise _not_loaded(folder, where, error) from error
    missing = [key for key in report["missing_keys"] if "position_ids" not in key]
    if missing or report["mismatched_keys"]:
        raise RealCompoError(
            where, f"the weights in '{folder.name}' leave {len(missing)} of the model's open, such"
            f" as '{(missing or [k[0] for k in report['mismatched_keys']])[0]}'",
            "Take the folder that is made for transformers' own class, not for remote code",
        )  # fmt: skip
    LOG.info("RealCompo: captioner %s (%s)", folder.name, family.model_class)
    return model, tokenizer
