"""The demo models in ComfyUI's own classes: UNetModel, ModelPatcher, CLIP, VAE, GLIGEN."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor

from ..balancer.errors import RealCompoError
from .codec import LATENT_CHANNELS, ShapesCodec
from .control import KINDS
from .finetuned import NONE, file_of
from .grounding import ShapesGrounding
from .text import WIDTH, ShapesTextModel, expand_embedding
from .weights_file import fill, read_file

NODE = "Load Shapes Demo Models"
CONTROL_NODE = "Load Shapes Demo ControlNet"
WEIGHTS = Path(__file__).resolve().parent / "weights"
PARTS = ("realism", "spatial")
# The realism part's weights file of every style; the spatial part is one for all of them.
STYLE_FILES = {"realistic": "realism", "sketch": "sketch", "neon": "neon"}


class ShapesLatent(comfy.latent_formats.LatentFormat):
    """16 channels, an eighth of the picture's sides, unscaled; the codec sets the preview."""

    latent_channels = LATENT_CHANNELS


class ShapesConfig(comfy.supported_models_base.BASE):
    """UNet settings: eps prediction with Stable Diffusion's noise schedule (the host's default)."""

    unet_config: dict[str, Any] = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = ShapesLatent
    memory_usage_factor = 1.0

    def inpaint_model(self) -> bool:
        """Sixteen input channels do not make an inpainting model here."""
        return False


def unet_settings(dtype: torch.dtype) -> dict[str, Any]:
    """1.5 M parameters; cross-attention four times at half the latent's sides and once at full."""
    return {
        "image_size": 32,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "model_channels": 64,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 1],
        "transformer_depth": [0, 1],
        "transformer_depth_output": [0, 1, 1, 1],
        "transformer_depth_middle": 1,
        "context_dim": WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "dtype": dtype,
    }


def build_model(dtype: torch.dtype = torch.float32, device: Any = "cpu") -> Any:
    """An uninitialised ``comfy.model_base.BaseModel`` with the demo's UNet."""
    config = ShapesConfig(unet_settings(dtype))
    return comfy.model_base.BaseModel(
        config, model_type=comfy.model_base.ModelType.EPS, device=torch.device(device)
    )


def build_control(
    dtype: torch.dtype = torch.float32, device: Any = None, operations: Any = None
) -> Any:
    """An uninitialised ``comfy.cldm.cldm.ControlNet`` that fits the demo's UNet."""
    settings = {**ShapesConfig.unet_extra_config, **unet_settings(dtype)}
    # A ControlNet has no decoder and gives no noise.
    for decoder_only in ("out_channels", "transformer_depth_output"):
        del settings[decoder_only]
    return comfy.cldm.cldm.ControlNet(
        **settings,
        hint_channels=3,
        device=device,
        operations=operations or comfy.ops.disable_weight_init,
    )


def read_weights(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weights file; ``RealCompoError`` if it is missing or damaged."""
    return read_file(WEIGHTS / name, "part", NODE)


def _fill(module: torch.nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy a state dict in and refuse a file that does not fit exactly."""
    fill(module, state, name, "part", NODE)


def _load_unet(name: str, codec: ShapesCodec) -> Any:
    state, _ = read_weights(name)
    management = comfy.model_management
    load_device = management.get_torch_device()
    offload_device = management.unet_offload_device()
    count = sum(t.numel() for t in state.values())
    supported = ShapesConfig.supported_inference_dtypes
    dtype = management.unet_dtype(model_params=count, supported_dtypes=supported)
    config = ShapesConfig(unet_settings(dtype))
    # Where the device computes in another precision than it stores, the host casts layer by layer.
    cast = management.unet_manual_cast(dtype, load_device, supported)
    if hasattr(config, "set_inference_dtype"):
        config.set_inference_dtype(dtype, cast)
    model = comfy.model_base.BaseModel(
        config, model_type=comfy.model_base.ModelType.EPS, device=offload_device
    )
    _fill(model.diffusion_model, state, name)
    factors, bias = codec.preview_factors()
    model.latent_format.latent_rgb_factors = factors.tolist()
    model.latent_format.latent_rgb_factors_bias = bias.tolist()
    model.eval().requires_grad_(False)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=load_device, offload_device=offload_device
    )
    # Newer hosts load a model again where one needs weights of its own, as their trainer does.
    patcher.cached_patcher_init = (_load_unet_again, (name,))
    return patcher


def _load_unet_again(name: str, disable_dynamic: bool = False) -> Any:
    """``disable_dynamic`` is the host's wish for a patcher such as the demo's always are."""
    return _load_unet(name, load_codec())


class ShapesClipModel(comfy.sd1_clip.SDClipModel):
    """ComfyUI's CLIP wrapper (chunks, weights, embeddings) around the tiny text model."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_class=ShapesTextModel,
            freeze=True,
            model_options=model_options or {},
        )


class ShapesTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The one-encoder CLIP model of ComfyUI with the tiny encoder in place of CLIP-L."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            clip_model=ShapesClipModel,
        )


class ShapesTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """CLIP's BPE tokenizer; textual embeddings are 64 wide here."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            tokenizer=partial(comfy.sd1_clip.SDTokenizer, embedding_size=WIDTH),
        )


