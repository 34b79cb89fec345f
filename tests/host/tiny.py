"""Tiny random models of ComfyUI's own classes, for mechanics only: what they sample is noise.

Everything is built inside ``torch.inference_mode()``: a running ComfyUI executes nodes there, so
its weights are inference tensors, and a gradient pass that works on ordinary tensors alone would
prove nothing. Weights come from a local generator, so one seed is one model on every machine and
torch's global random state stays untouched. ComfyUI is imported inside the functions, so that
this file can be collected where there is no host.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.controlnet import ControlNet
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher

Conditioning = list[list[Any]]

SD15_UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "use_checkpoint": False,
    "legacy": False,
    "adm_in_channels": None,
}


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter from a generator of its own, scaled so that signals keep unit size.

    Matrices and kernels get N(0, 1/fan_in), norm scales 1 + 0.1 N(0, 1), biases 0, lone scalars
    (GLIGEN's gates) 0.5. The host's layers leave their memory uninitialised, so nothing may be
    skipped; zero convolutions are filled as well, or whole paths would be dead.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device and cannot be given values")
        if parameter.dim() == 0:
            parameter.fill_(0.5)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                noise = noise.mul_(0.1) if name.startswith("null_") else noise.mul_(0.1).add_(1.0)
            else:
                noise = noise.div_(math.sqrt(max(1, parameter[0].numel())))
            parameter.copy_(noise)


def copied(module: torch.nn.Module) -> Any:
    """A deep copy of a network or of the host's whole model, its own weights and nothing shared
    but the host's configuration, which cannot be copied on hosts of 2026."""
    config = getattr(module, "model_config", None)
    return copy.deepcopy(module, {} if config is None else {id(config): config})


def is_inference_built(module: torch.nn.Module) -> bool:
    """True if every parameter of ``module`` is an inference tensor, as in a running ComfyUI."""
    return all(parameter.is_inference() for parameter in module.parameters())


def _seal(module: torch.nn.Module, seed: int | None) -> None:
    if seed is not None:
        randomize(module, seed)
    module.eval().requires_grad_(False)
    assert is_inference_built(module), "built outside torch.inference_mode()"


def _patcher(model: torch.nn.Module) -> ModelPatcher:
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


def _config(base: type, unet: dict[str, Any], extra: dict[str, Any]) -> Any:
    """An instance of a stock model config class, freed from the sizes it is detected by."""
    tiny = type(f"Tiny{base.__name__}", (base,), {"unet_config": {}, "unet_extra_config": extra})
    config = tiny({**unet, "dtype": torch.float32})
    if hasattr(config, "set_inference_dtype"):
        config.set_inference_dtype(torch.float32, None)
    return config


def _model_type(name: str) -> Any:
    from comfy.model_base import ModelType

    try:
        return {"eps": ModelType.EPS, "v": ModelType.V_PREDICTION}[name]
    except KeyError:
        raise ValueError(f"model_type {name!r}: use 'eps' or 'v'") from None


def unet_sizes(channels: int, levels: int, context_dim: int) -> dict[str, Any]:
    """UNet config with one residual block and one transformer per level.

    Cross-attention sites: factor 1 (relative to the latent) up to factor 2**(levels-1); the
    middle block works at the lowest resolution too.
    """
    return {
        **SD15_UNET,
        "model_channels": channels,
        "num_res_blocks": [1] * levels,
        "channel_mult": [1] + [2] * (levels - 1),
        "transformer_depth": [1] * levels,
        "transformer_depth_output": [1] * (2 * levels),
        "context_dim": context_dim,
    }


