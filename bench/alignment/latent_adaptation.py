"""Separate-and-Enhance's losses at test time: the latent is moved, no weight is trained.

The comparison of the paper (its last table) beside finetuning; the details are not public, so this
is the plain form of such methods (Chefer et al. 2023, arXiv 2301.13826): before each of the first
steps one move of the latent along the gradient of the losses, then the host's Euler step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.samplers
import torch
from torch import Tensor

from ...balancer.attention.losses import enhance_loss, separate_loss
from ...balancer.comfy.finetune.separation import Prepared, SeparationSettings, prepare, read_heads
from ...balancer.comfy.finetune.session import Encoded, Session, encode, in_session
from ...balancer.finetune.prompts import TrainingPrompt
from ..pictures import CFG, SCHEDULER, SIDE, STEPS, Drawn, PromptedScene, Studio

FACTOR = 2
"""Maps at half the latent's sides, where the demo's models have four of their five sites."""


@dataclass(frozen=True)
class Adaptation:
    """``strength``: length of a move as a share of the noise level (root mean square);
    ``until``: part of the steps (0..1) that begin with one."""

    strength: float = 0.1
    until: float = 0.5
    losses: SeparationSettings = field(default_factory=SeparationSettings)


SHAPES_ADAPTATION = Adaptation(strength=0.03)
"""Chosen on pairs to train on; with moves of 0.2 pictures fall apart."""


def adapted(
    studio: Studio,
    prompts: Sequence[PromptedScene],
    adaptation: Adaptation,
    batch: int = 32,
    steps: int = STEPS,
    cfg: float = CFG,
) -> Drawn:
    """One picture per scene, by the studio's realism model from the scenes' own noise."""
    model = studio.realism
    sigmas = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler="euler", scheduler=SCHEDULER,
        denoise=1.0, model_options=model.model_options,
    ).sigmas  # fmt: skip
    empty = encode(studio.clip, "")
    began, forwards, backwards = time.perf_counter(), 0, 0
    pictures = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        wanted = [TrainingPrompt(one.layout.prompt, tuple(one.scene.phrases)) for one in some]
        prepared = prepare(studio.clip, wanted, singles=False)
        noise = studio.noise(some)
        made: list[Tensor] = []

        def work(session: Session, noise: Tensor = noise, prepared: list[Prepared] = prepared,
                 made: list[Tensor] = made) -> None:  # fmt: skip
            nonlocal forwards, backwards
            levels = sigmas.to(session.device)
            x = session.sampling.noise_scaling(levels[0], noise, torch.zeros_like(noise), True)
            for number in range(steps):
                sigma = levels[number].expand(len(x))
                if number < adaptation.until * steps:
                    x = _moved(session, x, sigma, prepared, adaptation)
                    backwards += len(x)
                clean = _guided(session, x, sigma, prepared, empty, cfg)
                x = clean + (x - clean) * (levels[number + 1] / levels[number])
            forwards += session.forwards
            made.append(session.model.process_latent_out(x))

        in_session(model, (SIDE, SIDE), len(some), some[0].seed, work)
        with torch.inference_mode():
            pictures.append(studio.vae.decode(made[0]).permute(0, 3, 1, 2).clamp(0, 1).clone())
    count = len(prompts)
    spent = (time.perf_counter() - began) / count
    return Drawn(torch.cat(pictures), forwards / count, 0.0, backwards / count, spent)


def _moved(
    session: Session,
    x: Tensor,
    sigma: Tensor,
    prepared: Sequence[Prepared],
    adaptation: Adaptation,
) -> Tensor:
    """``x`` one move nearer to small losses; every sample by the same length."""
    losses = adaptation.losses
    x = x.detach().requires_grad_(True)
    maps = read_heads(session, x, sigma, prepared, FACTOR)
    loss = losses.separate * separate_loss(maps, losses.form, losses.peak)
    loss = loss + losses.enhance * enhance_loss(maps, losses.peak)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    size = slope.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return x.detach() - adaptation.strength * sigma[:, None, None, None] * slope / size


@torch.no_grad()
def _guided(
    session: Session,
    x: Tensor,
    sigma: Tensor,
    prepared: Sequence[Prepared],
    empty: Encoded,
    cfg: float,
) -> Tensor:
    conditional = session.predict(x, sigma, [one.encoded for one in prepared])
    unconditional = session.predict(x, sigma, [empty] * len(x))
    assert conditional is not None and unconditional is not None
    return unconditional + cfg * (conditional - unconditional)
