"""Run a pair of tiny models through the guider, or one of them through the host's own sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import BalancerSettings

from . import tiny

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from realcompo.balancer.comfy.realcompo.guider import RealCompoGuider
    from realcompo.balancer.comfy.realcompo.probe_request import ProbeResult

BOXES = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0)]
TOKENS = ((2, 3), (5,))
LAYOUT = Layout(
    regions=tuple(
        Region(f"thing {n}", box, tokens=tokens)
        for n, (box, tokens) in enumerate(zip(BOXES, TOKENS, strict=True))
    )
)
CFG = 4.0


def guider(
    realism: ModelPatcher,
    spatial: ModelPatcher,
    settings: BalancerSettings,
    positive: Any = None,
    negative: Any = None,
    spatial_positive: Any = None,
    spatial_negative: Any = None,
    cfg: float = CFG,
    layout: Layout | list[Layout] = LAYOUT,
    tokens: Any = None,
) -> RealCompoGuider:
    """A guider of the pair; conditioning defaults to two random prompts, tokens to the layout's."""
    from realcompo.balancer.comfy.realcompo.guider import RealCompoGuider

    positive = tiny.conditioning(3) if positive is None else positive
    negative = tiny.conditioning(4) if negative is None else negative
    if isinstance(layout, Layout):
        tokens = tuple(region.tokens or () for region in layout.regions)
    return RealCompoGuider(
        realism, spatial, positive, negative,
        positive if spatial_positive is None else spatial_positive,
        negative if spatial_negative is None else spatial_negative,
        layout, tokens, cfg, settings,
    )  # fmt: skip


def probed(
    model: Any,
    entry: dict[str, Any],
    x: torch.Tensor,
    sigma: float,
    factor: int = 2,
    options: dict[str, Any] | None = None,
    layout: Layout = LAYOUT,
    tokens: Any = TOKENS,
) -> ProbeResult | None:
    """One probe of the host's ``model`` at ``x`` by a conditioning entry that is processed."""
    from realcompo.balancer.attention.regions import LayoutBatch
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.realcompo.probe import Probe
    from realcompo.balancer.comfy.realcompo.probe_request import ProbeRequest

    probe = Probe(LayoutBatch.of(layout, tokens), find_sites(model.diffusion_model), factor)
    at = torch.full((x.shape[0],), sigma)
    return probe.run(ProbeRequest(model, entry, x, 1.0, at, options or {}))


def sigmas_for(
    model: ModelPatcher, steps: int, sampler: str = "euler", denoise: float = 1.0
) -> torch.Tensor:
    """The sigmas that the host's KSampler uses with scheduler normal."""
    import comfy.samplers

    return comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler, scheduler="normal",
        denoise=denoise, model_options=model.model_options,
    ).sigmas  # fmt: skip


def run(
    pair: RealCompoGuider,
    noise: torch.Tensor,
    steps: int = 6,
    sampler: str = "euler",
    latent: torch.Tensor | None = None,
    denoise: float = 1.0,
    mask: torch.Tensor | None = None,
    callback: Any = None,
    seed: int = 1,
) -> torch.Tensor:
    """Sample with the guider, inside inference mode as the host's executor has it."""
    import comfy.samplers

    sigmas = sigmas_for(pair.model_patcher, steps, sampler, denoise)
    latent = torch.zeros_like(noise) if latent is None else latent
    # hosts of 2024 draw ancestral noise from the global generator
    torch.manual_seed(seed)
    with torch.inference_mode():
        return pair.sample(
            noise, latent, comfy.samplers.sampler_object(sampler), sigmas,
            denoise_mask=mask, callback=callback, disable_pbar=True, seed=seed,
        )  # fmt: skip


def run_alone(
    model: ModelPatcher,
    noise: torch.Tensor,
    steps: int = 6,
    sampler: str = "euler",
    positive: Any = None,
    negative: Any = None,
    latent: torch.Tensor | None = None,
    denoise: float = 1.0,
    mask: torch.Tensor | None = None,
    cfg: float = CFG,
    seed: int = 1,
) -> torch.Tensor:
    """Sample with the host's own KSampler and one model."""
    import comfy.samplers

    positive = tiny.conditioning(3) if positive is None else positive
    negative = tiny.conditioning(4) if negative is None else negative
    latent = torch.zeros_like(noise) if latent is None else latent
    torch.manual_seed(seed)
    with torch.inference_mode():
        return comfy.samplers.sample(
            model, noise, positive, negative, cfg, model.load_device,
            comfy.samplers.sampler_object(sampler), sigmas_for(model, steps, sampler, denoise),
            model.model_options, latent_image=latent, denoise_mask=mask, disable_pbar=True,
            seed=seed,
        )  # fmt: skip