def tiny_unet(
    seed: int,
    channels: int = 32,
    model_type: str = "eps",
    context_dim: int = 64,
    adm: int | None = None,
    levels: int = 2,
    heads: int = 2,
) -> ModelPatcher:
    """An SD1.5-type model, about one million parameters, on the host's device, float32.

    ``adm`` gives it a vector input of that width, which the conditioning's ``pooled_output``
    feeds unchanged. ``levels=3`` adds sites at factor 4. Latents: (B,4,H,W), ``latent_format``
    SD15. Raises ValueError for an unknown ``model_type``.
    """
    from comfy.model_base import BaseModel
    from comfy.supported_models import SD15

    class PooledModel(BaseModel):
        def encode_adm(self, **kwargs: Any) -> torch.Tensor:
            return kwargs["pooled_output"]

    unet = unet_sizes(channels, levels, context_dim)
    if adm is not None:
        unet.update(adm_in_channels=adm, num_classes="sequential")
    with torch.inference_mode():
        config = _config(SD15, unet, {"num_heads": heads, "num_head_channels": -1})
        kind = BaseModel if adm is None else PooledModel
        model = kind(config, model_type=_model_type(model_type), device=torch.device("cpu"))
        _seal(model, seed)
        return _patcher(model)


def tiny_sdxl(seed: int, channels: int = 32, context_dim: int = 64) -> ModelPatcher:
    """An SDXL-type model: no attention at the first level, two transformers per site below.

    Its vector input is the stock 2816 wide: give ``conditioning(..., pooled=1280)``.
    """
    from comfy.model_base import SDXL as SDXLModel
    from comfy.model_base import ModelType
    from comfy.supported_models import SDXL

    unet = {
        **unet_sizes(channels, 2, context_dim),
        "transformer_depth": [0, 2],
        "transformer_depth_output": [0, 0, 2, 2],
        "transformer_depth_middle": 2,
        "use_linear_in_transformer": True,
        "adm_in_channels": 2816,
        "num_classes": "sequential",
    }
    with torch.inference_mode():
        config = _config(SDXL, unet, {"num_heads": -1, "num_head_channels": 32})
        model = SDXLModel(config, model_type=ModelType.EPS, device=torch.device("cpu"))
        _seal(model, seed)
        return _patcher(model)


FAMILIES: dict[str, dict[str, Any]] = {
    "SDXL": {
        **SD15_UNET,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "adm_in_channels": 2816,
        "num_classes": "sequential",
    },
    "SD20": {**SD15_UNET, "context_dim": 1024, "use_linear_in_transformer": True},
    "SD15": SD15_UNET,
}
"""U-Nets of the true shapes: every block, width and depth as in the checkpoints."""


def _of_family(
    family: str, model_type: str, channels: int | None, device: str
) -> tuple[type, Any, Any]:
    import comfy.model_base as bases
    import comfy.supported_models as supported

    unet = FAMILIES[family] | ({} if channels is None else {"model_channels": channels})
    heads = {"num_heads": -1, "num_head_channels": 64 if channels is None else 16}
    if family == "SD15":
        heads = {"num_heads": 8, "num_head_channels": -1}
    elif family == "SD20":
        heads["attn_precision"] = torch.float32
    config = _config(getattr(supported, family), unet, heads)
    kind = bases.SDXL if family == "SDXL" else bases.BaseModel
    return kind, config, {"model_type": _model_type(model_type), "device": torch.device(device)}


def family_unet(
    seed: int, family: str, model_type: str = "eps", channels: int = 32
) -> ModelPatcher:
    """A random U-Net of a family's true topology and text width, its channels reduced.

    ``family`` is a key of FAMILIES. Conditioning: ``dim`` = its context_dim, for SDXL also
    ``pooled=1280``.
    """
    with torch.inference_mode():
        kind, config, options = _of_family(family, model_type, channels, "cpu")
        model = kind(config, **options)
        _seal(model, seed)
        return _patcher(model)


def meta_family(family: str) -> BaseModel:
    """A family's true U-Net without storage, as ``meta_sd15``."""
    with torch.inference_mode(False):
        kind, config, options = _of_family(family, "eps", None, "meta")
        model = kind(config, **options)
        model.eval().requires_grad_(False)
    return model


