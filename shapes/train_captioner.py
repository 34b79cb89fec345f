"""Training stage of the captioner: pictures of all styles with captions of what is in them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .captioner import PATCH, SIDE, WIDTH, blip_config, caption_ids
from .render import render
from .train_data import atomic_save, read_scene
from .train_run import Run
from .train_style import style_codec
from .world import COLOURS, OPPOSITE, SHAPES, Scene, ShapeObject, make_caption, make_scenes

BATCH = 48
POOL = {"realistic": 6144, "sketch": 2560, "neon": 2560, "plain": 1024}
POOL_SEED = 8_000_009
# Diffusion models do not hit latents exactly, and a guess at the clean picture from the middle of
# sampling is soft: noise in the latents of half of the pictures, blur on a quarter of them.
LATENT_NOISE = 0.4
BLURRED = 0.25
SHIFT = 6
TINT = 0.08
GRAIN = 0.05
# What every patch shows is learned as well while training: from captions alone a network needs many
# times as many pictures until it first looks at them. The head that answers is thrown away.
PATCH_WEIGHT = 1.0
# Most patches show nothing, and that is soon learned.
NOTHING_WEIGHT = 0.05
INNER, OUTER = 0.6, 1.25
NOTHING, UNSURE = len(COLOURS) * len(SHAPES), -100


@torch.no_grad()
def _pool(folder: Path) -> tuple[Tensor, list[Scene]]:
    """(N, 3, 128, 128) uint8 pictures after the codec and their scenes; drawn once."""
    path = folder / "captioner_pictures.pt"
    if path.exists():
        saved = torch.load(path)
        return saved["pictures"], [read_scene(scene) for scene in json.loads(saved["scenes"])]
    codec = style_codec(folder)
    generator = torch.Generator().manual_seed(POOL_SEED)
    pictures, scenes = [], []
    for style, count in POOL.items():
        for _ in range(0, count, 64):
            some = make_scenes(64, generator)
            latents = codec.encode(render(some, style, generator) * 2 - 1)
            strength = torch.rand((64, 1, 1, 1), generator=generator) ** 2 * LATENT_NOISE
            strength = strength * (torch.rand((64, 1, 1, 1), generator=generator) < 0.5)
            latents += strength * torch.randn(latents.shape, generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                drawn = (codec.decode(latents) + 1) / 2
            pictures.append((drawn.float().clamp(0, 1) * 255).round().byte())
            scenes += some
    listed = json.dumps([asdict(scene) for scene in scenes])
    atomic_save({"pictures": torch.cat(pictures), "scenes": listed}, path)
    return torch.cat(pictures), scenes


def _mirrored(scene: Scene) -> Scene:
    """The scene seen in a mirror: what was left is right."""

    def turned(thing: ShapeObject) -> ShapeObject:
        x0, y0, x1, y1 = thing.box
        return replace(thing, box=(1 - x1, y0, 1 - x0, y1))

    relation = scene.relation
    if relation is not None and relation.place in ("left", "right"):
        relation = replace(relation, place=OPPOSITE[relation.place])
    return Scene(tuple(map(turned, scene.objects)), scene.kind, relation)


def patch_classes(scenes: Sequence[Scene], right: int = 0, down: int = 0) -> Tensor:
    """(B, 64) colour and shape that each patch lies well inside of, ``NOTHING`` or ``UNSURE``.

    ``right`` and ``down``: by how many pixels the pictures were moved.
    """
    cells = SIDE // PATCH
    centre = (torch.arange(cells) + 0.5) / cells
    across, upright = centre - right / SIDE, centre - down / SIDE
    result = torch.full((len(scenes), cells, cells), NOTHING)
    for row, scene in enumerate(scenes):
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
            pair = COLOURS.index(thing.colour) * len(SHAPES) + SHAPES.index(thing.shape)
            down_off, across_off = (upright - y).abs() / half_y, (across - x).abs() / half_x
            off = torch.maximum(down_off[:, None], across_off)
            result[row][off < OUTER] = UNSURE
            result[row][off < INNER] = pair
    return result.flatten(1)


def _blurred(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the pictures made smaller, down to less than half, and large again, softly."""
    chosen = torch.rand(len(pictures), generator=generator) < BLURRED
    side = int(torch.randint(56, 112, (1,), generator=generator))
    small = F.interpolate(pictures[chosen], (side, side), mode="bilinear", antialias=True)
    pictures = pictures.clone()
    pictures[chosen] = F.interpolate(small, (SIDE, SIDE), mode="bilinear")
    return pictures


