"""Training of the diffusion models: one realism model per style, and the spatial model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .grounding import ShapesGrounding
from .host_models import build_model
from .train_data import LatentSet, make_codec
from .train_grid import save_grid
from .train_maps import WordMaps, reading, stray_attention
from .train_noise import TIMESTEPS, add_noise, alphas_cumprod, noise_loss
from .train_prompts import Batches, load_text, phrase_vectors
from .train_run import Run

BATCH = 16
# Boxes are dropped with half of the dropped captions, and rarely alone: ComfyUI gives the negative
# prompt the positive prompt's boxes, so 'boxes without words' must be known too.
BOXES_DROP = (0.05, 0.5)
ATTENTION_WEIGHT = 0.05
OFFSET_PARTS = ("spatial", "sketch", "neon")
# A night is far from the mean of all latents, and at high noise, where tint is decided, the noise
# loss hardly feels it: the error of the clean latent's mean has a weight of its own.
TINT_WEIGHT = {"neon": 0.1}
STYLE_OF = {"spatial": "plain", "realism": "realistic", "sketch": "sketch", "neon": "neon"}
ROUNDED_BOXES = 0.3


def initialise(unet: nn.Module) -> None:
    """The host leaves weights unset: torch's defaults, and zero for what ends a residual branch."""
    kinds: tuple[Any, ...] = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    for module in unet.modules():
        for kind in kinds:
            if isinstance(module, kind):
                # torch's own method: the host's classes do nothing in theirs
                kind.reset_parameters(module)
    for name, parameter in unet.named_parameters():
        last = ".out_layers.3." in name or ".proj_out." in name
        if last or name.startswith("out.2."):
            nn.init.zeros_(parameter)


class Trainee(nn.Module):
    """UNet of ComfyUI and, for the spatial model, its grounding module."""

    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.unet = build_model().diffusion_model
        initialise(self.unet)
        self.grounding = ShapesGrounding() if spatial else None
        self.train().requires_grad_(True)

    @property
    def has_boxes(self) -> bool:
        """Whether it is given phrases and boxes."""
        return self.grounding is not None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        phrases: Tensor | None,
        boxes: Tensor | None,
        maps: WordMaps | None = None,
    ) -> Tensor:
        """Predicted noise (B, 16, h, w) for noisy latents at integer timesteps ``t`` (B,)."""
        options: dict[str, Any] = reading(self.unet, maps)
        if self.grounding is not None:
            if phrases is None or boxes is None:
                raise ValueError("The spatial model needs phrases and boxes.")
            options["patches"] = {"middle_patch": [self.grounding.hook(phrases, boxes, x.shape)]}
        return self.unet(x, t.float(), context=context, transformer_options=options)


def _varied_boxes(
    boxes: Tensor, dropped: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Boxes (B, 4, 4) as the spatial model is given them, and (B,) which pictures have none."""
    count = len(boxes)
    # Stock GLIGEN nodes round boxes to latent cells: the model must not mind.
    rounded = torch.rand((count, 1, 1), generator=generator) < ROUNDED_BOXES
    given = torch.where(rounded, (boxes * 16).round() / 16, boxes)
    chance = torch.where(dropped, BOXES_DROP[1], BOXES_DROP[0])
    unplaced = torch.rand(count, generator=generator) < chance
    return torch.where(unplaced[:, None, None], torch.zeros(()), given), unplaced


def train_diffusion(
    part: str,
    folder: Path,
    minutes: float,
    steps: int | None,
    resume: bool,
    grid_every: int,
    start: Path | None = None,
) -> None:
    """Train one of ``STYLE_OF`` on the latents in ``folder``; needs the text stage's result.

    ``start``: a checkpoint of the same or another part whose weights training goes out from.
    """
    seed = list(STYLE_OF).index(part)
    torch.manual_seed(21 + seed)
    text = load_text(folder)
    data = LatentSet(folder, STYLE_OF[part], 2048)
    model = Trainee(part == "spatial")
    if start is not None:
        model.load_state_dict(torch.load(start)["averaged_model"])
    run = Run(part, folder, model, 1e-3, 31 + seed, minutes, steps, resume, BATCH)
    batches = Batches(data, run.generator)
    codec = make_codec(folder)
    alphas = alphas_cumprod()
    for step in data.refreshed(run.steps()):
        latents, prompts, _ = batches.draw(BATCH)
        dropped, tokens, owners = prompts.dropped(run.generator)
        t = torch.randint(TIMESTEPS, (BATCH,), generator=run.generator)
        noisy, noise = add_noise(latents, alphas[t], run.generator, part in OFFSET_PARTS)
        with torch.no_grad():
            context, _ = text(tokens)
        phrases = boxes = None
        unplaced = torch.ones(BATCH, dtype=torch.bool)
        if model.has_boxes:
            phrases = phrase_vectors(text(prompts.tokens)[1], prompts)
            boxes, unplaced = _varied_boxes(prompts.boxes, dropped, run.generator)
        maps = WordMaps()
        # Two thirds of the time of single precision where the processor knows bfloat16.
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noisy, t, context, phrases, boxes, maps).float()
        snr = alphas[t] / (1 - alphas[t])
        loss, error = noise_loss(guess, noise, snr)
        tint = ((guess - noise).mean((2, 3)).square().mean(1) / snr).mean()
        # Without boxes places cannot be known at high noise: maps must be less sure there.
        trust = torch.where(unplaced, alphas[t], 1.0)
        stray, share = stray_attention(maps.each, prompts.boxes, owners, prompts.groups, trust)
        run.update(
            loss + ATTENTION_WEIGHT * stray + TINT_WEIGHT.get(part, 0.0) * tint,
            {"mse": error, "tint": tint, "stray": stray, "share": share},
        )
        if grid_every and (step + 1) % grid_every == 0:
            with run.averaged():
                save_grid(folder, f"{part}_{step + 1:06d}.png", model, text, codec)
