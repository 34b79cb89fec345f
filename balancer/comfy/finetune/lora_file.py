"""LoRAs that remember how they were made, and files of them that stock loaders take."""

from __future__ import annotations

import json
import math
from typing import Any

import safetensors.torch
from torch import Tensor

from ...errors import RealCompoError, shown
from ...values import checked
from ...values.whole_file import write_whole
from ..host.output_place import free_place

MOST_LOSSES = 10_000
"""Steps of each loss that a file's metadata keeps."""


class LoraModel(dict[str, Tensor]):
    """The host's LORA_MODEL, a dictionary of tensors, with ``notes`` on its making."""

    def __init__(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.notes = notes


def require_lora(value: Any, where: str) -> dict[str, Tensor]:
    """``value`` if it is a LoRA that a file can hold: tensors of finite numbers by name.

    Raises RealCompoError otherwise.
    """
    if not isinstance(value, dict) or not value:
        got = f"got {checked.kind(value)}, not a LORA_MODEL"
        problem = "it holds nothing" if isinstance(value, dict) else got
        raise RealCompoError(where, problem, "Connect a training node")
    for name, tensor in value.items():
        checked.text(name, where)
        try:
            checked.plain_tensor(tensor, where, "numbers", "Connect a training node")
        except RealCompoError as error:
            problem = f"its entry {shown(name)}: {error.problem}"
            raise RealCompoError(where, problem, error.remedy) from None
    return value


def require_losses(value: Any, where: str) -> dict[str, list[float]]:
    """Losses per step by name, as the host's trainer and ours give them: plain numbers.

    Raises RealCompoError for anything else.
    """
    remedy = "Connect the losses of a training node, or leave it open"
    if not isinstance(value, dict):
        raise RealCompoError(where, f"got {checked.kind(value)}, not a LOSS_MAP", remedy)
    losses: dict[str, list[float]] = {}
    for name, values in value.items():
        losses[checked.text(name, where)] = [
            checked.any_number(entry, where, remedy) for entry in _steps(values, where)
        ]
    return losses


def _steps(values: Any, where: str) -> list[Any]:
    """A loss's values; single tensors of one number in the list, as some trainers leave them."""
    if isinstance(values, list) and not any(isinstance(entry, Tensor) for entry in values):
        return values  # a million steps are no list of lists
    return checked.flat(values, where)


def with_losses(lora: dict[str, Tensor], losses: dict[str, list[float]]) -> LoraModel:
    """``lora`` with its losses per step in its notes.

    A file's metadata is read before everything else and must stay small: of a long training every
    n-th step is kept (``losses_every``). A loss that was no number is None there.
    """
    longest = max((len(values) for values in losses.values()), default=0)
    every = max(1, -(-longest // MOST_LOSSES))
    kept = {
        name: [value if math.isfinite(value) else None for value in values[::every]]
        for name, values in losses.items()
    }
    notes = {**getattr(lora, "notes", {}), "losses": kept}
    return LoraModel(lora, notes | ({"losses_every": every} if every > 1 else {}))


def file_notes(lora: dict[str, Tensor]) -> dict[str, str]:
    """Metadata of a file: one entry with all notes, and the few that other tools show."""
    notes = getattr(lora, "notes", None)
    if notes is None:
        return {"format": "pt"}
    return {
        "format": "pt",
        "modelspec.architecture": "stable-diffusion/lora",
        "modelspec.title": f"{notes.get('method')} for {notes.get('base')}",
        "ss_base_model_version": str(notes.get("base")),
        "ss_steps": str(notes.get("steps")),
        "realcompo": json.dumps(notes),
    }


def save_lora(lora: dict[str, Tensor], prefix: str) -> str:
    """Write ``lora`` below the host's output folder under the next free number of ``prefix``.

    Returns the file's name relative to that folder. Raises RealCompoError as ``free_place``, and
    when the file cannot be written; then nothing of it is left.
    """
    path, name = free_place(prefix, ".safetensors")
    # the format takes no two names for one memory
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in lora.items()}
    notes = file_notes(lora)
    write_whole({path: lambda part: safetensors.torch.save_file(tensors, str(part), notes)})
    return name
