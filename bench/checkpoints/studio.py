"""A pair of the user's own checkpoints with GLIGEN, handled as a workflow would.

Everything goes through the host's loaders, its text encoders and its VAE, and through the pack's
own guider.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...balancer.attention.regions import Tokens
from ...balancer.comfy.gligen import apply_gligen
from ...balancer.comfy.host.function_sampler import FunctionSampler
from ...balancer.comfy.inputs.types import resolve
from ...balancer.comfy.realcompo.guider import RealCompoGuider
from ...balancer.comfy.realcompo.sampling import sample_pair
from ...balancer.errors import RealCompoError
from ...balancer.layouts.layout import Layout
from ...balancer.realcompo.settings import BalancerSettings, plain_settings
from ...balancer.realcompo.trace import Trace
from ..pictures import SAMPLER, SCHEDULER, MakeGuider

LATENT_CELL = 8
"""Pixels per latent position, and so the step of a picture's sides."""

LOOK_PERCENT, LOOK_SEED = 0.5, 20_261_122
"""A finished picture is looked at half-way down the noise schedule, always in the same noise."""


@dataclass(frozen=True)
class ModelFiles:
    """Where the models lie. Without ``vae`` the realism checkpoint's own is used; without
    ``spatial`` and ``gligen`` the realism checkpoint stands in their place, with no boxes."""

    realism: Path
    spatial: Path | None
    gligen: Path | None
    vae: Path | None = None


@dataclass(frozen=True)
class Prompted:
    """A layout, its regions' token positions, and its prompt as each model is given it."""

    layout: Layout
    tokens: Tokens
    positive: Any
    grounded: Any


@dataclass(frozen=True)
class Shot:
    """One picture (3, H, W) in 0..1, its latent (1, C, h, w) as the VAE takes it, and the run."""

    pixels: Tensor
    latent: Tensor
    trace: Trace
    seconds: float


def _noised_look(shares: list[Tensor | None]) -> FunctionSampler:
    """A sampler that samples nothing: it noises the latent to the first sigma, probes there, and
    appends each branch's shares (B, R)."""

    def run(
        guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor,
    ) -> Tensor:
        sigma = float(sigmas[0])
        x = guider.inner_model.model_sampling.noise_scaling(sigmas[0], noise, latent_image, False)
        at = sigmas[:1].expand(x.shape[0])
        guider.run.host.sampler_options = extra_args["model_options"]
        for result in guider.run.probe(x, at, sigma, sigma):
            shares.append(None if result is None else result.shares)
        return latent_image

    return FunctionSampler(run)


