"""The host's own networks in their true sizes, for counting; and narrow ones that can be computed.

Networks for counting have no values: their memory is reserved and never touched, except that
vectors (norms, biases, gates) are zero. Everything is built inside inference mode, as a running
host has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.cldm.cldm as cldm
import comfy.controlnet as controlnet
import comfy.ldm.modules.attention as attention
import comfy.model_management as management
import comfy.ops as ops
import torch
from comfy import gligen
from comfy.model_base import SDXL, BaseModel, ModelType
from comfy.model_patcher import ModelPatcher
from comfy.supported_models import SD15 as SD15Config
from comfy.supported_models import SDXL as SDXLConfig
from torch import Tensor, nn

Conditioning = list[list[Any]]


@dataclass(frozen=True)
class Kind:
    """A family of U-Nets as the host describes it; ``heads``: the options it adds by itself."""

    name: str
    unet: dict[str, Any]
    heads: dict[str, int]
    config: type
    model: type
    pooled: int | None = None

    @property
    def context(self) -> int:
        """Width of the text conditioning."""
        return self.unet["context_dim"]


_COMMON: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "use_spatial_transformer": True, "use_temporal_attention": False,
    "use_temporal_resblock": False, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
SD15 = Kind(
    "SD1.5",
    {
        **_COMMON, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1, "context_dim": 768, "use_linear_in_transformer": False,
        "adm_in_channels": None,
    },
    {"num_heads": 8, "num_head_channels": -1}, SD15Config, BaseModel,
)  # fmt: skip
SDXL_BASE = Kind(
    "SDXL",
    {
        **_COMMON, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10, "context_dim": 2048, "use_linear_in_transformer": True,
        "adm_in_channels": 2816, "num_classes": "sequential",
    },
    {"num_heads": -1, "num_head_channels": 64}, SDXLConfig, SDXL, 1280,
)  # fmt: skip


def narrow(kind: Kind, channels: int, context: int) -> Kind:
    """The same topology with ``channels`` instead of 320 and a text of width ``context``."""
    unet = {**kind.unet, "model_channels": channels, "context_dim": context}
    return replace(kind, name=f"{kind.name} with {channels} channels", unet=unet)


def small(kind: Kind, channels: int, context: int) -> Kind:
    """The same levels of cross-attention with one residual block each: a model of a few million
    parameters that goes through the same passes."""
    levels, depths = len(kind.unet["channel_mult"]), kind.unet["transformer_depth"]
    sites = [min(1, depth) for depth in depths[::2]]
    unet = {
        **narrow(kind, channels, context).unet,
        "num_res_blocks": [1] * levels,
        "transformer_depth": sites,
        "transformer_depth_output": [site for site in sites for _ in range(2)],
        "transformer_depth_middle": 1,
    }
    return replace(kind, name=f"small {kind.name}", unet=unet)


def _empty(module: nn.Module) -> None:
    """Zeros where activations are scaled or shifted, so that nothing is NaN; the rest untouched."""
    for parameter in module.parameters():
        if parameter.dim() < 2:
            parameter.zero_()


def _random(module: nn.Module, seed: int) -> None:
    """Values that keep signals at unit size: N(0, 1/fan_in), norms near 1, gates open."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            parameter.fill_(0.5)
        elif parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") or name.startswith("null_") else 1.0)
        else:
            fan_in = math.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in)


def _patcher(module: nn.Module, seed: int | None) -> ModelPatcher:
    if seed is None:
        _empty(module)
    else:
        _random(module, seed)
    module.eval().requires_grad_(False)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    return ModelPatcher(module, load_device=device, offload_device=offload)


@torch.inference_mode()
def unet(kind: Kind, dtype: torch.dtype, seed: int | None = None) -> ModelPatcher:
    """A U-Net in the host's classes; without ``seed`` a hollow one."""
    return _unet(kind, dtype, seed)


