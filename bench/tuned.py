"""Finetuned realism models: LoRA files by name, put onto a model as the host's own loader does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.utils

from ..balancer.errors import RealCompoError
from ..shapes import host_models
from ..shapes.host_models import WEIGHTS

TUNED = WEIGHTS / "tuned"
BENCH = "bench"


def lora_file(name: str, folders: Sequence[Path] = ()) -> Path | None:
    """File of a LoRA, or None: ``name`` is a file's path, or ``<name>.safetensors`` lies in one
    of ``folders`` or in the pack's own."""
    candidates = [Path(name)] if name.endswith(".safetensors") else []
    candidates += [folder / f"{name}.safetensors" for folder in (*folders, TUNED)]
    return next((path for path in candidates if path.is_file()), None)


def needed_file(name: str, folders: Sequence[Path] = ()) -> Path:
    """As ``lora_file``; raises RealCompoError where there is none."""
    path = lora_file(name, folders)
    if path is None:
        searched = ", ".join(str(folder) for folder in (*folders, TUNED))
        raise RealCompoError(
            "lora", f"there is no finetuned model '{name}' in {searched}",
            "Train it, or name the file's path", BENCH,
        )  # fmt: skip
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as the keys of rows hold it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_lora(model: Any, path: Path) -> Any:
    """A clone of ``model`` (ModelPatcher) with the LoRA at strength 1.

    A row of the table that is the untuned model under another name would be worse than none: a
    LoRA that was made for another model raises RealCompoError.
    """
    return _fitting(model, path, _read(path))


def _read(path: Path) -> Any:
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def _fitting(model: Any, path: Path, state: Any) -> Any:
    try:
        remedy = "Train it again on this version of the demo models"
        return host_models.with_lora(model, state, path.name, "lora", remedy)
    except RealCompoError as error:
        raise error.at(BENCH) from None


def lora_hooks(model: Any, path: Path, until: float) -> Any:
    """The LoRA as hooks for conditionings, at strength 1 in the first part ``until`` (0..1) of the
    noise schedule and at 0 after it, as the host's Create Hook LoRA and Hook Keyframes make them.

    Raises RealCompoError for a LoRA that does not fit ``model``, and on a host without hooks.
    """
    try:
        import comfy.hooks
    except ModuleNotFoundError:
        raise RealCompoError(
            "lora", "this ComfyUI knows no hooks, so a LoRA cannot be in force for a part only",
            "Use ComfyUI 0.3.8 or newer", BENCH,
        ) from None  # fmt: skip

    state = _read(path)
    _fitting(model, path, state)
    hooks = comfy.hooks.create_hook_lora(state, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    frames.add(comfy.hooks.HookKeyframe(0.0, until, guarantee_steps=0))
    hooks.set_keyframes_on_hooks(frames)
    return hooks
