"""A captioning model from an ordinary Hugging Face folder, kept by the host like its own models.

What is read from the folder: ``config.json``, the tokenizer, safetensors weights, and the size and
colour scaling that pictures are prepared with. Nothing is downloaded and no code of the folder is
run. Pictures are prepared with torch, so that gradients reach them.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ..checked import shown
from ..errors import RealCompoError
from ..log import LOG
from .captioner_families import FAMILIES, Family
from .model_folders import TOKENIZER_FILES, read_settings, require_tokenizer

BATCH = 8
SINGLE_UP_TO = 1_000_000_000
IGNORED = -100
LARGEST_EDGE = 4096
"""Pixels that a captioner's picture may be high or wide."""
LONGEST_CAUSE = 300
"""Characters of the library's own words that a message repeats."""
_SHAPES = re.compile(r"shape|size|dimension|out of range|number of", re.IGNORECASE)
_MOST_MEAN, _LEAST_STD = 1000.0, 1e-6


@dataclass(frozen=True)
class Preparation:
    """How pictures of 0..1 become what the model was trained on."""

    size: tuple[int, int]
    shortest: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 3, height, width), normalised; differentiable."""
        size = self.size
        if self.shortest is not None:
            high, wide = pictures.shape[2:]
            scale = self.shortest / min(high, wide)
            size = (max(round(high * scale), self.size[0]), max(round(wide * scale), self.size[1]))
        if tuple(pictures.shape[2:]) != size:
            # bicubic overshoots at edges; the models never saw values outside 0..1
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((s - w) // 2 for s, w in zip(size, self.size, strict=True))
        pictures = pictures[..., top : top + self.size[0], left : left + self.size[1]]
        mean, std = (
            torch.tensor(values, device=pictures.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pictures - mean) / std


class Held(torch.nn.Module):
    """The host notes a device on the module it moves; the library's models do not let it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Captioner:
    """A captioning model: tells pictures in words, and how likely words are for a picture."""

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, family: Family, preparation: Preparation
    ) -> None:
        self.tokenizer, self.family, self.preparation = tokenizer, family, preparation
        management = comfy.model_management
        model.eval().requires_grad_(False)
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.patcher = comfy.model_patcher.ModelPatcher(
            Held(model),
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    @property
    def module(self) -> torch.nn.Module:
        """The library's model."""
        return self.patcher.model.inner

    @property
    def device(self) -> torch.device:
        """Where it runs once the host has loaded it."""
        return self.patcher.load_device

    def load(self) -> None:
        """Let the host bring the weights to their device, and others away if need be."""
        comfy.model_management.load_models_gpu([self.patcher])

    def _pixels(self, pictures: Tensor) -> Tensor:
        return self.preparation(pictures.to(self.device, torch.float32)).to(self.dtype)

    @torch.no_grad()
    def caption(
        self, pictures: Tensor, prefix: str = "", longest: int = 40, done: Any = None
    ) -> list[str]:
        """A caption (greedy decoding) of each of (B, 3, H, W) pictures in 0..1.

        ``prefix`` begins every caption and is not part of what is returned; Florence-2 takes it as
        the task. ``longest`` in tokens. ``done`` is called with the number of pictures behind us.
        The host's stop button works between two words.
        """
        from transformers import StoppingCriteria

        class Stop(StoppingCriteria):
            def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
                comfy.model_management.throw_exception_if_processing_interrupted()
                return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        self.load()
        captions: list[str] = []
        for batch in pictures.split(BATCH):
            pixels = self._pixels(batch)
            begin = self._begin(prefix)
            ids = torch.tensor([begin], device=self.device).repeat(len(batch), 1)
            room = self.family.room(len(begin))
            # torch's own generator is used by nobody here: greedy decoding draws nothing
            with _fitting():
                told = self.family.generate(
                    self.module, pixels, ids,
                    max_new_tokens=min(longest, room), do_sample=False, num_beams=1,
                    stopping_criteria=[Stop()],
                )  # fmt: skip
            captions += [self._text(row) for row in told.tolist()]
            if done is not None:
                done(len(captions))
        return captions

    def _begin(self, prefix: str) -> list[int]:
        """Tokens that stand before a caption; RealCompoError where they leave it no room."""
        begin = self.family.begin(self.tokenizer, prefix)
        if len(begin) >= self.family.longest:
            raise RealCompoError(
                "prefix", f"it has {len(begin)} tokens, and the captioner reads fewer than"
                f" {self.family.longest} before a caption", "Shorten it",
            )  # fmt: skip
        return begin

    def _text(self, ids: list[int]) -> str:
        special = {*self.tokenizer.all_special_ids, *self.family.special}
        known = len(self.tokenizer)
        kept = [token for token in ids if token not in special and token < known]
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()

    def check(self, texts: Sequence[str], prefix: str = "") -> list[list[int]]:
        """Tokens of every text; RealCompoError for an empty text or one that is too long."""
        lines = [self.family.text(self.tokenizer, text) for text in texts]
        room = self.family.room(len(self._begin(prefix)))
        for text, line in zip(texts, lines, strict=True):
            if not text.strip():
                raise RealCompoError("prompt", "it is empty", "Write what the picture should show")
            if len(line) > room:
                raise RealCompoError(
                    "prompt", f"it has {len(line)} tokens, the captioner reads up to {room}",
                    "Shorten it",
                )  # fmt: skip
        return lines

    def likelihood(self, pictures: Tensor, texts: Sequence[str], prefix: str = "") -> Tensor:
        """(B,) mean log-probability (nats, <= 0) of a text's tokens, each given those before it.

        Teacher-forced; gradients reach (B, 3, H, W) ``pictures`` in 0..1 where they are on. The
        end of the text counts as a token: so a text that stops short is not as good as a whole one.
        Call ``load`` first. Raises RealCompoError as ``check``.
        """
        begin = self._begin(prefix)
        lines = self.check(texts, prefix)
        longest = max(map(len, lines))
        labels = torch.tensor(
            [line + [IGNORED] * (longest - len(line)) for line in lines], device=self.device
        )
        first = torch.tensor([begin], device=self.device).repeat(len(lines), 1)
        with _fitting():
            logits = self.family.logits(self.module, self._pixels(pictures), first, labels)
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        return -losses.sum(1) / (labels != IGNORED).sum(1)


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Errors of a model whose files do not fit each other, in one sentence; others pass."""
    try:
        yield
    except (RealCompoError, comfy.model_management.InterruptProcessingException):
        raise
    except RuntimeError as error:
        # memory that is full, and a device that fails, are no fault of the folder
        if type(error) is not RuntimeError or not _SHAPES.search(str(error)):
            raise
        raise _unfitting(error) from error
    except Exception as error:  # the library raises every kind for settings that cannot be
        raise _unfitting(error) from error


def _unfitting(error: Exception) -> RealCompoError:
    return RealCompoError(
        "captioner", f"the files of its folder do not fit each other ({_words_of(error)})",
        "Download all of them from one place, then load it anew",
    )  # fmt: skip


def _words_of(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= LONGEST_CAUSE else f"{said[:LONGEST_CAUSE]}..."


def require_captioner(value: Any) -> Captioner:
    """``value`` if it is a captioner; RealCompoError otherwise."""
    if not isinstance(value, Captioner):
        raise RealCompoError(
            "captioner", f"got a {type(value).__name__}, not a REALCOMPO_CAPTIONER",
            "Connect Load Captioner",
        )  # fmt: skip
    return value


def require_pictures(value: Any) -> Tensor:
    """(B, 3, H, W) of a batch of the host's IMAGE (B, H, W, 3 or more); RealCompoError if none."""
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[3] < 3 or not len(value):
        raise RealCompoError("images", "it is not a batch of pictures", "Connect an IMAGE")
    return value[..., :3].movedim(-1, 1).float().clamp(0, 1)


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
            f"'{folder.name}' is a '{shown(config.get('model_type'))}' model, not a captioner",
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
    preparation = _preparation(folder, config, where)
    # what is made inside inference mode can never pass a gradient on
    with torch.inference_mode(False), torch.no_grad():
        model, tokenizer = _from_library(folder, family, where)
    try:
        made = family.of(model.config, _read_first(folder, where), where)
        captioner = Captioner(model, tokenizer, made, preparation)
        _try_once(captioner, folder)
    except RealCompoError as error:
        raise error.at("", where) from None
    except Exception as error:  # the library and its parts raise every kind, plain Exception too
        raise _not_loaded(folder, where, error) from error
    return captioner


def _not_loaded(folder: Path, where: str, error: Exception) -> RealCompoError:
    return RealCompoError(
        where, f"'{folder.name}' cannot be loaded ({_words_of(error)})",
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
        model, told = kind.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **{name: dtype}, **options
        )
    except Exception as error:  # the library and its parts raise every kind, plain Exception too
        raise _not_loaded(folder, where, error) from error
    missing = [key for key in told["missing_keys"] if "position_ids" not in key]
    if missing or told["mismatched_keys"]:
        raise RealCompoError(
            where, f"the weights in '{folder.name}' leave {len(missing)} of the model's open, such"
            f" as '{(missing or [k[0] for k in told['mismatched_keys']])[0]}'",
            "Take the folder that is made for transformers' own class, not for remote code",
        )  # fmt: skip
    LOG.info("RealCompo: captioner %s (%s)", folder.name, family.model_class)
    return model, tokenizer


def _preparation(folder: Path, config: dict[str, Any], where: str) -> Preparation:
    told = _read_first(folder, where)
    inner = told.get("image_processor", told)
    told = inner if isinstance(inner, dict) else {}
    remedy = "Download preprocessor_config.json again, as the model's makers wrote it"
    size: Any = told.get("crop_size") if told.get("do_center_crop") else told.get("size")
    if not size:
        vision = config.get("vision_config")
        size = vision.get("image_size") if isinstance(vision, dict) else None
    if isinstance(size, dict):
        size = (size.get("height", size.get("shortest_edge")), size.get("width"))
    if isinstance(size, (int, float)):
        size = (size, size)
    if not isinstance(size, (list, tuple)) or not size or not size[0]:
        raise RealCompoError(
            where, f"'{folder.name}' does not say what size its pictures have",
            "Download preprocessor_config.json too",
        )  # fmt: skip
    whole = told.get("size")
    shortest = whole.get("shortest_edge") if isinstance(whole, dict) else None
    try:
        if len(size) > 2:
            raise ValueError("a size is a height and a width")
        edges: Any = size
        high, wide = (_edge(edge) for edge in (edges[0], edges[-1] or edges[0]))
        shortest = _edge(shortest) if shortest else None
        mean = _colours(told.get("image_mean", (0.48145466, 0.4578275, 0.40821073)), -_MOST_MEAN)
        std = _colours(told.get("image_std", (0.26862954, 0.26130258, 0.27577711)), _LEAST_STD)
    except ValueError as error:
        raise RealCompoError(
            where, f"'{folder.name}' prepares pictures in a way that cannot be: {error}", remedy
        ) from None
    return Preparation((high, wide), shortest, mean, std)


def _edge(value: Any) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 1 <= value <= LARGEST_EDGE or value != int(value):
        raise ValueError(f"an edge is {shown(value)}, not 1 to {LARGEST_EDGE} pixels")
    return int(value)


def _colours(value: Any, least: float) -> tuple[float, ...]:
    ok = isinstance(value, (list, tuple)) and len(value) == 3
    if not ok or not all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and least <= one <= _MOST_MEAN
        for one in value
    ):
        raise ValueError("image_mean and image_std are three numbers each, the latter above 0")
    return tuple(float(one) for one in value)


def _read_first(folder: Path, where: str) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            return read_settings(folder / name, where)
    return {}
