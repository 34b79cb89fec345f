"""Boxes for a diffusion model: box-masked gated cross-attention behind ComfyUI's GLIGEN hook.

After GLIGEN (Li et al. 2023, "GLIGEN: Open-Set Grounded Text-to-Image Generation", gated layers
between self- and cross-attention, Fourier-embedded boxes), with one change that makes it learn
in minutes: a visual token attends only to objects whose box covers its cell, not to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..balancer.errors import RealCompoError

WIDTH = 64
HEADS = 4
SITES = 5
BOX_FREQUENCIES = 8
RELATIVE_FREQUENCIES = 3
RELATIVE_FEATURES = 2 + 4 * RELATIVE_FREQUENCIES

Hook = Callable[[Tensor, dict[str, Any]], Tensor]


def box_coverage(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Fraction of each grid cell that a box covers: (..., 4) boxes in 0..1 -> (..., rows, columns).

    Fractional on purpose: a box finer than a cell keeps its place and size.
    """

    def axis(low: Tensor, high: Tensor, cells: int) -> Tensor:
        edge = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
        overlap = torch.minimum(high[..., None] * cells, edge + 1)
        return (overlap - torch.maximum(low[..., None] * cells, edge)).clamp(0, 1)

    across = axis(boxes[..., 0], boxes[..., 2], columns)
    down = axis(boxes[..., 1], boxes[..., 3], rows)
    return down[..., :, None] * across[..., None, :]


def _waves(x: Tensor, frequencies: int, base: float) -> Tensor:
    """Sines and cosines of (..., D) at doubling frequencies: (..., 2 * D * frequencies)."""
    scales = base * 2.0 ** torch.arange(frequencies, device=x.device, dtype=x.dtype)
    angles = (x[..., None] * scales).flatten(-2)
    return torch.cat((angles.sin(), angles.cos()), -1)