def family_controlnet(seed: int, family: str, channels: int = 32) -> ControlNet:
    """A ControlNet for ``family_unet``."""
    return _controlnet(
        seed, FAMILIES[family] | {"model_channels": channels},
        {"num_heads": -1, "num_head_channels": 16},
    )  # fmt: skip


def tiny_flux(seed: int) -> ModelPatcher:
    """A Flux-type model: a transformer without cross-attention, in a flow's noise scaling.

    Latents (B,16,H,W); conditioning ``dim=48, pooled=32``.
    """
    from comfy.ldm.flux.model import FluxParams
    from comfy.model_base import Flux as FluxModel
    from comfy.supported_models import Flux

    unet = {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": 32,
        "context_in_dim": 48,
        "hidden_size": 64,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [8, 12, 12],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    }
    # Older hosts do not know some of these: they are fixed there to these values.
    known = FluxParams.__dataclass_fields__
    unet = {"image_model": "flux", **{key: unet[key] for key in unet if key in known}}
    with torch.inference_mode():
        model = FluxModel(_config(Flux, unet, {}), device=torch.device("cpu"))
        _seal(model, seed)
        return _patcher(model)


def tiny_gligen(unet_patcher: ModelPatcher, seed: int) -> ModelPatcher:
    """A stock GLIGEN fitted to ``unet_patcher``: one fuser per transformer block, open gates.

    Grounding embeddings are (1,768) (``pooled_phrase``). The width 768 is the one for which the
    host splits each fuser into eight heads, whatever the block's channels.
    """
    from comfy import gligen

    unet = unet_patcher.model.diffusion_model
    with torch.inference_mode():
        weights: dict[str, torch.Tensor] = {}
        parts: list[tuple[str, torch.nn.Module]] = []
        for name, module in unet.named_modules():
            if name.rpartition(".")[0].endswith("transformer_blocks"):
                width = module.attn1.to_q.in_features
                fuser = gligen.GatedSelfAttentionDense(width, 768, 8, width // 8)
                parts.append((f"{name}.fuser.", fuser))
        parts.append(("position_net.", gligen.PositionNet(768, 768)))
        for index, (prefix, module) in enumerate(parts):
            randomize(module, seed * 1000 + index)
            for key, value in module.state_dict().items():
                weights[prefix + key] = value
        model = gligen.load_gligen(weights)
        _seal(model, None)
        return _patcher(model)


def pooled_phrase(seed: int, dim: int = 768) -> torch.Tensor:
    """A phrase's grounding embedding for GLIGEN, (1, dim)."""
    return torch.randn(1, dim, generator=torch.Generator().manual_seed(seed))


def with_gligen(
    cond: Conditioning,
    gligen: ModelPatcher,
    boxes: list[tuple[torch.Tensor, int, int, int, int]],
) -> Conditioning:
    """``cond`` with grounding, in the shape the stock node writes.

    Each entry of ``boxes`` is (embedding (1,768), height, width, y, x), in latent pixels.
    """
    return [[c, {**extra, "gligen": ("position", gligen, boxes)}] for c, extra in cond]


def tiny_controlnet(
    seed: int, channels: int = 32, context_dim: int = 64, levels: int = 2, heads: int = 2
) -> ControlNet:
    """A stock ControlNet for ``tiny_unet`` of the same sizes, zero convolutions filled too."""
    sizes = unet_sizes(channels, levels, context_dim)
    return _controlnet(seed, sizes, {"num_heads": heads, "num_head_channels": -1})


def _controlnet(seed: int, sizes: dict[str, Any], heads: dict[str, int]) -> ControlNet:
    import comfy.cldm.cldm as cldm
    import comfy.controlnet as controlnet
    import comfy.model_management as management
    import comfy.ops as ops

    without = ("out_channels", "transformer_depth_output")
    without += ("use_temporal_attention", "use_temporal_resblock")
    with torch.inference_mode():
        module = cldm.ControlNet(
            **{key: value for key, value in sizes.items() if key not in without},
            **heads,
            hint_channels=3,
            dtype=torch.float32,
            operations=ops.disable_weight_init,
        )
        _seal(module, seed)
        return controlnet.ControlNet(
            module, load_device=management.get_torch_device(), manual_cast_dtype=None
        )


def with_control(
    cond: Conditioning,
    control: ControlNet,
    seed: int,
    size: tuple[int, int] = (128, 128),
    strength: float = 0.8,
) -> Conditioning:
    """``cond`` steered by ``control`` with a random hint image of ``size`` (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    hint = torch.rand(1, 3, *size, generator=generator)
    out: Conditioning = []
    for embedding, extra in cond:
        net = control.copy().set_cond_hint(hint, strength, (0.0, 1.0))
        out.append([embedding, {**extra, "control": net, "control_apply_to_uncond": True}])
    return out


VALUES = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
"""A weight that every tiny U-Net has, and that every prompt goes through."""


def difference(model: ModelPatcher, key: str = VALUES) -> torch.Tensor:
    """A random difference to a weight of ``model``."""
    size = model.model.state_dict()[key].shape
    return torch.randn(size, generator=torch.Generator().manual_seed(3))


def with_weight_hook(
    conditioning: Conditioning, delta: torch.Tensor, strength: float = 0.5, key: str = VALUES
) -> Conditioning:
    """CONDITIONING under which ``strength`` times ``delta`` is added to a weight (new hosts)."""
    import comfy.hooks

    hook = comfy.hooks.WeightHook(strength_model=strength)
    hook.weights, hook.need_weight_init = {key: (delta,)}, False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return [[embedding, {**extra, "hooks": group}] for embedding, extra in conditioning]


def conditioning(
    seed: int, length: int = 77, dim: int = 64, batch: int = 1, pooled: int | None = None
) -> Conditioning:
    """Random CONDITIONING: one entry, embedding (batch, length, dim), pooled (batch, pooled)."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, length, dim, generator=generator)
    extra: dict[str, Any] = {}
    if pooled is not None:
        extra["pooled_output"] = torch.randn(batch, pooled, generator=generator)
    return [[embedding, extra]]


def latent_noise(
    seed: int, batch: int = 1, channels: int = 4, height: int = 16, width: int = 16
) -> torch.Tensor:
    """Unit normal noise (batch, channels, height, width); sample k depends on seed + k only."""
    return torch.cat(
        [
            torch.randn(
                1, channels, height, width, generator=torch.Generator().manual_seed(seed + k)
            )
            for k in range(batch)
        ]
    )


def sd15_sized(seed: int) -> ModelPatcher:
    """A random model of the real SD1.5 shape, float32: 860 million parameters, 3.4 GB."""
    from comfy.model_base import BaseModel, ModelType
    from comfy.supported_models import SD15

    with torch.inference_mode():
        config = _config(SD15, SD15_UNET, {"num_heads": 8, "num_head_channels": -1})
        model = BaseModel(config, model_type=ModelType.EPS, device=torch.device("cpu"))
        _seal(model, seed)
        return _patcher(model)


def meta_sd15() -> BaseModel:
    """The real SD1.5 model without storage, for counting operations of ``.diffusion_model``.

    The one model here with ordinary tensors: a FLOP count of a backward pass needs autograd, and
    without values there is nothing else to learn from it. Run it within the bench's
    ``fused_attention()``: started with ``--cpu`` the host picks an attention that asks the device
    for its free memory, which the meta device cannot answer.
    """
    from comfy.model_base import BaseModel, ModelType
    from comfy.supported_models import SD15

    config = _config(SD15, SD15_UNET, {"num_heads": 8, "num_head_channels": -1})
    with torch.inference_mode(False):
        model = BaseModel(config, model_type=ModelType.EPS, device=torch.device("meta"))
        model.eval().requires_grad_(False)
    return model
