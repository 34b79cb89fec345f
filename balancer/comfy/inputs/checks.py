"""What must hold before sampling starts, said in the user's words."""

from __future__ import annotations

from functools import cache
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from torch import Tensor

from ...attention.regions import LayoutBatch
from ...errors import RealCompoError
from ...log import LOG
from ...realcompo.settings import BalancerSettings
from ..attention.families import family_of
from ..attention.family import Ability, Site, choose_level
from .values import check_stretched, is_finite


def model_name(patcher: ModelPatcher) -> str:
    """The model's family as the host calls it: SD15, SDXL, Flux, ..."""
    return type(patcher.model.model_config).__name__


def require_ability(
    patcher: ModelPatcher, ability: Ability, where: str = "model"
) -> tuple[Site, ...]:
    """The sites of a model's attention; RealCompoError at input ``where``, in its family's own
    words, for a model without the ability."""
    network = patcher.get_model_object("diffusion_model")
    family = family_of(network)
    refused = family.refusal(ability, network)
    if refused is not None:
        problem, remedy = refused
        raise RealCompoError(where, problem.format(name=model_name(patcher)), remedy)
    return family.sites(network)


def check_pair(realism: ModelPatcher, spatial: ModelPatcher, settings: BalancerSettings) -> None:
    """Raise RealCompoError for two models that cannot denoise one latent, or whose attention the
    mode cannot read."""
    names = f"'{model_name(realism)}' and '{model_name(spatial)}'"
    formats = [patcher.get_model_object("latent_format") for patcher in (realism, spatial)]
    kinds = {(type(f), f.latent_channels, f.scale_factor) for f in formats}
    if len(kinds) > 1:
        raise RealCompoError(
            "spatial_model", f"{names} (realism and spatial) use different latents",
            "Choose two checkpoints of one family, such as two of SD1.5 or two of SDXL.",
        )  # fmt: skip
    flows = {
        isinstance(patcher.get_model_object("model_sampling"), CONST)
        for patcher in (realism, spatial)
    }
    if len(flows) > 1:
        raise RealCompoError(
            "spatial_model", f"of {names} one is a flow model and the other a diffusion model",
            "Choose two models of one kind, since their noise levels mean different things.",
        )  # fmt: skip
    if settings.mode == "fixed":
        return
    for where, patcher in (("realism_model", realism), ("spatial_model", spatial)):
        choose_level(require_ability(patcher, "balance", where), settings.map_level)
        if family_of(patcher.get_model_object("diffusion_model")).is_experimental:
            _say_experimental(model_name(patcher))


@cache
def _say_experimental(name: str) -> None:
    """Once per family and session."""
    LOG.info(
        "RealCompo: balancing %s by its joint attention is experimental; nobody has tuned the"
        " presets for it.", name,
    )  # fmt: skip


def check_latent(
    patcher: ModelPatcher,
    conds: dict[str, list[dict[str, Any]]],
    noise: Tensor,
    latent_image: Tensor,
    settings: BalancerSettings,
) -> None:
    """Raise RealCompoError for latents that the pair cannot sample: shape, channels, batch, NaN.

    ``conds`` are the host's converted conditioning entries, by the name of the input.
    """
    where = "latent_image"
    refuse_nested(latent_image, where)
    refuse_nested(noise, where)
    if noise.shape != latent_image.shape:
        raise RealCompoError(
            where, f"noise {tuple(noise.shape)} and latent {tuple(latent_image.shape)} differ",
            "Make the noise from this very latent.",
        )  # fmt: skip
    if noise.numel() == 0:
        raise RealCompoError(
            where, f"the latent is empty: its shape is {tuple(noise.shape)}",
            "Make it with a batch of one or more, and a width and a height.",
        )  # fmt: skip
    _check_shape(patcher, noise, where)
    picture = noise.ndim == 4 or noise.shape[2] == 1
    if settings.mode != "fixed" and not picture:
        raise RealCompoError(
            where, "balancing works on pictures, and this latent is a video or a set of frames",
            "Set the balancer's mode to fixed.",
        )  # fmt: skip
    if not is_finite(latent_image) or not is_finite(noise):
        raise RealCompoError(
            where, "the latent holds NaN or infinity", "Make it again; an earlier step failed."
        )
    patch = getattr(patcher.get_model_object("diffusion_model"), "patch_size", None)
    for name, entries in conds.items():
        for entry in entries:
            check_stretched(entry, name, patch, noise)
            embedding = entry.get("cross_attn")
            if embedding is not None and embedding.shape[0] not in (1, noise.shape[0]):
                raise RealCompoError(
                    name, f"conditioning for {embedding.shape[0]} pictures, latents for "
                    f"{noise.shape[0]}", "Make both the same number, or use one prompt for all.",
                )  # fmt: skip


def _check_shape(patcher: ModelPatcher, noise: Tensor, where: str) -> None:
    latent_format = patcher.get_model_object("latent_format")
    # hosts of 2024 do not say it
    known = getattr(latent_format, "latent_dimensions", None)
    if known is None:
        known = family_of(patcher.get_model_object("diffusion_model")).latent_dimensions
    wanted: dict[int | None, str] = {2: "pictures (B, C, H, W)", 3: "frames (B, C, T, H, W)"}
    if known not in (None, *wanted):
        raise RealCompoError(
            where, f"'{model_name(patcher)}' makes neither pictures nor videos",
            "Use two models that do, since the two are mixed by places in a picture.",
        )  # fmt: skip
    expected = (4, 5) if known is None else (known + 2,)
    if noise.ndim not in expected:
        raise RealCompoError(
            where, f"the latent has the shape {tuple(noise.shape)}, and '{model_name(patcher)}'"
            f" makes {wanted.get(known, 'pictures or frames')}",
            "Start from an empty latent of this model's kind, or encode with its own VAE.",
        )  # fmt: skip
    if noise.shape[1] != latent_format.latent_channels:
        raise RealCompoError(
            where, f"the latent has {noise.shape[1]} channels, not {latent_format.latent_channels}",
            "Encode it with this model's own VAE, or start from an empty latent.",
        )  # fmt: skip


def refuse_nested(samples: Any, where: str) -> None:
    """Raise RealCompoError for several latents in one, as models of picture and sound have them."""
    if getattr(samples, "is_nested", False):
        raise RealCompoError(
            where, "it holds several latents at once, such as a picture's and a sound's",
            "Separate them and connect the picture's alone.",
        )  # fmt: skip


def check_layouts(regions: LayoutBatch, noise: Tensor) -> None:
    """Raise RealCompoError unless there is one layout, or one for every latent of the batch.

    ``noise`` (B, C, ...) has B latents.
    """
    if len(regions.layouts) not in (1, noise.shape[0]):
        raise RealCompoError(
            "layout", f"{len(regions.layouts)} layouts for {noise.shape[0]} latents",
            "Make both the same number, or use one layout for all.",
        )  # fmt: skip


def check_tokens(tokens: tuple[tuple[int, ...], ...], conditioning: Any, where: str) -> None:
    """Raise RealCompoError when the layout's prompt is longer than the conditioning."""
    if not tokens:
        raise RealCompoError(
            "layout", "the layout has no regions", "Add at least one region to balance by."
        )
    if not conditioning:
        raise RealCompoError(where, "the conditioning is empty", "Connect an encoded prompt.")
    length = conditioning[0][0].shape[1]
    last = max(max(positions) for positions in tokens)
    if last >= length:
        raise RealCompoError(
            where, f"the layout names token {last}, the conditioning has {length}",
            "Encode the same prompt that the layout carries.",
        )  # fmt: skip
