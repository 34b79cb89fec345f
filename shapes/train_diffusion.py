"""Training of the diffusion models: one realism model per style, and the spatial model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .grounding import ShapesGrounding, box_coverage
from .host_models import build_model
from .train_data import LatentSet, make_codec
from .train_run import Run
from .train_text import CaptionTokens, CompactText, known_ids
from .world import Scene

BATCH = 16
TIMESTEPS = 1000
SNR_LIMIT = 5.0
CAPTION_DROP = 0.1
# Boxes are dropped with half of the dropped captions, and rarely alone: ComfyUI gives the negative
# prompt the positive prompt's boxes, so 'boxes without words' must be known too.
BOXES_DROP = (0.05, 0.5)
ATTENTION_WEIGHT = 0.05
OFFSET_NOISE = 0.15
OFFSET_PARTS = ("spatial", "sketch", "neon")
# A night is far from the mean of all latents, and at high noise, where tint is decided, the noise
# loss hardly feels it: the error of the clean latent's mean is asked for by itself.
TINT_WEIGHT = {"neon": 0.1}
STYLE_OF = {"spatial": "plain", "realism": "realistic", "sketch": "sketch", "neon": "neon"}
ROUNDED_BOXES = 0.3
MOST_OBJECTS = 4
SITES = [("input", i) for i in range(12)] + [("middle", i) for i in range(3)]
SITES += [("output", i) for i in range(12)]


def initialise(unet: nn.Module) -> None:
    """The host leaves weights unset: torch's defaults, and zero for what ends a residual branch."""
    for module in unet.modules():
        for kind in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm):
            if isinstance(module, kind):
                kind.reset_parameters(module)
    for name, parameter in unet.named_parameters():
        last = ".out_layers.3." in name or ".proj_out." in name
        if last or name.startswith("out.2."):
            nn.init.zeros_(parameter)


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's noise schedule: betas linear in their square root, .00085 to .012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def add_noise(
    latents: Tensor, alpha: Tensor, generator: torch.Generator, offset: bool
) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) with the signal's share ``alpha`` (B,), and the noise in them.

    ``offset``: the noise gets a random mean per channel. Without it the mean of the start noise is
    read as the tint of an even background.
    """
    noise = torch.randn(latents.shape, generator=generator)
    if offset:
        shift = torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        noise = noise + OFFSET_NOISE * shift
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, noise


class MapRecorder:
    """Cross-attention through ComfyUI's ``attn2`` replacement hook, keeping head-averaged maps."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []
        self.options = {"patches_replace": {"attn2": dict.fromkeys(SITES, self)}}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        """Plain softmax attention; the maps (B, P, T) are kept with their gradient."""
        batch, cells, width = query.shape
        heads = extra["n_heads"]
        query, key, value = (
            t.view(batch, -1, heads, width // heads).transpose(1, 2) for t in (query, key, value)
        )
        weights = (query @ key.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
        self.maps.append(weights.mean(1))
        return (weights @ value).transpose(1, 2).reshape(batch, cells, width)


def map_shares(
    maps: Sequence[Tensor], boxes: Tensor, owners: Tensor, groups: Tensor
) -> list[Tensor]:
    """In-box share of every word's map: a list of (B, T), zero where no word is grounded.

    ``boxes`` (B, 4, 4), ``owners`` (B, T) the group of each token or -1, ``groups`` (B, 4) the
    group of each box: a word counts as inside in any box of its group.
    """
    together = (groups[:, :, None] == torch.arange(MOST_OBJECTS)).float()
    shares = []
    index = owners.clamp(min=0)
    for weights in maps:
        side = int(weights.shape[1] ** 0.5)
        cover = together.transpose(1, 2) @ box_coverage(boxes, side, side).flatten(2)
        inside = torch.gather(cover, 1, index[..., None].expand(-1, -1, cover.shape[2]))
        column = weights.transpose(1, 2)
        shares.append((column * inside).sum(2) / column.sum(2).clamp(min=1e-8) * (owners >= 0))
    return shares


class Asked(NamedTuple):
    """A batch of captions: (B, 77) ``tokens`` and ``owners`` (the group each speaks of, or -1),
    (B, 4, 4) ``boxes`` (zeros: absent) and (B, 4) ``groups`` of the boxes (-1: absent)."""

    tokens: Tensor
    owners: Tensor
    boxes: Tensor
    groups: Tensor


class Batches:
    """Random batches: latents and what is asked for."""

    def __init__(self, data: LatentSet, generator: torch.Generator) -> None:
        self.data, self.generator, self.captions = data, generator, CaptionTokens()

    def draw(self, count: int) -> tuple[Tensor, Asked, list[Scene]]:
        """(B, 16, 16, 16) latents, their captions and scenes."""
        index = torch.randint(len(self.data.scenes), (count,), generator=self.generator)
        rng = random.Random(int(torch.randint(2**62, (1,), generator=self.generator)))
        scenes = [self.data.scenes[i] for i in index.tolist()]
        return self.data.latents[index].float(), encode_scenes(self.captions, scenes, rng), scenes


def encode_scenes(captions: CaptionTokens, scenes: Sequence[Scene], rng: random.Random) -> Asked:
    """Random captions of scenes, with their boxes."""
    drawn = [captions.draw(scene, rng) for scene in scenes]
    boxes = torch.zeros(len(scenes), MOST_OBJECTS, 4)
    groups = torch.full((len(scenes), MOST_OBJECTS), -1)
    for row, scene in enumerate(scenes):
        count = len(scene.objects)
        boxes[row, :count] = torch.tensor([thing.box for thing in scene.objects])
        groups[row, :count] = torch.tensor(scene.groups)
    tokens, owners = (torch.tensor(column) for column in zip(*drawn, strict=True))
    return Asked(tokens, owners, boxes, groups)


def phrase_vectors(meaning: Tensor, asked: Asked) -> Tensor:
    """(B, 4, 64) vector of each box's noun, which is the last token that speaks of its group."""
    count, _, width = meaning.shape
    result = torch.zeros(count, MOST_OBJECTS, width)
    for number in range(MOST_OBJECTS):
        group = asked.groups[:, number, None]
        hits = (asked.owners == group) & (group >= 0)
        last = hits.shape[1] - 1 - hits.flip(1).int().argmax(1)
        result[:, number] = meaning[torch.arange(count), last] * hits.any(1, keepdim=True)
    return result


def load_text(folder: Path) -> CompactText:
    """The frozen text encoder of a training folder."""
    saved = torch.load(folder / "text.pt")["averaged_model"]
    text = CompactText(known_ids(CaptionTokens().ids))
    text.load_state_dict({k[5:]: v for k, v in saved.items() if k.startswith("text.")})
    return text.eval().requires_grad_(False)


class Trainee(nn.Module):
    """UNet of ComfyUI and, for the spatial model, its grounding module."""

    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.unet = build_model().diffusion_model
        initialise(self.unet)
        self.grounding = ShapesGrounding() if spatial else None
        self.train().requires_grad_(True)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        phrases: Tensor | None,
        boxes: Tensor | None,
        recorder: MapRecorder | None = None,
    ) -> Tensor:
        """Predicted noise (B, 16, h, w) for noisy latents at integer timesteps ``t`` (B,)."""
        options: dict[str, Any] = dict(recorder.options) if recorder else {}
        if self.grounding is not None:
            hook = self.grounding.hook(phrases, boxes, x.shape)
            options["patches"] = {"middle_patch": [hook]}
        return self.unet(x, t.float(), context=context, transformer_options=options)


@torch.no_grad()
def sample(
    model: Trainee,
    text: CompactText,
    asked: Asked,
    seed: int,
    steps: int = 25,
    guidance: float = 3.0,
) -> Tensor:
    """Latents by DDIM (Song et al. 2021, Eq. 12 with eta 0) with classifier-free guidance."""
    alphas = alphas_cumprod()
    count = len(asked.tokens)
    context, meaning = text(asked.tokens)
    empty, _ = text(encode_empty(count))
    both = torch.cat((context, empty))
    phrases = boxes2 = None
    if model.grounding is not None:
        # As in ComfyUI, the empty prompt keeps the boxes.
        phrases = phrase_vectors(meaning, asked).repeat(2, 1, 1)
        boxes2 = asked.boxes.repeat(2, 1, 1)
    x = torch.randn((count, 16, 16, 16), generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(TIMESTEPS - 1, 0, steps).round().long()
    for place, t in enumerate(times):
        noise = model(torch.cat((x, x)), t.repeat(2 * count), both, phrases, boxes2)
        told, free = noise.chunk(2)
        noise = free + guidance * (told - free)
        now = alphas[t]
        after = alphas[times[place + 1]] if place + 1 < steps else torch.ones(())
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * noise
    return x


def encode_empty(count: int) -> Tensor:
    """(count, 77) token ids of the empty prompt."""
    from .text import CONTEXT_LENGTH, END, START

    return torch.tensor([[START] + [END] * (CONTEXT_LENGTH - 1)]).repeat(count, 1)


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
    from .train_grid import save_grid

    spatial = part == "spatial"
    seed = list(STYLE_OF).index(part)
    torch.manual_seed(21 + seed)
    text = load_text(folder)
    data = LatentSet(folder, STYLE_OF[part], 2048)
    model = Trainee(spatial)
    if start is not None:
        model.load_state_dict(torch.load(start)["averaged_model"])
    run = Run(part, folder, model, 1e-3, 31 + seed, minutes, steps, resume, BATCH)
    batches = Batches(data, run.generator)
    codec = make_codec(folder)
    alphas = alphas_cumprod()
    random_ = run.generator
    for step in run.steps():
        if step % 400 == 399:
            data.refresh()
        latents, asked, _ = batches.draw(BATCH)
        boxes = asked.boxes
        dropped = torch.rand(BATCH, generator=random_) < CAPTION_DROP
        tokens = torch.where(dropped[:, None], encode_empty(BATCH), asked.tokens)
        owners = torch.where(dropped[:, None], -1, asked.owners)
        t = torch.randint(TIMESTEPS, (BATCH,), generator=random_)
        noisy, noise = add_noise(latents, alphas[t], random_, part in OFFSET_PARTS)
        with torch.no_grad():
            context, _ = text(tokens)
        phrases = told = None
        unplaced = torch.ones(BATCH, dtype=torch.bool)
        if spatial:
            phrases = phrase_vectors(text(asked.tokens)[1], asked)
            # Stock GLIGEN nodes round boxes to latent cells: the model must not mind.
            rounded = torch.rand((BATCH, 1, 1), generator=random_) < ROUNDED_BOXES
            told = torch.where(rounded, (boxes * 16).round() / 16, boxes)
            chance = torch.where(dropped, BOXES_DROP[1], BOXES_DROP[0])
            unplaced = torch.rand(BATCH, generator=random_) < chance
            told = torch.where(unplaced[:, None, None], torch.zeros(()), told)
        recorder = MapRecorder()
        # Two thirds of the time of single precision where the processor knows bfloat16.
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noisy, t, context, phrases, told, recorder).float()
        snr = alphas[t] / (1 - alphas[t])
        weight = (SNR_LIMIT / snr).clamp(max=1.0)
        error = (guess - noise).square().mean((1, 2, 3))
        tint = ((guess - noise).mean((2, 3)).square().mean(1) / snr).mean()
        # Without boxes places cannot be known at high noise: maps are asked for less there.
        trust = torch.where(unplaced, alphas[t], 1.0)
        grounded = (owners >= 0).float()
        total = grounded.sum().clamp(min=1)
        shares = map_shares(recorder.maps, boxes, owners, asked.groups)
        share = torch.stack(shares).mean(0)
        stray = ((grounded - share) * trust[:, None]).sum() / total
        run.update(
            (weight * error).mean() + ATTENTION_WEIGHT * stray + TINT_WEIGHT.get(part, 0.0) * tint,
            {
                "mse": float(error.detach().mean()),
                "tint": float(tint.detach()),
                "stray": float(stray.detach()),
                "share": float(share.detach().sum() / total),
            },
        )
        if grid_every and (step + 1) % grid_every == 0:
            run.average.swap()
            save_grid(folder, f"{part}_{step + 1:06d}.png", model, text, codec)
            run.average.swap()