class Batches:
    """Random batches of changed pictures, their captions and what their patches show."""

    def __init__(self, pictures: Tensor, scenes: list[Scene], generator: torch.Generator) -> None:
        self.pictures, self.scenes, self.generator = pictures, scenes, generator
        # Drawn once and read from a random place on: drawing takes long. Of a seed of its own, so
        # that a resumed training has the same.
        own = torch.Generator().manual_seed(POOL_SEED + 1)
        self.noise = torch.randn(8_000_000, generator=own)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, 128, 128) in -1..1, (B, T) token ids, their mask, (B, 64) patch classes."""
        generator = self.generator
        index = torch.randint(len(self.scenes), (count,), generator=generator)
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        scenes = [self.scenes[i] for i in index.tolist()]
        # The same move for all of them, and the first half in a mirror: a choice for each picture
        # would take as long as the training itself.
        half = count // 2
        scenes = [*map(_mirrored, scenes[:half]), *scenes[half:]]
        pictures = self.pictures[index].float() / 255
        pictures[:half] = pictures[:half].flip(3)
        right, down = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        pictures = F.pad(pictures, (SHIFT,) * 4, mode="replicate")
        pictures = pictures[..., SHIFT - down :, SHIFT - right :][..., :SIDE, :SIDE]
        pictures = _blurred(pictures, generator)
        gain = 1 + TINT * (torch.rand((count, 3, 1, 1), generator=generator) * 2 - 1)
        tint = TINT / 2 * (torch.rand((count, 3, 1, 1), generator=generator) * 2 - 1)
        grain = torch.rand((count, 1, 1, 1), generator=generator) ** 2 * GRAIN
        start = int(torch.randint(len(self.noise) - pictures.numel(), (1,), generator=generator))
        noise = self.noise[start : start + pictures.numel()].view_as(pictures)
        pictures = (pictures * gain + tint + grain * noise).clamp(0, 1)
        ids, mask = caption_ids([make_caption(scene, rng).words for scene in scenes])
        return pictures * 2 - 1, ids, mask, patch_classes(scenes, right, down)


class Trainee(nn.Module):
    """The captioner and the head that names patches."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BlipForConditionalGeneration

        # the library's own types know nothing of a model's parts
        self.blip: Any = BlipForConditionalGeneration(blip_config()).train()
        self.patches = nn.Linear(WIDTH, NOTHING + 1)

    def forward(self, pictures: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss per word and (B, 64, 31) logits of the patches."""
        out = self.blip(
            pixel_values=pictures,
            input_ids=ids,
            attention_mask=mask,
            labels=ids.masked_fill(mask == 0, UNSURE),
        )
        return out.loss, self.patches(out.image_embeds[:, 1:])


@torch.no_grad()
def start_well(model: Trainee, pictures: Tensor) -> None:
    """Start values with which the vision part learns to look around sooner than from noise.

    Patches enter as the principal components of patches of ``pictures`` (B, 3, 128, 128, uint8),
    since random filters see mostly grain. Places are given by waves across and down, and queries
    are what keys are, so that from the start every patch looks at near ones like itself
    (Trockman and Kolter 2023, arXiv 2305.09828, without their noise).
    """
    patches = F.unfold(pictures.float() / 127.5 - 1, PATCH, stride=PATCH)
    patches = patches.transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh(torch.cov((patches - mean).T.double()))
    vision = model.blip.vision_model
    layer = vision.embeddings.patch_embedding
    width = layer.out_channels
    spread = variance.flip(0)[:width].clamp(min=1e-8).sqrt().float()
    filters = vectors.flip(1)[:, :width].T.float() / (spread * spread.mean()).sqrt()[:, None]
    layer.weight.copy_(filters.view_as(layer.weight))
    layer.bias.copy_(-filters @ mean)
    cells = SIDE // PATCH
    rates = cells ** -(torch.arange(width // 4) / (width // 4)) * math.pi / 2
    waves = torch.arange(cells)[:, None] * rates
    waves = torch.cat((waves.sin(), waves.cos()), 1)
    down = waves[:, None].expand(-1, cells, -1)
    across = waves[None].expand(cells, -1, -1)
    vision.embeddings.position_embedding[0, 1:] = torch.cat((down, across), 2).flatten(0, 1)
    for block in vision.encoder.layers:
        query, key, _ = block.self_attn.qkv.weight.chunk(3)
        query.mul_(1.5)
        key.copy_(query)


def train_captioner(folder: Path, minutes: float, steps: int | None, resume: bool) -> None:
    """Teacher-forced word loss, and the patches' classes beside it.

    ``wrong`` in the log is the share of patches, where there is an object, that were not named.
    """
    pictures, scenes = _pool(folder)
    torch.manual_seed(81)
    model = Trainee()
    start_well(model, pictures[:: max(len(pictures) // 1024, 1)])
    run = Run("captioner", folder, model, 2e-3, 82, minutes, steps, resume, BATCH)
    batches = Batches(pictures, scenes, run.generator)
    weights = torch.ones(NOTHING + 1)
    weights[NOTHING] = NOTHING_WEIGHT
    for _ in run.steps():
        drawn, ids, mask, wanted = batches.draw(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            words, seen = model(drawn, ids, mask)
        seen = seen.float().flatten(0, 1)
        target = wanted.flatten()
        patches = F.cross_entropy(seen, target, weights, ignore_index=UNSURE)
        things = (target != UNSURE) & (target != NOTHING)
        wrong = (seen.detach().argmax(1) != target)[things].float().mean()
        run.update(
            words.float() + PATCH_WEIGHT * patches,
            {
                "words": float(words.detach()),
                "patches": float(patches.detach()),
                "wrong": float(wrong),
            },
        )