def _unet(
    kind: Kind, dtype: torch.dtype, seed: int | None, disable_dynamic: bool = False
) -> ModelPatcher:
    settings = {"unet_config": {}, "unet_extra_config": kind.heads}
    config = type(f"Bench{kind.config.__name__}", (kind.config,), settings)(
        {**kind.unet, "dtype": dtype}
    )
    if hasattr(config, "set_inference_dtype"):
        config.set_inference_dtype(dtype, None)
    model = kind.model(config, model_type=ModelType.EPS, device=torch.device("cpu"))
    patcher = _patcher(model, seed)
    # Newer hosts load a model again where one needs weights of its own, outside inference mode.
    patcher.cached_patcher_init = (_unet, (kind, dtype, seed))
    return patcher


@torch.inference_mode()
def grounding(model: ModelPatcher, dtype: torch.dtype, seed: int | None = None) -> ModelPatcher:
    """The host's GLIGEN for an SD1.x ``model``: a fuser in every transformer block, 30 boxes."""
    widths = [
        module.attn1.to_q.in_features
        for name, module in model.model.diffusion_model.named_modules()
        if name.rpartition(".")[0].endswith("transformer_blocks")
    ]
    with _default_dtype(dtype):
        fusers = [gligen.GatedSelfAttentionDense(width, 768, 8, width // 8) for width in widths]
        return _patcher(gligen.Gligen(fusers, gligen.PositionNet(768, 768), 768), seed)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@torch.inference_mode()
def control(kind: Kind, dtype: torch.dtype, seed: int | None = None) -> controlnet.ControlNet:
    """The host's ControlNet for U-Nets of ``kind``, with all of its layers."""
    foreign = ("out_channels", "transformer_depth_output", "use_temporal_attention",
               "use_temporal_resblock")  # fmt: skip
    sizes = {key: value for key, value in kind.unet.items() if key not in foreign}
    module = cldm.ControlNet(
        **sizes, **kind.heads, hint_channels=3, dtype=dtype, operations=ops.disable_weight_init
    )
    _patcher(module, seed)
    return controlnet.ControlNet(module, load_device=management.get_torch_device())


def conditioning(kind: Kind, seed: int, dtype: torch.dtype = torch.float32) -> Conditioning:
    """A random prompt of 77 tokens in the host's form."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 77, kind.context, generator=generator).to(dtype)
    extra: dict[str, Any] = {}
    if kind.pooled is not None:
        extra["pooled_output"] = torch.randn(1, kind.pooled, generator=generator).to(dtype)
    return [[text, extra]]


def grounded(
    prompt: Conditioning, model: ModelPatcher, boxes: list[tuple[float, ...]], size: int
) -> Conditioning:
    """``prompt`` with GLIGEN boxes (x0, y0, x1, y1 in 0..1) on a latent of side ``size``, in the
    form of the host's own node."""
    generator = torch.Generator().manual_seed(0)
    placed = []
    for box in boxes:
        x0, y0, x1, y1 = (round(edge * size) for edge in box)
        phrase = torch.randn(1, 768, generator=generator)
        placed.append((phrase, y1 - y0, x1 - x0, y0, x0))
    return [[text, {**extra, "gligen": ("position", model, placed)}] for text, extra in prompt]


def controlled(prompts: list[Conditioning], net: Any, side: int) -> list[Conditioning]:
    """Prompts steered by one ControlNet with a hint of ``side`` pixels, as the host's advanced
    node does it: one object for the positive and the negative, so that they share a batch."""
    hint = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    steering = net.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
    more = {"control": steering, "control_apply_to_uncond": False}
    return [[[text, {**extra, **more}] for text, extra in prompt] for prompt in prompts]


def noise(size: int, seed: int = 0) -> Tensor:
    """Unit noise (1, 4, size, size)."""
    return torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(seed))


@contextmanager
def fused_attention() -> Iterator[None]:
    """torch's fused attention in the host's layers, whichever one the host was started with."""
    names = ("optimized_attention", "optimized_attention_masked")
    before = {name: getattr(attention, name) for name in names}
    for name in names:
        setattr(attention, name, attention.attention_pytorch)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(attention, name, function)