class CheckpointStudio:
    """Two checkpoints, GLIGEN and a VAE, loaded once. Raises RealCompoError for files that do not
    hold what they are named for."""

    @torch.inference_mode()
    def __init__(self, files: ModelFiles) -> None:
        self.realism, self.clip, vae = _load_checkpoint(files.realism, "--realism")
        if files.spatial is None or files.spatial.samefile(files.realism):
            # one checkpoint in both places is one model: half the memory, and shared work
            self.spatial, self.spatial_clip = self.realism, self.clip
        else:
            self.spatial, self.spatial_clip, _ = _load_checkpoint(files.spatial, "--spatial")
        self.vae = vae if files.vae is None else _load_vae(files.vae)
        # the host gives an empty VAE where a file has none
        if getattr(self.vae, "first_stage_model", self.vae) is None:
            option, path = ("--vae", files.vae) if files.vae else ("--realism", files.realism)
            raise RealCompoError(option, f"'{path.name}' has no VAE", "Name one with --vae")
        self.gligen = None if files.gligen is None else _load_gligen(files.gligen)
        self._negative = _encode(self.clip, "")
        self._spatial_negative = _encode(self.spatial_clip, "")

    @torch.inference_mode()
    def ask(self, layout: Layout) -> Prompted:
        """Encode a layout's prompt for both models, with its boxes for the spatial one."""
        positive = _encode(self.clip, layout.prompt)
        plain = _encode(self.spatial_clip, layout.prompt)
        grounded = plain
        if self.gligen is not None:
            grounded = apply_gligen(plain, self.spatial_clip, self.gligen, layout)
        return Prompted(layout, resolve(layout), positive, grounded)

    def guider(
        self,
        prompted: Prompted,
        settings: BalancerSettings,
        cfg: float,
        make: MakeGuider = RealCompoGuider,
        **more: Any,
    ) -> RealCompoGuider:
        """The pack's guider over one layout; ``make`` may be another kind, given ``more``."""
        return make(
            self.realism, self.spatial, prompted.positive, self._negative, prompted.grounded,
            self._spatial_negative, prompted.layout, prompted.tokens, cfg, settings, **more,
        )  # fmt: skip

    @torch.inference_mode()
    def draw(
        self,
        prompted: Prompted,
        seed: int,
        settings: BalancerSettings,
        size: tuple[int, int],
        steps: int,
        cfg: float,
        make: MakeGuider = RealCompoGuider,
        **more: Any,
    ) -> Shot:
        """One picture of ``size`` (width, height) pixels from the noise of ``seed``.

        Raises RealCompoError where the models give NaN, which no score could be made of.
        """
        started = time.perf_counter()
        guider = self.guider(prompted, settings, cfg, make, **more)
        empty = torch.zeros(1, 4, size[1] // LATENT_CELL, size[0] // LATENT_CELL)
        done = sample_pair(guider, {"samples": empty}, seed, steps, SAMPLER, SCHEDULER, 1.0)
        pixels = self.vae.decode(done["samples"])[0].movedim(-1, 0).float().cpu().clamp(0, 1)
        seconds = time.perf_counter() - started
        if not bool(torch.isfinite(done["samples"]).all() & torch.isfinite(pixels).all()):
            raise RealCompoError(
                "--vae" if bool(torch.isfinite(done["samples"]).all()) else "--realism",
                f"the picture of '{prompted.layout.prompt}' with seed {seed} came out as NaN",
                "Half precision may be too coarse: use models or a VAE that bear it",
            )
        return Shot(pixels.clone(), done["samples"].clone(), guider.trace, seconds)

    @torch.inference_mode()
    def shares(self, prompted: Prompted, latent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Share (R,) of each region's attention inside the region, by realism and spatial model.

        Looks at a finished ``latent`` (1, C, h, w), so that every method is measured alike. Each
        model sees its own conditioning; the spatial one is given the boxes and is the kinder judge.
        None for a model whose conditioning is not in force at that noise level.
        """
        guider = self.guider(prompted, plain_settings(initial_mix=0.95, prior_until=0.5), cfg=1.0)
        sampling = self.realism.get_model_object("model_sampling")
        sigma = float(sampling.percent_to_sigma(LOOK_PERCENT))
        noise = comfy.sample.prepare_noise(latent, LOOK_SEED)
        shares: list[Tensor | None] = []
        levels = torch.tensor([sigma, 0.0])
        guider.sample(noise, latent, _noised_look(shares), levels, disable_pbar=True, seed=0)
        realism, spatial = (None if s is None else s[0].float().cpu().clone() for s in shares)
        return realism, spatial


def _load_checkpoint(path: Path, option: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE (or None) of a checkpoint, by the host's own loader."""
    try:
        import folder_paths

        embeddings = folder_paths.get_folder_paths("embeddings")
    except ImportError:
        embeddings = None
    try:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=True, output_clip=True, embedding_directory=embeddings
        )[:3]
    # the host raises whatever its unpicklers and detectors do
    except Exception as error:
        raise RealCompoError(
            option, f"'{path.name}' cannot be loaded ({_line(error)})", "Name a whole checkpoint"
        ) from error
    if model is None or clip is None:
        gap = "diffusion model" if model is None else "text encoder"
        raise RealCompoError(
            option, f"'{path.name}' has no {gap}", "Name a whole checkpoint, not a part of one"
        )
    return model, clip, vae


def _load_vae(path: Path) -> Any:
    try:
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    except Exception as error:
        raise RealCompoError(
            "--vae", f"'{path.name}' cannot be loaded ({_line(error)})", "Name a VAE's own file"
        ) from error


def _load_gligen(path: Path) -> Any:
    try:
        return comfy.sd.load_gligen(str(path))
    except Exception as error:
        raise RealCompoError(
            "--gligen", f"'{path.name}' cannot be loaded ({_line(error)})",
            "Name a GLIGEN text box model such as gligen_sd14_textbox_pruned",
        ) from error  # fmt: skip


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _encode(clip: Any, text: str) -> Any:
    """CONDITIONING of a text, as the host's text encode node makes it."""
    tokens = clip.tokenize(text)
    if hasattr(clip, "encode_from_tokens_scheduled"):
        return clip.encode_from_tokens_scheduled(tokens)
    # hosts of 2024
    encoding, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return [[encoding, {"pooled_output": pooled}]]
