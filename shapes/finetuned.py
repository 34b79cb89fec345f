"""The demo's finetuned realism models: LoRA files that come with the pack, put onto a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
from torch import Tensor

from ..balancer.errors import RealCompoError

NONE = "none"
FILES = {"Separate and Enhance": "sepen", "ReFL": "refl"}
"""Ways of finetuning, and how their files in ``weights/tuned`` begin; a style's name follows."""
STYLES = {"sepen": ("realistic", "sketch", "neon"), "refl": ("realistic",)}


def file_of(finetuned: str, style: str, part: str) -> str | None:
    """The LoRA's file below ``weights``, None for 'none'.

    Raises RealCompoError at 'finetuned' for a way, a style or a part that there is no file of.
    """
    if finetuned == NONE:
        return None
    where = "finetuned"
    if finetuned not in FILES:
        choice = ", ".join(f"'{name}'" for name in (NONE, *FILES))
        raise RealCompoError(where, f"there is no '{finetuned}'", f"Choose one of {choice}")
    if part != "realism":
        raise RealCompoError(where, "only the realism part is finetuned", f"Choose '{NONE}'")
    name = FILES[finetuned]
    if style not in STYLES[name]:
        choice = " or ".join(f"'{one}'" for one in STYLES[name])
        raise RealCompoError(
            where, f"no model of the style '{style}' was finetuned by {finetuned}",
            f"Choose the style {choice}, or '{NONE}'",
        )  # fmt: skip
    return f"tuned/{name}-{style}.safetensors"


def with_lora(model: Any, state: Mapping[str, Tensor], name: str, where: str, remedy: str) -> Any:
    """A clone of ``model`` (ModelPatcher) with the LoRA ``state`` at strength 1.

    The host only warns of a LoRA that was made for another model, and would go on with the model as
    it was; RealCompoError at ``where`` here, which names ``name``.
    """
    tuned, _ = comfy.sd.load_lora_for_models(model, None, dict(state), 1.0, 0.0)
    known = {key.rpartition(".")[0] for key in tuned.patches if key not in model.patches}
    meant = {_layer(key) for key in state}
    if missing := sorted(layer for layer in meant if layer not in known):
        problem = f"'{name}' does not fit: the model has no layer '{missing[0]}'"
        raise RealCompoError(where, problem, remedy)
    return tuned


def _layer(key: str) -> str:
    """The layer that a LoRA's tensor belongs to, with or without the host's prefix."""
    for ending in (".lora_up.weight", ".lora_down.weight", ".alpha", ".diff_b", ".diff"):
        if key.endswith(ending):
            return key.removesuffix(ending)
    return key
