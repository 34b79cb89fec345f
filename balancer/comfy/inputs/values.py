"""Are the values in a node's inputs ones that sampling can use? Asked before any model is loaded.

NaN goes through a sampler without a complaint and comes out as a black picture; what fits no layer
fails deep inside the model, in words about matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import RealCompoError
from .encoded import check_width

_BIAS = "attention_mask"
"""How the host's names of what is added to attention's logits begin."""


def check_conditioning(conditioning: Any, where: str, patcher: ModelPatcher) -> None:
    """Raise RealCompoError for conditioning with NaN or infinity, or that is not as wide as
    ``patcher`` takes it. Reads tensors back; call it before sampling."""
    check_width(patcher, [embedding for embedding, _ in conditioning], where)
    for embedding, options in conditioning:
        named = [("the text", embedding), *options.items()]
        for name, value in named:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            # minus infinity keeps tokens out, see check_stretched
            given = value.clamp_min(0.0) if name.startswith(_BIAS) else value
            if not is_finite(given):
                raise RealCompoError(
                    where, f"{name} in it holds NaN or infinity",
                    "Encode it again; a text encoder in half precision may overflow.",
                )  # fmt: skip


def check_stretched(entry: Mapping[str, Any], where: str, patch: Any, noise: Tensor) -> None:
    """Raise RealCompoError for an attention mask with minus infinity that the host stretches to the
    latent ``noise`` (B, C, H, W): that makes NaN of it.

    ``entry`` is the host's converted conditioning, ``patch`` the side of the model's patches.
    """
    mask, made_for = entry.get(_BIAS), entry.get(f"{_BIAS}_img_shape")
    if not isinstance(mask, Tensor) or made_for is None or not isinstance(patch, int):
        return
    grid = tuple(-(-side // patch) for side in noise.shape[-2:])
    if tuple(made_for) != grid and bool(torch.isneginf(mask).any()):
        raise RealCompoError(
            where, "its attention mask keeps tokens out altogether, of which ComfyUI makes NaN at"
            f" {grid[0]}x{grid[1]} patches",
            "Set a style model's strength above 0, or take the style model out.",
        )  # fmt: skip


def check_present(conditioning: Any, where: str, cfg: float | None = None) -> None:
    """Raise RealCompoError for conditioning without an entry; with ``cfg``, for a negative one.

    The host samples on without it, as if nothing but noise were to be kept out.
    """
    # at a guidance of 1 the negative is not read
    if not conditioning and (cfg is None or abs(cfg - 1.0) >= 1e-9):
        raise RealCompoError(
            where, "the conditioning is empty", "Connect an encoded prompt; its text may be empty."
        )


def check_mask(mask: Any, where: str = "latent_image") -> Any:
    """The host's noise mask, (H, W) to (B, C, H, W) of 0..1, as numbers where it is true and false;
    RealCompoError for one that is empty or holds NaN."""
    if not isinstance(mask, Tensor) or getattr(mask, "is_nested", False):
        return mask
    mask = mask if mask.is_floating_point() else mask.float()
    if mask.numel() == 0 or not is_finite(mask):
        problem = "is empty" if mask.numel() == 0 else "holds NaN or infinity"
        raise RealCompoError(where, f"its noise mask {problem}", "Draw or make the mask again.")
    return mask


def check_sigmas(sigmas: Tensor) -> None:
    """Raise RealCompoError for noise levels (steps + 1,) with NaN, infinity or below zero."""
    if sigmas.numel() and not (is_finite(sigmas) and bool((sigmas >= 0).all())):
        raise RealCompoError(
            "sigmas", "the noise levels hold NaN, infinity or numbers below zero",
            "Take them from a scheduler.",
        )  # fmt: skip


def is_finite(value: Tensor) -> bool:
    """Whether no entry of ``value``, of any shape and dtype, is NaN or infinite."""
    # 8-bit formats cannot say it themselves
    readable = value.float() if value.element_size() == 1 else value
    return bool(torch.isfinite(readable).all())
