"""Finetuning a model of the host by losses of our own: adapters out, the model untouched.

Adapters act beside the layers for as long as a training lasts; the network's own tensors are never
written to.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import RealCompoError
from ...finetune.adapters import Adapters
from ...finetune.optimisation import OnCancel, Optimisation, TrainingSettings
from ...values import checked
from ..autograd.activation_memory import Pass, kept_bytes
from ..autograd.checkpointing import free_for_activations
from ..autograd.swapped_forwards import other_forwards
from ..host.compat import adds_in_place
from ..inputs.checks import model_name, require_ability
from ..realcompo.model_call import compute_dtype
from .lora_file import LoraModel
from .progress import Progress
from .session import Session, in_session
from .training_file import Checkpoint

TARGETS = {
    "to_k": r"\.attn2\.to_k$",
    "to_q": r"\.attn2\.to_q$",
    "to_v": r"\.attn2\.to_v$",
    "cross-attention": r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$",
    "attention": r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$",
}
"""What may be trained, by the names of the layers. Separate-and-Enhance trains keys only."""

# the share of the free memory that activations may take before they are computed again instead
_SHARE = 0.5


class Objective(Protocol):
    """What is trained for: one call is one step's losses and backward passes."""

    def __call__(self, session: Session) -> None: ...


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    ``lora`` in the keys of a LoRA file; ``losses`` per name, one number a step; ``steps`` made.
    ``finished`` is False where it was cancelled and what was learned is handed out.
    """

    lora: dict[str, Tensor]
    losses: dict[str, list[float]]
    steps: int
    finished: bool = True


def layers_of(patcher: ModelPatcher, targets: str) -> dict[str, torch.nn.Module]:
    """The linear layers of one of ``TARGETS``, by the names that LoRA files use."""
    pattern = re.compile(TARGETS[checked.choice(targets, "targets", tuple(TARGETS))])
    return {
        f"diffusion_model.{name}": module
        for name, module in patcher.model.diffusion_model.named_modules()
        if pattern.search("." + name) and hasattr(module, "weight")
    }


def train(
    patcher: ModelPatcher,
    objective: Objective,
    settings: TrainingSettings,
    size: tuple[int, int],
    targets: str = "to_k",
    about: str = "",
    on_cancel: OnCancel = "resume next time",
    save_every: int = 0,
    whole: bool = True,
    extra_memory: float = 0.0,
) -> Trained:
    """Train adapters on ``targets`` of a model by ``objective``; the model stays as it is.

    ``size``: height and width of the latents. ``about`` describes everything, beside the
    settings and the model, that decides the result: a stopped training is taken up only by the
    same one. ``save_every`` steps a checkpoint is written (0: when cancelled only). ``whole``: the
    objective differentiates whole forwards; ``extra_memory``: bytes that it needs beside them.

    Raises RealCompoError for models that cannot be trained and for trainings that diverge, and
    lets the host's cancelling through, unless ``on_cancel`` says to finish.
    """
    sites = require_ability(patcher, "train")
    layers = layers_of(patcher, targets)
    shapes = {name: _shape(layer) for name, layer in layers.items()}
    network = patcher.model.diffusion_model
    latent = (settings.batch_size, patcher.model.latent_format.latent_channels, *size)
    level = None if whole else min(site.factor for site in sites)
    keeps = kept_bytes(network, sites, Pass(latent, compute_dtype(patcher.model), level))
    free = free_for_activations(patcher.load_device)
    checkpointed = settings.checkpointing == "on" or (
        settings.checkpointing == "auto" and keeps + extra_memory > _SHARE * free
    )
    # blocks of hosts before mid-2025 write to what a second run of them needs
    checkpointed = checkpointed and not adds_in_place()
    memory = extra_memory + (keeps / 8 if checkpointed else keeps)
    start = torch.Generator().manual_seed(settings.seed)
    with torch.inference_mode(False):
        adapters = Adapters(shapes, settings.rank, settings.alpha, start, patcher.load_device)
        run = Optimisation(adapters, settings)
    checkpoint = Checkpoint(_fingerprint(patcher, layers, settings, targets, about, size))
    finished = True

    def work(session: Session) -> None:
        nonlocal finished
        session.adapters, session.checkpointed = adapters, checkpointed
        session.generator = run.generator
        checkpoint.load_into(run)
        progress = Progress(settings.steps, run.steps)
        beside = ((layer, _beside(layer, adapters, name)) for name, layer in layers.items())
        begin = run.generator.get_state()
        with other_forwards(beside):
            try:
                while run.steps < settings.steps:
                    # a step that is cancelled half-way is made again from its beginning
                    begin = run.generator.get_state()
                    objective(session)
                    losses = run.step(session.take_values(), session.scale)
                    progress.step(losses, run.losses)
                    if save_every and run.steps % save_every == 0 < settings.steps - run.steps:
                        checkpoint.save_meanwhile(run)
            except comfy.model_management.InterruptProcessingException:
                if not run.steps:
                    raise
                run.generator.set_state(begin)
                if on_cancel == "resume next time":
                    checkpoint.save(run)
                    raise
                finished = False
            except RealCompoError:
                checkpoint.save_lora(run)
                raise
            finally:
                progress.close()

    in_session(patcher, size, settings.batch_size, settings.seed, work, memory)
    checkpoint.remove()
    return Trained(run.learned(), run.losses, run.steps, finished)


def train_lora(
    patcher: ModelPatcher,
    objective: Objective,
    method: str,
    about: dict[str, Any],
    settings: TrainingSettings,
    size: tuple[int, int],
    targets: str,
    on_cancel: OnCancel,
    save_every: int,
    whole: bool = True,
    extra_memory: float = 0.0,
) -> tuple[LoraModel, dict[str, list[float]], int]:
    """``train``, given out as training nodes do: a LoRA with notes, losses, and steps made.

    ``method`` is the training's name; it and ``about`` go into the LoRA's notes.
    """
    trained = train(
        patcher, objective, settings, size, targets, json.dumps(about), on_cancel, save_every,
        whole, extra_memory,
    )  # fmt: skip
    last = {name: sum(v[-20:]) / len(v[-20:]) for name, v in trained.losses.items()}
    notes = {
        "method": method, "base": model_name(patcher), "targets": targets,
        "steps": trained.steps, "finished": trained.finished,
        "training": asdict(settings), "last_losses": last, **about,
    }  # fmt: skip
    return LoraModel(trained.lora, notes), trained.losses, trained.steps


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """(outputs, inputs); quantised weights may be packed, and say their size by attributes."""
    inputs = getattr(layer, "in_features", None)
    outputs = getattr(layer, "out_features", None)
    if inputs is None or outputs is None:
        weight: Any = layer.weight
        outputs, inputs = weight.shape
    return int(outputs), int(inputs)


def _beside(layer: torch.nn.Module, adapters: Adapters, name: str) -> Callable[..., Tensor]:
    """The layer's forward with its adapter's output added, while adapters are active."""
    inner, adapter = layer.forward, adapters.modules[name]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = inner(x, *args, **kwargs)
        if not adapters.active:
            return out
        return out + adapter(x).to(out.dtype)

    return forward


def _fingerprint(
    patcher: ModelPatcher,
    layers: dict[str, torch.nn.Module],
    settings: TrainingSettings,
    targets: str,
    about: str,
    size: tuple[int, int],
) -> str:
    """Name of a training, made of all that decides its course (not of its number of steps)."""
    digest = hashlib.sha256()
    course = sorted({**settings.__dict__, "steps": 0}.items())
    digest.update(repr((model_name(patcher), course, targets, about, size)).encode())
    weight = next((layer.weight for layer in layers.values()), None)
    if isinstance(weight, Tensor):
        numbers = weight.detach().flatten()[:4096].float().cpu().contiguous()
        digest.update(numbers.numpy().tobytes())
    # LoRAs and the like on the model are told apart by what they change
    digest.update(repr(sorted(getattr(patcher, "patches", {}))).encode())
    return digest.hexdigest()[:20]
