"""What a text encoder gives, looked at before a model or a reward is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import RealCompoError
from ...values import checked
from ..attention.families import text_family_of


def checked_vectors(value: Any, where: str = "clip") -> Tensor:
    """``value`` if it is vectors of tokens (B, T, D), all finite; RealCompoError otherwise."""
    remedy = "Connect the CLIP of the model's own checkpoint, in float32 if it overflows"
    found = checked.plain_tensor(value, where, "vectors of a text's tokens", remedy)
    if found.ndim != 3 or not found.is_floating_point():
        raise RealCompoError(
            where, f"it gives {checked.kind(value)}, not vectors of a text's tokens", remedy
        )
    return value


def check_width(patcher: ModelPatcher, vectors: Sequence[Tensor], where: str = "clip") -> None:
    """Raise RealCompoError for ``vectors`` (B, T, D) that are not as wide as the model takes them.

    Nothing is said of a model whose text another pack may still change on its way.
    """
    width = text_width(patcher)
    for one in vectors:
        if width is not None and one.shape[-1] != width:
            raise RealCompoError(
                where, f"it has {one.shape[-1]} numbers for every token, the model takes {width}",
                "Encode with the CLIP of this model's own checkpoint or family",
            )  # fmt: skip


def text_width(patcher: ModelPatcher) -> int | None:
    """Numbers per token that the model's first layer for text takes; None where a pack may change
    the text before it comes there, or where nobody here knows the family's way."""
    model, network = patcher.model, patcher.get_model_object("diffusion_model")
    inside = patcher.model_options.get("transformer_options", {})
    wrappers = (getattr(patcher, "wrappers", {}), inside.get("wrappers", {}))
    changed = any(some for one in wrappers for kind in one.values() for some in kind.values())
    changed = changed or "model_function_wrapper" in patcher.model_options
    if changed or inside.get("patches", {}).get("attn2_patch") or "forward" in network.__dict__:
        return None
    family = text_family_of(model)
    layer = None if family is None else family.text_layer(network)
    width = getattr(layer, "in_features", None)
    return width if isinstance(width, int) else None
