"""Which tensors stand in which kind of model file, under which names; the host's own maps are used.

The host saves checkpoints in the layout that they were published in (CompVis' for SD1.5,
Stability's for SDXL), and reads diffusers' ControlNets by a map that is turned round here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch

from ..true_models import SD15, SDXL_BASE, Kind
from . import networks
from .networks import Weights

CHECKPOINT = "model.diffusion_model."
RANK = 8


@dataclass(frozen=True)
class Contents:
    """Tensors of a file (those on torch's meta device are yet to be drawn). ``linear``: the U-Net's
    layers that can be held in 8 bits. ``prefix``: of the U-Net's names. ``empty``: names whose
    values are all zero, for a narrow file. ``about``: the file's metadata."""

    tensors: Weights
    linear: list[str] = field(default_factory=list)
    prefix: str = ""
    empty: frozenset[str] = frozenset()
    about: Mapping[str, str] = field(default_factory=dict)


def _kind(family: Kind, narrow: bool) -> Kind:
    small = {SD15.name: networks.NARROW_SD15, SDXL_BASE.name: networks.NARROW_SDXL}
    return small[family.name] if narrow else family


def _middle_layers(names: Any) -> frozenset[str]:
    """Names in all layers of text encoders but the first and the last two: without values they pass
    on what they get. The host knows an encoder by its last layers, so that none can be left out."""
    layer = re.compile(r"^(.*(?:layers|resblocks)\.)(\d+)\.")
    found = {name: match for name in names if (match := layer.match(name))}
    last: dict[str, int] = {}
    for match in found.values():
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return frozenset(
        name for name, match in found.items() if 2 <= int(match[2]) <= last[match[1]] - 2
    )


def checkpoint(family: Kind, narrow: bool) -> Contents:
    """U-Net, text encoders and autoencoder in one file."""
    kind = _kind(family, narrow)
    config = family.config(kind.unet)
    text = config.process_clip_state_dict_for_saving(networks.text(family))
    if family.pooled is None:  # SDXL's are added by the host
        name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        text[name] = torch.arange(77).expand((1, -1))
    tensors = {
        **config.process_unet_state_dict_for_saving(networks.unet(kind)),
        **text,
        **config.process_vae_state_dict_for_saving(networks.vae()),
    }
    linear = [CHECKPOINT + name for name in networks.linear_layers(kind)]
    return Contents(tensors, linear, CHECKPOINT, _middle_layers(text) if narrow else frozenset())


def unet(family: Kind, narrow: bool) -> Contents:
    """A U-Net alone, for models/diffusion_models."""
    kind = _kind(family, narrow)
    return Contents(networks.unet(kind), networks.linear_layers(kind))


def text_encoder(which: str, narrow: bool) -> Contents:
    """CLIP-L (``clip_l``) or CLIP-bigG (``clip_g``) alone, under the transformers library's
    names."""
    prefix = f"{which}.transformer."
    tensors = {
        name[len(prefix) :]: tensor
        for name, tensor in networks.text(SDXL_BASE).items() if name.startswith(prefix)
    }  # fmt: skip
    return Contents(tensors, empty=_middle_layers(tensors) if narrow else frozenset())


def vae(narrow: bool) -> Contents:
    """The autoencoder alone. The host takes true widths only, so that a narrow one is the same."""
    return Contents(networks.vae())


def gligen(narrow: bool) -> Contents:
    """GLIGEN's text boxes for SD1.x."""
    return Contents(networks.grounding(networks.unet(_kind(SD15, narrow))))


def control(family: Kind, prefix: str, narrow: bool) -> Contents:
    """A ControlNet in CompVis' layout; as published for SD1.5 with ``control_model.`` before its
    names."""
    weights = networks.control(_kind(family, narrow))
    return Contents({prefix + key: value for key, value in weights.items()})


def diffusers_control(family: Kind, narrow: bool, union_types: int | None = None) -> Contents:
    """A ControlNet in diffusers' layout, ``union_types``: one for so many kinds of hints.

    The loader knows published depths only: narrow ones are the published small one of SDXL, and one
    of SD1.5 that is without values below the first level.
    """
    kind = networks.SMALL_SDXL_CONTROL if narrow and family is SDXL_BASE else family
    names = _diffusers_names(kind)
    weights = networks.control(kind, union_types)
    tensors = {names(key): value for key, value in weights.items()}
    lower = re.compile(r"down_blocks\.[1-9]|mid_block")
    hollow = narrow and family is SD15
    return Contents(tensors, empty=frozenset(filter(lower.match, tensors if hollow else ())))


def _diffusers_names(kind: Kind) -> Callable[[str], str]:
    """What diffusers calls a weight of the host's ControlNet."""
    turned: dict[str, str] = {}
    for theirs, ours in comfy.utils.unet_to_diffusers({**kind.unet, **kind.heads}).items():
        if not theirs.startswith("class_embedding"):  # a second name for SDXL's add_embedding
            turned[ours] = theirs
    hints = ["conv_in", *(f"blocks.{n}" for n in range(6)), "conv_out"]

    def name(ours: str) -> str:
        if ours in turned:
            return turned[ours]
        head, _, last = ours.rpartition(".")
        if match := re.fullmatch(r"zero_convs\.(\d+)\.0", head):
            return f"controlnet_down_blocks.{match[1]}.{last}"
        if match := re.fullmatch(r"input_hint_block\.(\d+)", head):
            return f"controlnet_cond_embedding.{hints[int(match[1]) // 2]}.{last}"
        if head == "middle_block_out.0":
            return f"controlnet_mid_block.{last}"
        if ours.startswith(("task_embedding", "transformer_layes", "spatial_ch", "control_add")):
            return ours.replace(".attn.in_proj.", ".attn.in_proj_")
        raise ValueError(f"diffusers has no name for {ours}")

    return name


def lora(family: Kind, narrow: bool) -> Contents:
    """A LoRA in kohya's layout on U-Net and text encoders: diffusers' names for SD1.5, Stability's
    for SDXL."""
    kind = _kind(family, narrow)
    names: dict[str, str] = {}
    if family is SD15:
        maps = comfy.utils.unet_to_diffusers({**kind.unet, **kind.heads})
        names = {ours: theirs for theirs, ours in maps.items()}
    tensors: Weights = {}
    for name, weight in networks.unet(kind).items():
        inner = ".transformer_blocks." in name or re.search(r"\.1\.proj_(in|out)\.", name)
        if inner and name.endswith(".weight") and weight.dim() > 1:
            tensors |= _pair("lora_unet_" + names.get(name, name), weight)
    for name, weight in networks.text(family).items():
        which, _, inner = name.partition(".transformer.")
        if ".encoder.layers." in inner and weight.dim() > 1:
            te = {"clip_l": "te1", "clip_g": "te2"}[which] if family is SDXL_BASE else "te"
            tensors |= _pair(f"lora_{te}_{inner}", weight)
    about = {
        "ss_network_module": "networks.lora", "ss_network_dim": str(RANK),
        "ss_network_alpha": str(RANK / 2),
    }  # fmt: skip
    return Contents(tensors, about=about)


def _pair(name: str, weight: torch.Tensor) -> Weights:
    """Down, up and alpha of one layer; convolutions of one pixel have two dimensions more."""
    head = name.removesuffix(".weight").replace(".", "_")
    tail = weight.shape[2:]
    down = torch.empty(RANK, weight.shape[1], *tail, device="meta")
    up = torch.empty(weight.shape[0], RANK, *tail, device="meta")
    alpha = torch.tensor(RANK / 2)
    return {
        f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": alpha
    }  # fmt: skip


KINDS: dict[str, Callable[[bool], Contents]] = {
    "sd15": lambda narrow: checkpoint(SD15, narrow),
    "sdxl": lambda narrow: checkpoint(SDXL_BASE, narrow),
    "unet_sd15": lambda narrow: unet(SD15, narrow),
    "unet_sdxl": lambda narrow: unet(SDXL_BASE, narrow),
    "clip_l": lambda narrow: text_encoder("clip_l", narrow),
    "clip_g": lambda narrow: text_encoder("clip_g", narrow),
    "vae": vae,
    "gligen": gligen,
    "control_sd15": lambda narrow: control(SD15, "control_model.", narrow),
    "control_sdxl": lambda narrow: control(SDXL_BASE, "", narrow),
    "control_sd15_diffusers": lambda narrow: diffusers_control(SD15, narrow),
    "control_sdxl_diffusers": lambda narrow: diffusers_control(SDXL_BASE, narrow),
    "control_sdxl_union": lambda narrow: diffusers_control(SDXL_BASE, narrow, union_types=6),
    "lora_sd15": lambda narrow: lora(SD15, narrow),
    "lora_sdxl": lambda narrow: lora(SDXL_BASE, narrow),
}
"""What can be written, by name; each takes whether it is to be narrow."""
