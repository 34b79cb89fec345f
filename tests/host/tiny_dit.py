"""Tiny random transformers of ComfyUI's own classes whose text and image attend jointly.

As in ``tiny``: built inside inference mode, weights from a local generator, mechanics only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from . import tiny
from .tiny import Conditioning

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CHANNELS = 16
CONTEXT = 48
POOLED = 32
LENGTH = 24


def _build(kind: Any, config: Any, seed: int) -> ModelPatcher:
    with torch.inference_mode():
        model = kind(config, device=torch.device("cpu"))
        tiny._seal(model, seed)
        return tiny._patcher(model)


def flux(seed: int, double: int = 3, single: int = 3, context: int = CONTEXT) -> ModelPatcher:
    """A Flux-type model: latents (B,16,H,W), ``double`` and ``single`` blocks."""
    from comfy.ldm.flux.model import FluxParams
    from comfy.model_base import Flux
    from comfy.supported_models import Flux as Config

    unet = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED,
        "context_in_dim": context, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2,
        "depth": double, "depth_single_blocks": single, "axes_dim": [8, 12, 12], "theta": 10000,
        "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    # older hosts do not know some of these: they are fixed there to these values
    known = {"image_model", *FluxParams.__dataclass_fields__}
    unet = {key: value for key, value in unet.items() if key in known}
    return _build(Flux, tiny._config(Config, unet, {}), seed)


def chroma(seed: int, context: int = CONTEXT) -> ModelPatcher:
    """A Chroma-type model: Flux's blocks, modulated by one small network, text by T5 alone."""
    from comfy.ldm.chroma.model import ChromaParams
    from comfy.model_base import Chroma
    from comfy.supported_models import Chroma as Config

    unet = {
        "image_model": "chroma", "in_channels": 64, "out_channels": 64,
        "context_in_dim": context, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2,
        "depth": 3, "depth_single_blocks": 3, "axes_dim": [8, 12, 12], "theta": 10000,
        "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 32,
        "n_layers": 2, "txt_ids_dims": [], "vec_in_dim": None,
    }  # fmt: skip
    known = {"image_model", *ChromaParams.__dataclass_fields__}
    unet = {key: value for key, value in unet.items() if key in known}
    return _build(Chroma, tiny._config(Config, unet, {}), seed)


def sd3(seed: int, second: tuple[int, ...] = (), context: int = CONTEXT) -> ModelPatcher:
    """An SD3-type model of four joint blocks: latents (B,16,H,W).

    ``second`` are the blocks with an image-only attention beside the joint one, as in SD3.5
    medium.
    """
    from comfy.model_base import SD3
    from comfy.supported_models import SD3 as Config

    unet = {
        "in_channels": 16, "patch_size": 2, "depth": 2, "num_blocks": 4, "input_size": None,
        "adm_in_channels": POOLED, "num_patches": None, "pos_embed_scaling_factor": None,
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": context, "out_features": 128},
        },
        **({"x_block_self_attn_layers": list(second)} if second else {}),
    }  # fmt: skip
    return _build(SD3, tiny._config(Config, unet, {}), seed)


def qwen_image(seed: int, layers: int = 4, context: int = CONTEXT) -> ModelPatcher:
    """A Qwen-Image-type model: latents (B,16,1,H,W), a picture being a film of one frame."""
    from comfy.model_base import QwenImage
    from comfy.supported_models import QwenImage as Config

    unet = {
        "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": layers,
        "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": context,
        "axes_dims_rope": (8, 12, 12),
    }  # fmt: skip
    return _build(QwenImage, tiny._config(Config, unet, {}), seed)


def lumina2(seed: int) -> ModelPatcher:
    """A Lumina-2-type model: Flux's latents, and blocks that no pack can reach."""
    from comfy.model_base import Lumina2
    from comfy.supported_models import Lumina2 as Config

    unet = {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2,
        "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 16, "qk_norm": True,
        "cap_feat_dim": CONTEXT, "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64],
    }  # fmt: skip
    return _build(Lumina2, tiny._config(Config, unet, {}), seed)


@dataclass(frozen=True)
class Family:
    """A joint-attention family: its builder, whether latents have frames, blocks that are read."""

    build: Callable[..., ModelPatcher]
    frames: bool
    read: int
    module: str
    """Where the host's blocks find their attention function, and its name there."""
    function: str


FAMILIES = {
    "flux": Family(flux, False, 3, "comfy.ldm.flux.math", "optimized_attention"),
    "chroma": Family(chroma, False, 3, "comfy.ldm.flux.math", "optimized_attention"),
    "sd3": Family(
        sd3, False, 2, "comfy.ldm.modules.diffusionmodules.mmdit", "optimized_attention"
    ),
    "qwen": Family(
        qwen_image, True, 2, "comfy.ldm.qwen_image.model", "optimized_attention_masked"
    ),
}  # fmt: skip


def models_of(family: str) -> tuple[ModelPatcher, ModelPatcher]:
    """Two models of a family; skips the test, saying so, where the host does not have it."""
    pytest.importorskip(
        f"comfy.ldm.{family}.model" if family == "chroma" else FAMILIES[family].module
    )
    return FAMILIES[family].build(1), FAMILIES[family].build(2)


def conditioning(seed: int, length: int = LENGTH, dim: int = CONTEXT) -> Conditioning:
    """Random CONDITIONING for these models, with the pooled vector that some of them want."""
    return tiny.conditioning(seed, length, dim, pooled=POOLED)


def noise(
    family: str, seed: int = 5, batch: int = 1, height: int = 16, width: int = 16
) -> torch.Tensor:
    """Unit normal noise in a family's latent shape."""
    flat = tiny.latent_noise(seed, batch, CHANNELS, height, width)
    return flat.unsqueeze(2) if FAMILIES[family].frames else flat
