"""What a text encoder gives, looked at before a model or a reward is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .. import checked
from ..errors import RealCompoError


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
    """Raise RealCompoError for ``vectors`` (B, T, D) that are not as wide as a U-Net takes them.

    Nothing is said of a model whose text another pack may still change on its way.
    """
    network = patcher.get_model_object("diffusion_model")
    inside = patcher.model_options.get("transformer_options", {})
    wrappers = (getattr(patcher, "wrappers", {}), inside.get("wrappers", {}))
    changed = any(some for one in wrappers for kind in one.values() for some in kind.values())
    changed = changed or "model_function_wrapper" in patcher.model_options
    if changed or inside.get("patches", {}).get("attn2_patch") or type(network) is not UNetModel:
        return
    keys = (m for name, m in network.named_modules() if name.endswith("attn2.to_k"))
    width = getattr(next(keys, None), "in_features", None)
    for one in vectors:
        if isinstance(width, int) and one.shape[-1] != width:
            raise RealCompoError(
                where, f"it has {one.shape[-1]} numbers for every token, the model takes {width}",
                "Encode with the CLIP of this model's own checkpoint or family",
            )  # fmt: skip
