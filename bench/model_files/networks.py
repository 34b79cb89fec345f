"""Names and shapes of all weights of the host's networks, on torch's meta device: no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.cldm.cldm as cldm
import comfy.ops as ops
import torch
from comfy import gligen, sd1_clip, sdxl_clip
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..true_models import SD15, SDXL_BASE, Kind

Weights = dict[str, Tensor]
META = torch.device("meta")
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
    "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
    "dropout": 0.0,
}  # fmt: skip


def _sized(kind: Kind, **sizes: Any) -> Kind:
    return replace(kind, name=f"narrow {kind.name}", unet={**kind.unet, **sizes})


NARROW_SD15 = _sized(
    SD15, num_res_blocks=[1] * 4, channel_mult=[1] * 4, transformer_depth=[1, 1, 1, 0],
    transformer_depth_output=[1] * 6 + [0] * 2,
)  # fmt: skip
"""What may be less with the family still known: blocks, and widths below the first level."""
NARROW_SDXL = _sized(
    SDXL_BASE, channel_mult=[1] * 3, transformer_depth_output=[0] * 3 + [1] * 6,
    transformer_depth_middle=1,
)  # fmt: skip
"""The depths on the way in are what SDXL is known by."""
SMALL_SDXL_CONTROL = _sized(
    SDXL_BASE, transformer_depth=[0] * 6, transformer_depth_output=[0] * 9,
    transformer_depth_middle=0,
)  # fmt: skip
"""The published small ones, without a transformer. Of diffusers' files the loader knows published
depths only."""


def unet(kind: Kind) -> Weights:
    """Weights of a U-Net."""
    with META:
        return UNetModel(
            **kind.unet, **kind.heads, device=META, operations=ops.disable_weight_init
        ).state_dict()


def linear_layers(kind: Kind) -> list[str]:
    """Names of all matrices of a U-Net that are multiplied as they are."""
    with META:
        network = UNetModel(
            **kind.unet, **kind.heads, device=META, operations=ops.disable_weight_init
        )
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]


def control(kind: Kind, union_types: int | None = None) -> Weights:
    """Weights of a ControlNet, ``union_types``: one for so many kinds of hints."""
    more: dict[str, Any] = {}
    if union_types is not None:
        more["union_controlnet_num_control_type"] = union_types
    foreign = ("out_channels", "transformer_depth_output")
    sizes = {key: value for key, value in kind.unet.items() if key not in foreign}
    with META:
        return cldm.ControlNet(
            **sizes, **kind.heads, **more, hint_channels=3, device=META,
            operations=ops.disable_weight_init,
        ).state_dict()  # fmt: skip


def text(kind: Kind) -> Weights:
    """Weights of the text encoders of a checkpoint, under the host's names."""
    with META:
        model = sd1_clip.SD1ClipModel if kind.pooled is None else sdxl_clip.SDXLClipModel
        return dict(model(device=META, dtype=torch.float16).state_dict())  # pyright: ignore


def vae() -> Weights:
    """Weights of the autoencoder of SD1.x and SDXL."""
    with META:
        return AutoencoderKL(ddconfig=VAE, embed_dim=4).state_dict()


def grounding(network: Mapping[str, Tensor]) -> Weights:
    """Weights of the GLIGEN that fits the U-Net with these weights."""
    query = ".attn1.to_q.weight"
    weights: Weights = {}
    with META:
        for name, weight in network.items():
            if name.endswith(query):
                width = weight.shape[1]
                fuser = gligen.GatedSelfAttentionDense(width, 768, 8, width // 8)
                prefix = name[: -len(query)] + ".fuser."
                weights |= {prefix + key: value for key, value in fuser.state_dict().items()}
        position = gligen.PositionNet(768, 768).state_dict()
    return weights | {f"position_net.{key}": value for key, value in position.items()}
