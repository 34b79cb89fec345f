"""Training stage of the style judge: pictures whose share of each style is known at every pixel."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .codec import ShapesCodec
from .render import render
from .style import STRIDE, TOOL, WEIGHTS, StyleNet
from .train_data import atomic_save
from .train_run import Run
from .weights_file import read_file
from .world import STYLES, make_scenes

SCENES = 256
BATCH = 24
SIDE = 64
POOL_SEED = 6_000_011
LATENT_NOISE = 0.3
# How a picture is put together: one style, an even blend, things of one style before another's
# background, or a blend that drifts from place to place. Mostly one style: with fewer of them the
# net reads a pure picture as 'nearly all', for it cannot tell the last tenth of a blend.
MIXES = {"pure": 0.6, "blend": 0.2, "composite": 0.15, "drift": 0.05}
# The realistic style looks different every time and so takes more examples to know.
FIRST = {"realistic": 1.5, "plain": 1.0, "sketch": 1.0, "neon": 1.0}
SAME_SCENE = 0.8
# What any picture may suffer without changing its style: share of pictures and largest strength,
# mostly far less of it.
GRAIN = (0.5, 0.15)
BLUR = (0.3, 1.3)
TINT = (0.5, 0.08)
BLOCKS = (0.3, 0.10)


def _uniform(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=generator)


def style_codec(folder: Path) -> ShapesCodec:
    """The training folder's codec; the exported one where that stage has not run there."""
    codec, path = ShapesCodec(), folder / "codec.pt"
    if path.exists():
        codec.load_state_dict(torch.load(path)["averaged_model"])
    else:
        print("style: no codec.pt in the folder, so pictures go through the exported codec")
        codec.load_state_dict(read_file(WEIGHTS / "codec.safetensors", "weights", TOOL)[0])
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def _pool(folder: Path) -> Tensor:
    """(scenes, 4 styles, 2, 3, 128, 128) uint8: each drawing as it is and after the codec.

    Half of the codec's latents carry noise, as a diffusion model's do. Drawn once per codec.
    """
    codec = style_codec(folder)
    parts = [value.numpy().tobytes() for value in codec.state_dict().values()]
    mark = hashlib.sha256(b"".join(parts)).hexdigest()
    path = folder / "style_pictures.pt"
    if path.exists():
        saved = torch.load(path)
        if saved["codec"] == mark:
            return saved["pictures"]
    generator = torch.Generator().manual_seed(POOL_SEED)
    pool = torch.empty((SCENES, len(STYLES), 2, 3, 128, 128), dtype=torch.uint8)
    for start in range(0, SCENES, 32):
        scenes = make_scenes(32, generator)
        for number, style in enumerate(STYLES):
            clean = render(scenes, style, generator)
            latents = codec.encode(clean * 2 - 1)
            strength = _uniform(generator, (32, 1, 1, 1)) ** 2 * LATENT_NOISE
            strength = strength * (_uniform(generator, (32, 1, 1, 1)) < 0.5)
            latents += strength * torch.randn(latents.shape, generator=generator)
            back = codec.pictures(latents)
            both = torch.stack((clean, back), 1)
            pool[start : start + 32, number] = (both * 255).round().byte()
    atomic_save({"codec": mark, "pictures": pool}, path)
    return pool


def _blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, 3, H, W), each picture with its own ``sigma`` (B,) in pixels."""
    offsets = torch.arange(-4, 5).float()
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None].clamp(min=1e-3) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None, None]
    flat = pictures.flatten(0, 1)[None]
    groups = flat.shape[1]
    flat = F.conv2d(F.pad(flat, (4, 4, 0, 0), mode="replicate"), kernel, groups=groups)
    flat = F.pad(flat, (0, 0, 4, 4), mode="replicate")
    return F.conv2d(flat, kernel.transpose(2, 3), groups=groups)[0].view_as(pictures)


def _cosines() -> Tensor:
    """(8, 8) orthonormal discrete cosine transform, type II."""
    index = torch.arange(8).float()
    rows = torch.cos(math.pi * (index[None] + 0.5) * index[:, None] / 8) / 2
    rows[0] /= math.sqrt(2)
    return rows


def _quantised(pictures: Tensor, step: Tensor) -> Tensor:
    """Pictures after coarse steps (B,) in the cosines of their 8x8 blocks, coarser the finer."""
    count, _, height, width = pictures.shape
    basis = _cosines()
    blocks = pictures.view(count, 3, height // 8, 8, width // 8, 8).transpose(3, 4)
    finer = 1 + torch.arange(8)[:, None] / 2 + torch.arange(8)[None] / 2
    steps = (step.view(-1, 1, 1, 1, 1, 1) * finer).clamp(min=1e-4)
    values = ((basis @ blocks @ basis.T) / steps).round() * steps
    return (basis.T @ values @ basis).transpose(3, 4).reshape(pictures.shape)


def _suffered(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The same pictures (B, 3, H, W) with tint, blur, blocks and grain, each on some of them."""
    count = len(pictures)

    def strengths(kind: tuple[float, float]) -> Tensor:
        chosen = _uniform(generator, (count,)) < kind[0]
        return _uniform(generator, (count,)) ** 2 * kind[1] * chosen

    tint = strengths(TINT).view(-1, 1, 1, 1)
    gain = 1 + tint * (_uniform(generator, (count, 3, 1, 1)) * 2 - 1)
    shift = tint / 2 * (_uniform(generator, (count, 3, 1, 1)) * 2 - 1)
    pictures = _blurred(pictures * gain + shift, strengths(BLUR))
    pictures = _quantised(pictures, strengths(BLOCKS))
    noise = torch.randn(pictures.shape, generator=generator)
    grey = _uniform(generator, (count, 1, 1, 1)) < 0.5
    noise = torch.where(grey, noise[:, :1], noise)
    return (pictures + strengths(GRAIN).view(-1, 1, 1, 1) * noise).clamp(0, 1)


