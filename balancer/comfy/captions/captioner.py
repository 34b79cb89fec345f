"""A captioning model, kept by the host like its own models: captions and their likelihood."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RealCompoError, cut
from .captioner_families import IGNORED, Family
from .captioner_pictures import Preparation

BATCH = 8
"""Pictures that are captioned at once."""
LONGEST_CAUSE = 300
"""Characters of the library's own words that a message repeats."""
_SHAPES = re.compile(r"shape|size|dimension|out of range|number of", re.IGNORECASE)


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
        self, pictures: Tensor, prefix: str = "", longest: int = 40,
        done: Callable[[int], Any] | None = None,
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
                tokens = self.family.generate(
                    self.module, pixels, ids,
                    max_new_tokens=min(longest, room), do_sample=False, num_beams=1,
                    stopping_criteria=[Stop()],
                )  # fmt: skip
            captions += [self._text(row) for row in tokens.tolist()]
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
        "captioner", f"the files of its folder do not fit each other ({words_of(error)})",
        "Download all of them from one place, then load it anew",
    )  # fmt: skip


def words_of(error: Exception) -> str:
    """The library's own words, one line; the error's type if it has none."""
    return cut(" ".join(str(error).split()) or type(error).__name__, LONGEST_CAUSE)


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