def relative_position(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Where each cell lies inside a box, as features (..., rows * columns, 14).

    -1..1 from edge to edge, clamped at +-2, with sines and cosines of it.
    """
    y = (torch.arange(rows, device=boxes.device, dtype=boxes.dtype) + 0.5) / rows
    x = (torch.arange(columns, device=boxes.device, dtype=boxes.dtype) + 0.5) / columns
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=1e-3)
    across = (x - centre[..., :1]) / half[..., :1]
    down = (y - centre[..., 1:]) / half[..., 1:]
    shape = (*boxes.shape[:-1], rows, columns)
    place = torch.stack(
        (across[..., None, :].expand(shape), down[..., :, None].expand(shape)), -1
    ).clamp(-2, 2)
    return torch.cat((place, _waves(place, RELATIVE_FREQUENCIES, math.pi / 2)), -1).flatten(-3, -2)


class GroundingNet(nn.Module):
    """Phrase vectors (B, N, 64) and boxes (B, N, 4) -> object tokens (B, N, 64)."""

    def __init__(self, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}
        inputs = WIDTH + 2 * 4 * BOX_FREQUENCIES
        self.layers = nn.Sequential(
            operations.Linear(inputs, 256, **where),
            nn.SiLU(),
            operations.Linear(256, 256, **where),
            nn.SiLU(),
            operations.Linear(256, WIDTH, **where),
        )

    def forward(self, phrases: Tensor, boxes: Tensor) -> Tensor:
        """One token per object."""
        return self.layers(torch.cat((phrases, _waves(boxes, BOX_FREQUENCIES, 1.0)), -1))


class MaskedFuser(nn.Module):
    """Gated cross-attention of visual tokens to the objects that cover them, then a gated MLP."""

    def __init__(self, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.norm1 = operations.LayerNorm(WIDTH, **where)
        self.to_q = operations.Linear(WIDTH, WIDTH, bias=False, **where)
        self.to_k = operations.Linear(WIDTH, WIDTH, bias=False, **where)
        self.to_v = operations.Linear(WIDTH, WIDTH, bias=False, **where)
        self.place = operations.Linear(RELATIVE_FEATURES, WIDTH, bias=False, **where)
        self.to_out = operations.Linear(WIDTH, WIDTH, **where)
        self.norm2 = operations.LayerNorm(WIDTH, **where)
        self.widen = operations.Linear(WIDTH, 4 * WIDTH, **where)
        self.narrow = operations.Linear(4 * WIDTH, WIDTH, **where)
        self.alpha_attention = nn.Parameter(torch.full((), 0.5, **where))
        self.alpha_mlp = nn.Parameter(torch.full((), 0.5, **where))

    def forward(self, x: Tensor, objects: Tensor, bias: Tensor, place: Tensor) -> Tensor:
        """Fuse objects into ``x`` (B, P, 64).

        ``objects`` (B, 1 + N, 64), the first the null token; ``bias`` (B, P, 1 + N) log-coverage;
        ``place`` (B, N, P, 14) relative positions.
        """
        batch, cells, _ = x.shape
        query, key, value = self.to_q(self.norm1(x)), self.to_k(objects), self.to_v(objects)
        query, key, value = (
            t.view(batch, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for t in (query, key, value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + bias[:, None]
        weights = scores.softmax(-1)
        seen = (weights @ value).transpose(1, 2).reshape(batch, cells, WIDTH)
        share = weights[..., 1:].mean(1)
        seen = seen + self.place(torch.einsum("bpn,bnpf->bpf", share, place))
        # Gates are cast like every weight: on a GPU the pictures may be in another precision.
        x = x + self.alpha_attention.to(x).tanh() * self.to_out(seen)
        return x + self.alpha_mlp.to(x).tanh() * self.narrow(F.gelu(self.widen(self.norm2(x))))


class ShapesGrounding(nn.Module):
    """What GLIGEN's model object is to ComfyUI: ``set_position`` and ``set_empty`` return the hook.

    One fuser per transformer block of the demo UNet, in the order of ``transformer_index``.
    """

    def __init__(self, dtype: Any = None, device: Any = None, operations: Any = nn) -> None:
        super().__init__()
        self.net = GroundingNet(dtype, device, operations)
        self.fusers = nn.ModuleList(MaskedFuser(dtype, device, operations) for _ in range(SITES))
        self.null = nn.Parameter(torch.zeros(WIDTH, dtype=dtype, device=device))

    def hook(self, phrases: Tensor, boxes: Tensor, latent_shape: Sequence[int]) -> Hook:
        """The function for ``middle_patch``.

        ``phrases`` (B, N, 64), ``boxes`` (B, N, 4) in 0..1 of the latent; an object with an empty
        box (all zeros) is absent. B is 1 or the batch; N may be 0.
        """
        rows, columns = latent_shape[-2:]
        objects = self.net(phrases, boxes) if boxes.shape[1] else phrases
        null = self.null.to(objects).view(1, 1, -1).expand(len(objects), 1, -1)
        objects = torch.cat((null, objects), 1)
        grids: dict[int, tuple[Tensor, Tensor]] = {}

        def grid(cells: int) -> tuple[Tensor, Tensor]:
            if cells not in grids:
                height, width = rows, columns
                # Each level of the UNet halves the sides, rounding up.
                while height * width > cells:
                    height, width = (height + 1) // 2, (width + 1) // 2
                if height * width != cells:
                    raise ValueError(f"{cells} tokens do not fit a {rows}x{columns} latent.")
                covered = box_coverage(boxes, height, width).flatten(2).transpose(1, 2)
                bias = torch.cat((covered.new_ones(*covered.shape[:2], 1), covered), -1).log()
                grids[cells] = bias, relative_position(boxes, height, width)
            return grids[cells]

        def fuse(x: Tensor, extra_options: dict[str, Any]) -> Tensor:
            bias, place = grid(x.shape[1])
            batch = x.shape[0]
            parts = (
                t.to(device=x.device, dtype=x.dtype).expand(batch, *t.shape[1:])
                for t in (objects, bias, place)
            )
            return self.fusers[extra_options["transformer_index"]](x, *parts)

        return fuse

    def set_position(
        self, latent_shape: Sequence[int], position_params: Sequence[tuple[Any, ...]], device: Any
    ) -> Hook:
        """Hook for boxes as ComfyUI's GLIGEN nodes store them.

        ``position_params``: (phrase vector (1, 64), height, width, y, x) in latent cells, whole or
        fractional. Raises ``RealCompoError`` if a phrase vector is of another text encoder.
        """
        rows, columns = latent_shape[-2:]
        for entry in position_params:
            if entry[0] is None or entry[0].shape[-1] != WIDTH:
                raise RealCompoError(
                    "clip",
                    "the phrase was not encoded by the text encoder of the shapes demo",
                    "Connect the CLIP output of 'Load Shapes Demo Models' to the GLIGEN node",
                    "GLIGEN Textbox Apply",
                )
        if not position_params:
            return self.set_empty(latent_shape, device)
        phrases = torch.cat([p[0].reshape(1, WIDTH).float() for p in position_params]).to(device)
        boxes = torch.tensor(
            [
                (x / columns, y / rows, (x + width) / columns, (y + height) / rows)
                for _, height, width, y, x in position_params
            ],
            dtype=torch.float32,
            device=device,
        )
        return self.hook(phrases[None], boxes[None], latent_shape)

    def set_empty(self, latent_shape: Sequence[int], device: Any) -> Hook:
        """Hook without objects: every visual token sees the null token only."""
        return self.hook(
            torch.zeros(1, 0, WIDTH, device=device),
            torch.zeros(1, 0, 4, device=device),
            latent_shape,
        )