def _shares(things: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) share of the first style at every pixel.

    ``things`` (B, 1, H, W): 1 where the first scene has an object.
    """
    count = len(things)
    chances = torch.tensor(list(MIXES.values()))
    kind = torch.multinomial(chances, count, replacement=True, generator=generator)
    even = _uniform(generator, (count, 2, 1, 1))
    # Things pasted whole before a foreign background, as often as blended ones.
    whole = (_uniform(generator, (count, 1, 1, 1)) < 0.5) & (kind == 2).view(-1, 1, 1, 1)
    even = torch.where(whole, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), even)
    drift = F.interpolate(
        _uniform(generator, (count, 1, 3, 3)) * 1.6 - 0.3, things.shape[-2:], mode="bilinear"
    ).clamp(0, 1)
    options = torch.stack(
        (
            torch.ones_like(things),
            even[:, :1].expand_as(things),
            even[:, :1] * things + even[:, 1:] * (1 - things),
            drift,
        )
    )
    return options[kind, torch.arange(count)]


def draw(pool: Tensor, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """(count, 3, 64, 64) pictures and (count, 4, 16, 16) share of every style in their blocks."""
    rows = torch.arange(count)
    chances = torch.tensor([FIRST[style] for style in STYLES])
    first = torch.multinomial(chances, count, replacement=True, generator=generator)
    second = (first + torch.randint(1, len(STYLES), (count,), generator=generator)) % len(STYLES)
    scene = torch.randint(len(pool), (count,), generator=generator)
    same = _uniform(generator, (count,)) < SAME_SCENE
    other = torch.where(same, scene, torch.randint(len(pool), (count,), generator=generator))
    coded = torch.randint(2, (count,), generator=generator)
    left, top = torch.randint((128 - SIDE) // STRIDE + 1, (2, count), generator=generator) * STRIDE
    window = torch.arange(SIDE)
    down = (top[:, None] + window)[:, :, None]
    across = (left[:, None] + window)[:, None, :]

    def cut(scenes: Tensor, styles: Tensor, forms: Tensor) -> Tensor:
        index = (t[:, None, None] for t in (scenes, styles, forms))
        return pool[(*index, slice(None), down, across)].movedim(-1, 1).contiguous() / 255

    # Objects are what is coloured in the plain drawing; a few pixels more, so that outlines, glows
    # and shadows come along.
    plain = cut(scene, torch.full_like(scene, STYLES.index("plain")), torch.zeros_like(scene))
    coloured = (plain.amax(1, keepdim=True) - plain.amin(1, keepdim=True) > 0.2).float()
    share = _shares(F.max_pool2d(coloured, 5, 1, 2), generator)
    mixed = share * cut(scene, first, coded) + (1 - share) * cut(other, second, coded)
    labels = torch.zeros((count, len(STYLES), SIDE, SIDE))
    labels[rows, first] = share[:, 0]
    labels[rows, second] = 1 - share[:, 0]
    return _suffered(mixed, generator), F.avg_pool2d(labels, STRIDE)


def train_style(folder: Path, minutes: float, steps: int | None, resume: bool) -> None:
    """Cross-entropy with the shares as soft targets: the net learns to read how much of a style.

    ``off`` in the log is the mean error of a picture's shares.
    """
    pool = _pool(folder)
    torch.manual_seed(61)
    net = StyleNet()
    run = Run("style", folder, net, 3e-3, 62, minutes, steps, resume, BATCH)
    for _ in run.steps():
        pictures, target = draw(pool, run.generator, BATCH)
        logits = net(pictures)
        loss = F.cross_entropy(logits, target)
        with torch.no_grad():
            off = (logits.softmax(1).mean((2, 3)) - target.mean((2, 3))).abs().mean()
        run.update(loss, {"loss": float(loss.detach()), "off": float(off)})
