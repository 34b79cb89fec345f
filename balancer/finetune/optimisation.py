"""Adapters, an optimiser and losses: steps of a finetuning that can be stopped and taken up.

Nothing here knows which model is trained, or by which losses.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import RealCompoError, shown
from ..values import checked
from ..values.foreign_json import parse_json
from .adapters import Adapters

Checkpointing = Literal["auto", "on", "off"]
CHECKPOINTING: tuple[Checkpointing, ...] = get_args(Checkpointing)
OnCancel = Literal["resume next time", "finish with what was learned"]
ON_CANCEL: tuple[OnCancel, ...] = get_args(OnCancel)
"""What cancelling does: wait for the same training to go on, or hand out what there is."""
MOST_STEPS, MOST_BATCH, MOST_RANK = 1_000_000, 256, 512
"""Ends of what can be asked for: optimiser steps, prompts in a step, rank of an adapter."""
LEAST_RATE, MOST_EMA = 1e-12, 0.99999
"""Smaller step sizes move nothing in float32, and a longer average never leaves its start."""
# steps in a row without a finite gradient after which nothing good can come any more
_LOST = 20


@dataclass(frozen=True)
class TrainingSettings:
    """How to train, whatever the losses.

    ``rank`` 0 trains whole difference matrices. ``alpha`` / ``rank`` scales a low-rank adapter.
    ``clip`` is the largest norm of the gradient (0: any). ``ema`` in 0..1 is the share that the
    running average of the weights keeps at each step (0: no average). ``checkpointing``: one of
    ``CHECKPOINTING``, whether activations are computed again in the backward; ``auto`` asks the
    memory that is free.
    """

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 1e-3
    rank: int = 8
    alpha: float = 8.0
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    seed: int = 0
    checkpointing: Checkpointing = "auto"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, MOST_STEPS), ("batch_size", 1, MOST_BATCH), ("rank", 0, MOST_RANK),
            ("seed", 0, (1 << 64) - 1),
        ):  # fmt: skip
            object.__setattr__(self, name, checked.whole(getattr(self, name), name, low, high))
        for name, low, high in (
            ("learning_rate", LEAST_RATE, 1.0), ("alpha", LEAST_RATE, 1e6),
            ("weight_decay", 0.0, 1.0), ("ema", 0.0, MOST_EMA),
        ):  # fmt: skip
            object.__setattr__(self, name, checked.number(getattr(self, name), name, low, high))
        object.__setattr__(self, "clip", checked.number(self.clip, "gradient_clip", 0.0, 1e12))
        checked.choice(self.checkpointing, "checkpointing", CHECKPOINTING)


class Optimisation:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over adapters, with what a long run needs.

    ``losses`` holds, per name of a loss, its value at every step that was made.
    """

    def __init__(self, adapters: Adapters, settings: TrainingSettings) -> None:
        self.adapters, self.settings = adapters, settings
        self._parameters = adapters.parameters()
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay,
            betas=(0.9, 0.999), eps=1e-8,
        )  # fmt: skip
        self._average = [p.detach().clone() for p in self._parameters] if settings.ema else None
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.losses: dict[str, list[float]] = {}
        self.steps = 0
        self._lost = 0

    def step(self, values: dict[str, Tensor], scale: float = 1.0) -> dict[str, float]:
        """Move along the gradients that are there; returns the losses as numbers.

        ``values`` are this step's losses (scalars) by name; ``scale`` is what the gradients were
        multiplied by. A gradient that is not finite moves nothing. Raises RealCompoError when a
        loss is not finite, or no gradient was for many steps.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            raise RuntimeError("no gradient reached the adapters")
        for gradient in gradients if scale != 1.0 else ():
            gradient.mul_(1.0 / scale)
        clip = self.settings.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, clip)
        names = list(values)
        # everything that is wanted of the device comes at once
        *numbers, size = torch.stack([*values.values(), norm]).detach().float().tolist()
        losses = dict(zip(names, numbers, strict=True))
        if any(number != number or abs(number) == float("inf") for number in numbers):
            raise RealCompoError(
                "learning_rate", f"the loss is no number any more after {self.steps} steps",
                "Lower it; what was learned before is kept",
            )  # fmt: skip
        finite = size == size and size != float("inf")
        self._lost = 0 if finite else self._lost + 1
        if self._lost >= _LOST:
            raise RealCompoError(
                "model", f"its gradients were not finite for {_LOST} steps in a row",
                "Load the model in bfloat16 or float32 (ComfyUI's --bf16-unet, --fp32-unet)",
            )  # fmt: skip
        if finite:
            self._optimiser.step()
            if self._average is not None:
                # young averages follow quickly: a long memory would keep the zeros of the start
                keep = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
                for average, parameter in zip(self._average, self._parameters, strict=True):
                    average.lerp_(parameter.detach(), 1.0 - keep)
        self._optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        for name, number in losses.items():
            self.losses.setdefault(name, []).append(number)
        return losses

    def learned(self) -> dict[str, Tensor]:
        """What was learned so far, in a LoRA file's keys; the average, if one is kept."""
        return self.adapters.state(self._average)

    def save(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything that ``load`` needs to go on as if nothing had been, and words about it."""
        tensors = {f"adapter|{n}": p.detach().cpu() for n, p in self.adapters.named_parameters()}
        states: dict[int, dict[str, Any]] = self._optimiser.state_dict()["state"]
        for number, state in states.items():
            tensors |= {f"optimiser|{number}|{k}": torch.as_tensor(v) for k, v in state.items()}
        for number, average in enumerate(self._average or ()):
            tensors[f"average|{number}"] = average
        tensors["generator"] = self.generator.get_state()
        about = {"steps": self.steps, "losses": self.losses, "settings": asdict(self.settings)}
        kept = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        return kept, {"training": json.dumps(about)}

    def load(self, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Go on where ``save`` was called; the same adapters and settings are expected.

        Raises ValueError where they are not the same (the number of steps may differ), and where
        something is missing or of another shape; then nothing was changed.
        """
        steps, losses = self._progress_in(about)
        moments = self._moments_in(tensors)
        wanted = {f"adapter|{name}": p for name, p in self.adapters.named_parameters()}
        wanted |= {f"average|{number}": p for number, p in enumerate(self._average or ())}
        wanted["generator"] = self.generator.get_state()
        for key, like in wanted.items():
            _check_entry(key, tensors.get(key), like)
        with torch.no_grad():
            for name, parameter in self.adapters.named_parameters():
                parameter.copy_(tensors[f"adapter|{name}"])
            for number, average in enumerate(self._average or ()):
                average.copy_(tensors[f"average|{number}"])
        state = self._optimiser.state_dict()
        for number, moment in moments.items():
            state["state"].setdefault(number, {}).update(moment)
        self._optimiser.load_state_dict(state)
        self.generator.set_state(tensors["generator"])
        self.steps, self.losses = steps, losses

    def _progress_in(self, about: dict[str, str]) -> tuple[int, dict[str, list[float]]]:
        """Steps and losses of a stopped training with these settings; ValueError as ``load``."""
        known = parse_json(about.get("training"))
        theirs = known.get("settings") if isinstance(known, dict) else None
        mine = {**asdict(self.settings), "steps": 0}
        if not isinstance(theirs, dict) or {**theirs, "steps": 0} != mine:
            raise ValueError("the stopped training had other settings")
        steps: Any = known.get("steps")
        losses: Any = known.get("losses")
        if type(steps) is not int or not 0 <= steps <= MOST_STEPS or not _are_losses(losses):
            raise ValueError("it does not say which steps were made, and their losses")
        return steps, losses

    def _moments_in(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """What Adam keeps, by name, of parameters by number; ValueError as ``load``."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if not key.startswith("optimiser|"):
                continue
            _, number, name = (*key.split("|"), "", "")[:3]
            if not number.isdecimal() or not int(number[:9]) < len(self._parameters):
                raise ValueError(f"its entry {shown(key)} belongs to no adapter")
            # Adam's count of steps is one number, its averages are shaped like the weights
            like = torch.zeros(()) if name == "step" else self._parameters[int(number)]
            _check_entry(key, value, like)
            moments.setdefault(int(number), {})[name] = value
        if any(set(moment) != {"step", "exp_avg", "exp_avg_sq"} for moment in moments.values()):
            raise ValueError("a part of what the optimiser keeps is missing")
        return moments


def _check_entry(key: str, value: Tensor | None, like: Tensor) -> None:
    """Raise ValueError unless a file's entry is finite numbers shaped ``like`` what it replaces."""
    if value is None:
        raise ValueError(f"it has no {shown(key)}")
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"its {shown(key)} has another shape or kind")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"its {shown(key)} holds NaN or infinity")


def _are_losses(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(losses, list) and all(type(loss) in (int, float) for loss in losses)
        for losses in value.values()
    )
