"""The pairs of networks in the cost table, with prompts and layout as a user wires them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...balancer.layouts.layout import Layout, Region
from .. import true_models as true
from ..true_models import SD15, SDXL_BASE, Kind

CFG = 7.5
REGIONS = 4
PLENTY = 64 * 2**30


@dataclass
class Pair:
    """Two models, their conditioning, and the latent's side. ``modules``: all that hold weights."""

    realism: ModelPatcher
    spatial: ModelPatcher
    size: int
    positive: Any
    negative: Any
    spatial_positive: Any
    spatial_negative: Any
    layout: Layout
    grounding: ModelPatcher | None = None
    control: Any = None
    modules: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules = [patcher.model for patcher in (self.realism, self.spatial)]
        if self.grounding is not None:
            self.modules.append(self.grounding.model)
        if self.control is not None:
            self.modules.append(self.control.control_model)

    @property
    def networks(self) -> list[Any]:
        """The U-Nets."""
        return [self.realism.model.diffusion_model, self.spatial.model.diffusion_model]

    @property
    def controls(self) -> list[nn.Module]:
        """The ControlNets."""
        return [] if self.control is None else [self.control.control_model]

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """Token positions of the layout's regions."""
        return tuple(region.tokens or () for region in self.layout.regions)

    def noise(self) -> Tensor:
        """What sampling starts from, (1, 4, size, size)."""
        return true.noise(self.size)

    def sigmas(self, steps: int) -> Tensor:
        """Noise levels of the host's sampler node with scheduler normal."""
        return comfy.samplers.KSampler(
            self.realism, steps=steps, device=self.realism.load_device, sampler="euler",
            scheduler="normal", denoise=1.0, model_options=self.realism.model_options,
        ).sigmas  # fmt: skip


def layout(regions: int) -> Layout:
    """``regions`` boxes of one prompt of 77 tokens, two tokens each, side by side in two rows."""
    columns = (regions + 1) // 2
    boxes = [
        (
            (n % columns) / columns, (n // columns) * 0.5,
            (n % columns + 1) / columns, (n // columns) * 0.5 + 0.5,
        )
        for n in range(regions)
    ]  # fmt: skip
    return Layout(
        tuple(
            Region(f"thing {n}", box, tokens=(2 * n + 2, 2 * n + 3)) for n, box in enumerate(boxes)
        )
    )


def grounded_pair(
    kind: Kind, size: int, dtype: torch.dtype, seed: int | None = None, regions: int = REGIONS
) -> Pair:
    """Two SD1.x checkpoints, the spatial one with GLIGEN. With ``seed`` they can be computed."""
    seeds = [None] * 3 if seed is None else [seed, seed + 1, seed + 2]
    realism, spatial = (true.unet(kind, dtype, s) for s in seeds[:2])
    gligen = true.grounding(spatial, dtype, seeds[2])
    positive, negative = (true.conditioning(kind, s, dtype) for s in (1, 2))
    plan = layout(regions)
    boxes = [region.box for region in plan.regions]
    grounded = true.grounded(positive, gligen, boxes, size)
    return Pair(
        realism, spatial, size, positive, negative, grounded, negative, plan, grounding=gligen
    )  # fmt: skip


def plain_pair(kind: Kind, size: int, dtype: torch.dtype, seed: int | None = None) -> Pair:
    """Two checkpoints without grounding (the spatial one may carry a LoRA that costs nothing)."""
    seeds = [None, None] if seed is None else [seed, seed + 1]
    realism, spatial = (true.unet(kind, dtype, s) for s in seeds)
    positive, negative = (true.conditioning(kind, s, dtype) for s in (1, 2))
    return Pair(
        realism, spatial, size, positive, negative, positive, negative, layout(REGIONS)
    )  # fmt: skip


def controlled_pair(kind: Kind, size: int, dtype: torch.dtype, seed: int | None = None) -> Pair:
    """One checkpoint in both branches, the spatial one steered by a ControlNet."""
    model = true.unet(kind, dtype, seed)
    net = true.control(kind, dtype, None if seed is None else seed + 1)
    positive, negative = (true.conditioning(kind, s, dtype) for s in (1, 2))
    steered, unsteered = true.controlled([positive, negative], net, 8 * size)
    return Pair(
        model, model, size, positive, negative, steered, unsteered, layout(REGIONS), control=net
    )  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A line of pairs in the table: its title, the pair of true size, and a small pair of the same
    topology that can be computed, to learn which passes a run consists of."""

    title: str
    true_size: Callable[[], Pair]
    small: Callable[[], Pair]


HALF = torch.float16
_SMALL_SD15 = true.small(SD15, 32, 32)
_SMALL_SDXL = true.small(SDXL_BASE, 64, 32)
_GROUNDED = lambda: grounded_pair(_SMALL_SD15, 16, torch.float32, seed=1)  # noqa: E731
_PLAIN = lambda: plain_pair(_SMALL_SDXL, 16, torch.float32, seed=1)  # noqa: E731
_CONTROLLED = lambda: controlled_pair(_SMALL_SDXL, 16, torch.float32, seed=1)  # noqa: E731
NETWORKS = {
    "sd15-512": Network(
        "SD1.5 + GLIGEN, 512 px", lambda: grounded_pair(SD15, 64, HALF), _GROUNDED
    ),
    "sd15-768": Network(
        "SD1.5 + GLIGEN, 768 px", lambda: grounded_pair(SD15, 96, HALF), _GROUNDED
    ),
    "sdxl-1024": Network("two SDXL, 1024 px", lambda: plain_pair(SDXL_BASE, 128, HALF), _PLAIN),
    "sdxl-1024-controlnet": Network(
        "one SDXL + ControlNet, 1024 px", lambda: controlled_pair(SDXL_BASE, 128, HALF), _CONTROLLED
    ),
}  # fmt: skip
QUICK = {
    "small-gligen": Network("small SD1.5 + GLIGEN", _GROUNDED, _GROUNDED),
    "small-controlnet": Network("one small SDXL + ControlNet", _CONTROLLED, _CONTROLLED),
}  # fmt: skip


@contextmanager
def steady_host() -> Iterator[None]:
    """The same attention and the same batches on every machine: the host looks at free memory to
    decide whether the positive and the negative run together."""
    original = management.get_free_memory

    def plenty(device: Any = None, torch_free_too: bool = False) -> Any:
        return (PLENTY, PLENTY) if torch_free_too else PLENTY

    management.get_free_memory = plenty
    try:
        with true.fused_attention():
            yield
    finally:
        management.get_free_memory = original
