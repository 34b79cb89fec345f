"""Runs of the finetuning whose cost is measured: the pack's loop, and the host's own trainer.

Both train adapters of rank 8 by AdamW on the same model, prompts, batch and latents. The host's
``TrainLoraNode`` (of ComfyUI 0.3.64 as of 0.33) has adapters on every layer and one loss, on whole
predictions; in a batch of B it hands the model B prompts as one combined conditioning, so that B
latents cost B * B samples. That of 0.33 trains a second copy of the model, which it loads for
itself; the copy counts among what its training holds. Separate-and-Enhance trains the keys of
cross-attention by losses on maps, so its passes end at the last map that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_train import TrainLoraNode
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ...balancer.attention.regions import LayoutBatch
from ...balancer.comfy.finetune.separation import Prepared, SeparateEnhance, SeparationSettings
from ...balancer.comfy.finetune.session import Encoded, Session
from ...balancer.comfy.finetune.training import train
from ...balancer.finetune.optimisation import TrainingSettings
from ...balancer.finetune.prompts import TrainingPrompt
from ...shapes.host_models import load_demo
from .. import true_models as true
from ..cost.networks import layout, steady_host

RANK, RATE = 8, 1e-4
PROMPTS = 8
TOKENS = 77
AfterStep = Callable[[torch.optim.Optimizer], None]
STOCK, MAPS = "stock", "maps"
FORMS = (STOCK, "stock-checkpointed", MAPS, "maps-checkpointed", "maps+norm", "whole")
"""``stock``: the host's trainer; ``maps``: the losses on the maps alone, as released for one pair
of concepts; ``maps+norm``: with the loss that keeps predictions, which asks for one whole pass and
one frozen pass more; ``whole``: the pack's loop, but a denoising loss, to tell what the stop saves.
``-checkpointed``: activations are computed again in the backward pass."""


@dataclass(frozen=True)
class Subject:
    """A model in training: its level of maps, height and width of latents, the prompts' width."""

    name: str
    model: ModelPatcher
    factor: int
    size: int
    width: int

    def latents(self, count: int) -> Tensor:
        """(count, C, size, size) of unit noise."""
        channels = self.model.model.latent_format.latent_channels
        generator = torch.Generator().manual_seed(5)
        return torch.randn(count, channels, self.size, self.size, generator=generator)

    def texts(self) -> list[Tensor]:
        """Encoded prompts, (1, 77, width) each: random, since no cost depends on their values."""
        generator = torch.Generator().manual_seed(6)
        return [torch.randn(1, TOKENS, self.width, generator=generator) for _ in range(PROMPTS)]

    def prepared(self) -> list[Prepared]:
        """The same as the pack's loop has them: two objects of two tokens each."""
        plan = layout(2)
        regions = LayoutBatch.of(plan, tuple(region.tokens or () for region in plan.regions))
        names = tuple(region.phrase for region in plan.regions)
        return [
            Prepared(TrainingPrompt(" ".join(names), names), Encoded(t), regions, (Encoded(t),) * 2)
            for t in self.texts()
        ]


def shapes_subject() -> Subject:
    """The demo's realism model at its own size; maps at half the latent's sides."""
    model, *_ = load_demo("realistic", "realism")
    return Subject("shapes", model, 2, 16, 64)


def narrow_subject(size: int = 32) -> Subject:
    """SD1.5's topology with a tenth of the channels, and its level of maps."""
    kind = true.narrow(true.SD15, 32, 128)
    return Subject("narrow SD1.5", true.unet(kind, torch.float32, 1), 4, size, 128)


def true_subject(dtype: torch.dtype) -> Subject:
    """SD1.5 in its true size, without values, at 512 px."""
    return Subject("SD1.5", true.unet(true.SD15, dtype), 4, 64, 768)


def _whole(session: Session, prompts: list[Prepared], latents: Tensor) -> None:
    sigma = session.random_sigmas(len(latents))
    x = session.noised(latents, sigma)
    out = session.predict(x, sigma, [prompt.encoded for prompt in prompts[: len(latents)]])
    assert out is not None
    session.backward((out - latents).square().mean())


def _ours(subject: Subject, form: str, batch: int, steps: int) -> None:
    settings = TrainingSettings(
        steps=steps, batch_size=batch, learning_rate=RATE, rank=RANK, alpha=RANK,
        checkpointing="on" if form.endswith("checkpointed") else "off",
    )  # fmt: skip
    prompts = subject.prepared()
    if form == "whole":
        latents = subject.latents(batch)
        whole, objective = True, lambda session: _whole(session, prompts, latents)
    else:
        losses = SeparationSettings(norm=0.5 if form == "maps+norm" else 0.0)
        whole = bool(losses.norm)
        objective = SeparateEnhance(prompts, losses, batch, subject.factor)
    size = subject.size, subject.size
    train(subject.model, objective, settings, size, about=f"bench {form}", whole=whole)


def _stock(subject: Subject, form: str, batch: int, steps: int) -> None:
    half = subject.model.model_dtype() == torch.bfloat16
    dtype = "bf16" if half else "fp32"
    chosen = {
        "model": subject.model, "latents": {"samples": subject.latents(PROMPTS)},
        "positive": [[text, {}] for text in subject.texts()], "batch_size": batch, "steps": steps,
        "learning_rate": RATE, "rank": RANK, "optimizer": "AdamW", "loss_function": "MSE",
        "training_dtype": dtype, "lora_dtype": dtype, "algorithm": "LoRA",
        "gradient_checkpointing": form.endswith("checkpointed"), "existing_lora": "[None]",
    }  # fmt: skip
    # what else a release asks for keeps its default
    described = TrainLoraNode.INPUT_TYPES()["required"]
    inputs = {name: chosen[name] if name in chosen else spec[1]["default"]
              for name, spec in described.items()}  # fmt: skip
    if getattr(TrainLoraNode, "INPUT_IS_LIST", False):
        inputs = {name: [value] for name, value in inputs.items()}
    getattr(TrainLoraNode(), TrainLoraNode.FUNCTION)(**inputs)


def run(subject: Subject, form: str, batch: int, steps: int, after_step: AfterStep) -> None:
    """Train ``steps`` steps; ``after_step`` is called as soon as each has moved the adapters."""
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    go = _stock if form.startswith(STOCK) else _ours
    with ExitStack() as stack:
        stack.enter_context(steady_host())
        stack.enter_context(mock.patch.object(comfy.utils, "PROGRESS_BAR_ENABLED", False))
        stack.enter_context(_after_each_step(after_step))
        # nodes run in inference mode, and leave it by themselves
        stack.enter_context(torch.inference_mode())
        go(subject, form, batch, steps)


@contextmanager
def _after_each_step(after_step: AfterStep) -> Iterator[None]:
    def hook(optimiser: Any, *_: Any) -> None:
        after_step(optimiser)

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()
