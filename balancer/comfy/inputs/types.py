"""Are a node's inputs what its sockets say? Scripts and wildcard sockets can bring anything."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...attention.tokens import resolve_tokens
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ...realcompo.settings import BalancerSettings
from ..text.tokenizer import encode_prompt
from .checks import refuse_nested


def require_model(value: Any, where: str) -> ModelPatcher:
    """``value`` if it is a diffusion model of the host; RealCompoError otherwise."""
    if not isinstance(value, ModelPatcher) or not hasattr(value.model, "latent_format"):
        raise RealCompoError(where, f"got {_kind(value)}, not a MODEL", "Connect a model loader.")
    return value


def require_conditioning(value: Any, where: str) -> Any:
    """``value`` if it is conditioning of the host; RealCompoError otherwise."""
    good = isinstance(value, list) and all(
        isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], dict)
        for entry in value
    )
    if not good:
        raise RealCompoError(
            where, f"got {_kind(value)}, not CONDITIONING", "Connect an encoded prompt."
        )
    return value


def require_clip(value: Any, where: str) -> Any:
    """``value`` if it is a text encoder of the host; RealCompoError otherwise."""
    if not callable(getattr(value, "encode_from_tokens", None)):
        raise RealCompoError(where, f"got {_kind(value)}, not a CLIP", "Connect a CLIP loader.")
    return value


def require_settings(value: Any) -> BalancerSettings:
    """``value`` if it is balancer settings; RealCompoError otherwise."""
    if not isinstance(value, BalancerSettings):
        raise RealCompoError(
            "balancer", f"got {_kind(value)}, not a REALCOMPO_BALANCER",
            "Connect RealCompo Balancer Settings, or leave it open.",
        )  # fmt: skip
    return value


def require_latent(value: Any, where: str = "latent_image") -> dict[str, Any]:
    """``value`` if it is a latent of the host; RealCompoError otherwise."""
    if isinstance(value, dict):
        refuse_nested(value.get("samples"), where)
    if not isinstance(value, dict) or not isinstance(value.get("samples"), torch.Tensor):
        raise RealCompoError(
            where, f"got {_kind(value)}, not a LATENT", "Connect a latent, such as empty."
        )
    return value


def resolve(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Token positions of every region, by the tokenizer of the models; RealCompoError if none."""
    layout.require_regions()
    prompt = encode_prompt(layout.prompt)
    return resolve_tokens(layout, prompt, encode_prompt)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
