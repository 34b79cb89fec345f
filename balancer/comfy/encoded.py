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
    """Raise RealCompoError for ``vectors`` (1, T, D) that are not as wide as a U-Net takes them."""
    network = patcher.get_model_object("diffusion_model")
    if type(network) is not UNetModel:
        return
    keys = (m for name, m in network.named_modules() if name.endswith("attn2.to_k"))
    width = getattr(next(keys, None), "in_features", None)
    for one in vectors:
        if isinstance(width, int) and one.shape[-1] != width:
            raise RealCompoError(
                where, f"it gives {one.shape[-1]} numbers for every token, the model takes {width}",
                "Connect the CLIP of this model's own checkpoint or family",
            )  # fmt: skip