def _load_clip() -> Any:
    name = "text.safetensors"
    state, _ = read_weights(name)
    # A foreign file goes on as it is, to be refused where it does not fit.
    if {"known", "table"} <= state.keys():
        state = expand_embedding(state)

    class Target:
        params: dict[str, Any] = {}
        clip = ShapesTextEncoder
        tokenizer = ShapesTokenizer

    # Embeddings are looked up where the host keeps them, as CLIPLoader does.
    import folder_paths

    clip = comfy.sd.CLIP(
        Target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(t.numel() for t in state.values()),
    )
    _fill(clip.cond_stage_model.clip_l.transformer, state, name)
    return clip


def load_codec() -> ShapesCodec:
    """The codec alone, in single precision on the CPU."""
    name = "codec.safetensors"
    state, _ = read_weights(name)
    codec = ShapesCodec()
    _fill(codec, {key: value.float() for key, value in state.items()}, name)
    return codec.eval().requires_grad_(False)


class ShapesVAE(comfy.sd.VAE):
    """ComfyUI's VAE around the demo's codec.

    The host's constructor recognises formats by their keys. It is given the small TAESD it knows,
    so that every attribute a host version expects exists, and then the codec takes TAESD's place.
    """

    def __init__(self, codec: ShapesCodec) -> None:
        import comfy.taesd.taesd

        stand_in = comfy.taesd.taesd.TAESD(latent_channels=LATENT_CHANNELS)
        for parameter in stand_in.parameters():
            torch.nn.init.zeros_(parameter)
        super().__init__(sd=stand_in.state_dict(), dtype=torch.float32)
        self.latent_channels = LATENT_CHANNELS
        self.first_stage_model = codec.to(self.vae_dtype)
        # Activations: at most 64 channels at half the picture's sides, several alive at a time.
        self.memory_used_encode = lambda shape, dtype: 64 * shape[2] * shape[3] * 4
        self.memory_used_decode = lambda shape, dtype: 200 * shape[2] * shape[3] * 64 * 4
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )


def _load_gligen() -> Any:
    name = "grounding.safetensors"
    state, _ = read_weights(name)
    management = comfy.model_management
    model = ShapesGrounding(operations=comfy.ops.manual_cast)
    _fill(model, {key: value.float() for key, value in state.items()}, name)
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


def load_demo(style: str, part: str, finetuned: str = NONE) -> tuple[Any, Any, Any, Any]:
    """(ModelPatcher, CLIP, VAE, GLIGEN ModelPatcher) of the demo.

    ``style`` a key of ``STYLE_FILES``; ``part`` 'realism' (knows that style, not the place) or
    'spatial' (knows the place through GLIGEN boxes, in a plain style whatever ``style`` says);
    ``finetuned``: 'none', or a key of ``finetuned.FILES`` whose LoRA is put onto the realism part.
    Raises ``RealCompoError`` for another value and for a missing, damaged or unfitting weights
    file.
    """
    if style not in STYLE_FILES:
        choice = ", ".join(f"'{name}'" for name in STYLE_FILES)
        raise RealCompoError(
            "style", f"there is no style '{style}'", f"Choose one of {choice}", NODE
        )
    if part not in PARTS:
        raise RealCompoError(
            "part", f"there is no part '{part}'", "Choose 'realism' or 'spatial'", NODE
        )
    try:
        lora = file_of(finetuned, style, part)
    except RealCompoError as error:
        raise error.at(NODE) from None
    codec = load_codec()
    name = STYLE_FILES[style] if part == "realism" else part
    unet = _load_unet(f"{name}.safetensors", codec)
    if lora is not None:
        unet = _finetuned(unet, lora)
    return unet, _load_clip(), ShapesVAE(codec), _load_gligen()


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


def _finetuned(unet: Any, name: str) -> Any:
    remedy = "Get the pack's files again, all of one version"
    try:
        state, _ = read_file(WEIGHTS / name, "finetuned", NODE)
        return with_lora(unet, state, name, "finetuned", remedy)
    except RealCompoError as error:
        raise error.at(NODE) from None


def load_control(kind: str) -> Any:
    """A ``comfy.controlnet.ControlNet`` for the spatial part's model, without boxes.

    ``kind`` is one of ``control.KINDS``. Raises ``RealCompoError`` for another kind and for a
    missing, damaged or unfitting weights file.
    """
    if kind not in KINDS:
        choice = " or ".join(f"'{name}'" for name in KINDS)
        raise RealCompoError("kind", f"there is no kind '{kind}'", f"Choose {choice}", CONTROL_NODE)
    name = f"{kind}.safetensors"
    management = comfy.model_management
    try:
        state, _ = read_weights(name)
        supported = ShapesConfig.supported_inference_dtypes
        count = sum(t.numel() for t in state.values())
        dtype = management.unet_dtype(model_params=count, supported_dtypes=supported)
        load_device = management.get_torch_device()
        cast = management.unet_manual_cast(dtype, load_device, supported)
        operations = comfy.ops.disable_weight_init if cast is None else comfy.ops.manual_cast
        model = build_control(dtype, management.unet_offload_device(), operations)
        _fill(model, state, name)
    except RealCompoError as error:
        raise error.at(CONTROL_NODE, "kind") from error
    model.eval().requires_grad_(False)
    return comfy.controlnet.ControlNet(model, load_device=load_device, manual_cast_dtype=cast)


def weight_hashes() -> dict[str, str]:
    """SHA-256 of every weights file as recorded at export."""
    return json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8"))
