"""LoRAs that remember how they were made, and files of them that stock loaders take."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
from torch import Tensor

from ..errors import RealCompoError


class LoraModel(dict[str, Tensor]):
    """The host's LORA_MODEL, a dictionary of tensors, with ``notes`` on its making."""

    def __init__(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.notes = notes


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

    Returns the file's name relative to that folder. Raises RealCompoError for a prefix that leads
    out of it.
    """
    output = folder_paths.get_output_directory()
    base = os.path.abspath(output)
    if not os.path.abspath(os.path.join(base, prefix)).startswith(base + os.sep):
        raise RealCompoError(
            "filename_prefix", f"'{prefix}' leads out of ComfyUI's output folder",
            "Name a place below it, without '..' and without a drive or a leading slash",
        )  # fmt: skip
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    # the host counts pictures only
    while Path(folder, f"{name}_{counter:05}_.safetensors").exists():
        counter += 1
    path = Path(folder, f"{name}_{counter:05}_.safetensors")
    part = path.with_suffix(".part")
    tensors = {key: value.contiguous() for key, value in lora.items()}
    safetensors.torch.save_file(tensors, str(part), file_notes(lora))
    os.replace(part, path)
    return "/".join(p for p in (subfolder.replace(os.sep, "/"), path.name) if p)
