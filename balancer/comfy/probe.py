"""One look at one model: its cross-attention shares at a latent, and the gradient of its loss.

The probe asks the host for an ordinary conditional prediction and slips in as the innermost model
call. So hooks, areas, GLIGEN, ControlNet and other packs' patches act as in any other prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor

from ..attention_maps import RegionMaps, inside_share
from ..losses import realcompo_loss
from ..regions import RegionSet
from .capture import Site, StopProbe, entry_area, grid_size, reading_options
from .compat import adds_in_place
from .gradients import gradient_mode, ordinary_weights, saved_copies

# float16 cannot hold gradients below 6e-8; the loss is scaled up before and down after
HALF_PRECISION_SCALE = 4096.0


@dataclass(frozen=True)
class Look:
    """What a probe saw: shares (B, R) and losses (B,), both 0..1 and 0..R, and dL/dx (B, C, H, W).

    ``remaining`` (B,) in 0..1 is the mean over a sample's regions of one minus the share.
    ``finite`` (0-dim bool) is False when some gradient was not; those entries are zero then.
    """

    shares: Tensor
    loss: Tensor
    remaining: Tensor
    gradient: Tensor
    finite: Tensor


class Probe:
    """Reads one model's maps of a layout's regions and differentiates RealCompo's loss.

    ``sites`` and ``factor`` say where maps are read. One object serves a whole run; masks and
    token weights are built once per size.
    """

    def __init__(self, regions: RegionSet, sites: tuple[Site, ...], factor: int) -> None:
        self._regions = regions
        self._sites, self._factor = sites, factor
        self._cache: dict[tuple[Any, ...], Tensor] = {}
        self.forwards = 0
        self.backwards = 0

    def look(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        sigma: Tensor,
        model_options: dict[str, Any],
    ) -> Look | None:
        """The loss of ``model`` at latent ``x`` (B, C, H, W) and noise level ``sigma`` (B,).

        ``entry`` is one conditioning entry as the host has processed it for this model. Returns
        None when the host did not run the entry at this noise level (timestep range).
        """
        throw_exception_if_processing_interrupted()
        seen: list[Look] = []
        options = model_options.copy()
        inner = options.get("model_function_wrapper")
        options["model_function_wrapper"] = self._wrapper(model, entry, x, inner, seen)
        # a pack that samples in windows would split the one pass that is wanted here
        options.pop("context_handler", None)
        comfy.samplers.calc_cond_batch(model, [[entry]], x, sigma, options)
        return seen[0] if seen else None

    def _wrapper(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        inner: Callable[..., Tensor] | None,
        seen: list[Look],
    ) -> Callable[..., Tensor]:
        area = entry_area(entry, *x.shape[-2:])
        modules = [model.diffusion_model, *_patch_modules(entry)]

        def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            conditions = dict(args["c"])
            copies = adds_in_place() or _others_add_in_place(conditions)
            with gradient_mode(), ordinary_weights(modules), saved_copies(modules, copies):
                latent = args["input"].clone().requires_grad_(True)
                maps = RegionMaps(self._token_weights(conditions["c_crossattn"]))
                conditions["transformer_options"] = reading_options(
                    conditions["transformer_options"], self._sites, self._factor, maps
                )
                call = {**args, "input": latent, "c": conditions}
                call["timestep"] = args["timestep"].clone()
                self.forwards += latent.shape[0]
                try:
                    if inner is not None:
                        inner(apply_model, call)
                    else:
                        apply_model(latent, call["timestep"], **conditions)
                except StopProbe:
                    pass
                seen.append(self._differentiate(maps.mean(), latent, x, area, model))
            return torch.zeros_like(args["input"])

        return wrapper

    def _differentiate(
        self,
        maps: Tensor,
        latent: Tensor,
        x: Tensor,
        area: tuple[int, int, int, int] | None,
        model: Any,
    ) -> Look:
        shares = inside_share(maps, self._masks(maps, x, area))
        weights, present = self._region_weights(shares)
        loss = realcompo_loss(shares, weights)
        half = getattr(model, "manual_cast_dtype", None) or model.get_dtype()
        scale = HALF_PRECISION_SCALE if half == torch.float16 else 1.0
        (gradient,) = torch.autograd.grad(loss.sum() * scale, latent)
        self.backwards += latent.shape[0]
        gradient = gradient / scale
        if area is not None:
            height, width, top, left = area
            whole = torch.zeros_like(x, dtype=gradient.dtype)
            whole[:, :, top : top + height, left : left + width] = gradient
            gradient = whole
        finite = torch.isfinite(gradient)
        gradient = torch.where(finite, gradient, 0.0)
        shares = shares.detach()
        remaining = ((1.0 - shares) * present).sum(dim=-1) / present.sum(dim=-1)
        return Look(shares, loss.detach(), remaining, gradient.detach(), finite.all())

    def _token_weights(self, context: Tensor) -> Tensor:
        key = ("tokens", context.shape[1], context.device)
        if key not in self._cache:
            self._cache[key] = self._regions.token_weights(context.shape[1]).to(context.device)
        return self._cache[key]

    def _region_weights(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        key = ("weights", shares.device)
        if key not in self._cache:
            self._cache[key] = self._regions.weights().to(shares.device)
        return self._cache[key], (self._cache[key] > 0).to(shares)

    def _masks(self, maps: Tensor, x: Tensor, area: tuple[int, int, int, int] | None) -> Tensor:
        key = ("masks", maps.shape[-2:], x.shape[-2:], area, maps.device)
        if key not in self._cache:
            self._cache[key] = self._build_masks(maps, x, area).to(maps.device)
        return self._cache[key]

    def _build_masks(
        self, maps: Tensor, x: Tensor, area: tuple[int, int, int, int] | None
    ) -> Tensor:
        height, width = maps.shape[-2:]
        if area is None:
            return self._regions.grid(height, width)
        # the entry sees a part of the picture: cut the same part out of the whole picture's grid
        full_height, full_width = grid_size(x.shape[-2], x.shape[-1], self._factor)
        top, left = area[2] // self._factor, area[3] // self._factor
        grid = self._regions.grid(full_height, full_width)
        part = grid[..., top : top + height, left : left + width]
        out = torch.zeros(*grid.shape[:-2], height, width)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def _others_add_in_place(conditions: dict[str, Any]) -> bool:
    """Whether tensors that autograd saves may be written to: by the host's ControlNet code, or by
    another pack's patches (FreeU scales in place). GLIGEN's patch does not."""
    patches = conditions["transformer_options"].get("patches", {})
    return conditions.get("control") is not None or bool(set(patches) - {"middle_patch"})


def _patch_modules(entry: dict[str, Any]) -> list[torch.nn.Module]:
    """Modules beside the model that its forward goes through: GLIGEN's fusers."""
    gligen = entry.get("gligen")
    return [] if gligen is None else [gligen[1].model]
