"""How much of each style a picture shows, and how far a set of pictures is from a style.

A small convolutional net says at every place which style it sees in the few pixels around it. Its
mean probability is the style score; its channels' statistics give a Frechet distance, as features
of a classifier do for photographs. Needs torch and safetensors only, no host.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..balancer.errors import RealCompoError
from .codec import ShapesCodec
from .render import render
from .weights_file import fill, read_file
from .world import STYLES, make_scenes

WEIGHTS = Path(__file__).resolve().parent / "weights"
TOOL = "style judge"
WIDTHS = (24, 48, 32)
STRIDE = 4
WINDOW = 9
CONTRAST = 8.0
# Pixels that one place sees: the window, and 4, 2 * 2 and 2 * 4 more for the convolutions.
RECEPTIVE_FIELD = 25
SMALLEST = 64
BATCH = 64
# References are drawn from seeds in a range of their own, which no training reaches.
REFERENCE_SEED = 700_000_000_000
MOST_SEEDS = 1_000_000


class StyleNet(nn.Module):
    """Logits over ``STYLES`` for every 4x4 block, from the 25x25 pixels around it.

    No normalisation over the picture: what one place says must not depend on the others.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.enter = nn.Conv2d(6, a, 5, stride=2)
        self.middle = nn.Conv2d(a, b, 3, stride=2)
        self.wide = nn.Conv2d(b, c, 3)
        self.hidden = nn.Conv2d(c, c, 1)
        self.leave = nn.Conv2d(c, len(STYLES), 1)

    def channels(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) pictures in 0..1 -> (B, 24, H/2 + 5, W/2 + 5): colours and fine textures."""
        # 11 + 10 pixels of border let strides and kernels end on whole blocks. Repeated, not zero:
        # black borders would be a style of their own.
        x = F.pad(pictures * 2 - 1, (11, 10, 11, 10), mode="replicate")
        # Two styles blended make a grey that only a faint texture tells from a real wall.
        edge = WINDOW // 2
        inner = x[..., edge:-edge, edge:-edge]
        texture = torch.tanh(CONTRAST * (inner - F.avg_pool2d(x, WINDOW, 1)))
        return F.silu(self.enter(torch.cat((inner, texture), 1)))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) pictures in 0..1 -> (B, 4, H/4, W/4) logits."""
        x = F.silu(self.wide(F.silu(self.middle(self.channels(pictures)))))
        return self.leave(F.silu(self.hidden(x)))


def _filled(module: nn.Module, name: str) -> None:
    state, _ = read_file(WEIGHTS / name, "weights", TOOL)
    # copying in casts: files are half precision, the judges single
    fill(module, state, name, "weights", TOOL)
    module.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def load_style() -> StyleNet:
    """The trained net on the CPU, frozen; loaded once.

    Raises ``RealCompoError`` if its file is missing, damaged or of another version.
    """
    # It outlives the call: made inside inference mode it could never pass a gradient on.
    with torch.inference_mode(False):
        net = StyleNet()
        _filled(net, "style.safetensors")
        return net


@lru_cache(maxsize=1)
def _codec() -> ShapesCodec:
    with torch.inference_mode(False):
        codec = ShapesCodec()
        _filled(codec, "codec.safetensors")
        return codec


def _checked(pictures: Tensor) -> Tensor:
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not len(pictures):
        problem = f"a tensor of shape {tuple(pictures.shape)} is not a batch of RGB pictures"
        raise RealCompoError("pictures", problem, "Give (N, 3, H, W) in 0..1", TOOL)
    height, width = pictures.shape[2:]
    if min(height, width) < SMALLEST or height % 8 or width % 8:
        raise RealCompoError(
            "pictures",
            f"{width}x{height} is not a size that can be judged",
            f"Use sides from {SMALLEST} pixels on that are divisible by 8",
            TOOL,
        )
    return pictures.float().clamp(0, 1)


def style_probabilities(pictures: Tensor, net: StyleNet | None = None) -> Tensor:
    """(N, 4) share of each of ``STYLES`` in (N, 3, H, W) pictures (0..1); rows sum to 1.

    Mean over places of the probability there. Gradients reach the pictures. ``net`` is the shipped
    one unless given. Raises ``RealCompoError`` for another shape or size.
    """
    net = net or load_style()
    batches = _checked(pictures).split(BATCH)
    return torch.cat([net(batch).softmax(1).mean((2, 3)) for batch in batches])


def style_probability(pictures: Tensor, style: str, net: StyleNet | None = None) -> Tensor:
    """(N,) share of one style, 0..1: near 0.5 for a picture that is half of it.

    Raises ``ValueError`` for an unknown style, else as ``style_probabilities``.
    """
    if style not in STYLES:
        raise ValueError(f"Unknown style '{style}': choose one of {', '.join(STYLES)}.")
    return style_probabilities(pictures, net)[:, STYLES.index(style)]


def features(pictures: Tensor, net: StyleNet | None = None) -> Tensor:
    """(N, 48) of (N, 3, H, W) pictures (0..1): mean and standard deviation of 24 channels.

    Over the places of each picture, of the first layer: deeper ones answer which style it is, and
    their distances do not grow evenly where a blend changes the answer. Raises ``RealCompoError``
    as ``style_probabilities``.
    """
    net = net or load_style()
    rows = []
    for batch in _checked(pictures).split(BATCH):
        channels = net.channels(batch)
        rows.append(torch.cat((channels.mean((2, 3)), channels.std((2, 3))), 1))
    return torch.cat(rows)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two sets of features, (N, D) and (M, D) with N, M >= 2; never negative.

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. 2017, Eq. 6. Small sets read too
    high: compare only distances of equally many pictures. Raises ``ValueError`` for other shapes.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"Features of shapes {tuple(first.shape)}, {tuple(second.shape)}.")
    if min(len(first), len(second)) < 2:
        raise ValueError("A Frechet distance needs at least two pictures on each side.")
    one, two = first.detach().double(), second.detach().double()
    shift = (one.mean(0) - two.mean(0)).square().sum()
    size = (first.shape[1], first.shape[1])
    spread, other = torch.cov(one.T).view(size), torch.cov(two.T).view(size)
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2): exact and real even
    # where fewer pictures than dimensions make both matrices singular.
    values, vectors = torch.linalg.eigh(spread)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ other @ root
    shared = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    return max(0.0, float(shift + spread.trace() + other.trace() - 2 * shared))


@torch.no_grad()
def reference_pictures(style: str, count: int, seed: int) -> Tensor:
    """(count, 3, 128, 128) drawings of a style after the codec, of scenes no training has seen.

    Through the codec, because that is the best a diffusion model of these latents can do. Raises
    ``ValueError`` for an unknown style or a seed outside 0..999999.
    """
    if not 0 <= seed < MOST_SEEDS:
        raise ValueError(f"The seed {seed} is not in 0..{MOST_SEEDS - 1}.")
    generator = torch.Generator().manual_seed(REFERENCE_SEED + seed)
    codec, parts = _codec(), []
    for start in range(0, count, BATCH):
        scenes = make_scenes(min(BATCH, count - start), generator)
        clean = render(scenes, style, generator)
        parts.append(codec.pictures(codec.encode(clean * 2 - 1)))
    return torch.cat(parts)


def reference_features(style: str, count: int, seed: int) -> Tensor:
    """(count, 48) features of ``reference_pictures``."""
    with torch.no_grad():
        return features(reference_pictures(style, count, seed))
