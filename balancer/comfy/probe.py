"""One look at one model: its cross-attention shares at a latent, and the gradient of its loss.

The probe asks the host for an ordinary conditional prediction and slips in as the innermost model
call. So hooks, areas, GLIGEN, ControlNet and other packs' patches act as in any other prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor

from ..attention_maps import RegionMaps, inside_share
from ..errors import RealCompoError
from ..losses import realcompo_loss
from ..regions import LayoutBatch
from .activation_memory import Pass
from .attention.entries import entry_area
from .attention.families import family_of
from .attention.family import Site, StopProbe, last_site, stop
from .attention.map_rows import grid_size
from .cards import on_one_card
from .checkpointing import checkpointed, must_be_checkpointed
from .compat import adds_in_place
from .gradients import Aliases, gradient_mode, saved_copies, without_inference_tensors
from .grounded_attention import differentiable_grounding
from .shared_encoder import INSIDE_BLOCKS, alters_encoder, call_model

# float16 cannot hold gradients below 6e-8; the loss is scaled up before and down after
HALF_PRECISION_SCALE = 4096.0


@dataclass(frozen=True)
class ProbeResult:
    """What a probe saw: shares (B, R) and losses (B,), both 0..1 and 0..R, and dL/dx as x.

    ``remaining`` (B,) in 0..1 is the mean over a sample's regions of one minus the share.
    ``finite`` (0-dim bool) is False when some gradient was not; those entries are zero then.
    Both are None for a look whose gradient is part of its partner's (see pair_probe.py).
    ``maps`` (B, R, h, w) are the regions' mean attention maps of the whole latent, out of any
    graph.
    """

    shares: Tensor
    loss: Tensor
    remaining: Tensor
    gradient: Tensor | None
    finite: Tensor | None
    maps: Tensor | None = None


@dataclass
class ModelCall:
    """The model call that the host was about to make for a probe: run it with other options.

    ``x`` is the whole latent of the probe, ``input`` what the call sees of it (``area``). A
    ``whole`` call is wanted for its ``output`` too.
    """

    apply_model: Callable[..., Tensor]
    args: dict[str, Any]
    inner: Callable[..., Tensor] | None
    x: Tensor
    area: tuple[int, int, int, int] | None
    model: Any
    whole: bool = False
    modules: tuple[torch.nn.Module, ...] = ()
    output: Tensor | None = None

    @property
    def input(self) -> Tensor:
        """The latent of this call, as an ordinary tensor."""
        return self.args["input"].clone()

    @property
    def options(self) -> dict[str, Any]:
        """The host's transformer options for this call."""
        return self.args["c"]["transformer_options"]

    @property
    def context(self) -> Tensor:
        """The encoded prompt (B, T, width)."""
        return self.args["c"]["c_crossattn"]

    @property
    def half_precision(self) -> bool:
        """Whether the network computes in float16."""
        return compute_dtype(self.model) == torch.float16

    def run(self, latent: Tensor, transformer_options: dict[str, Any]) -> Tensor | None:
        """The model's prediction; None if a reader stopped the run."""
        conditions = {**self.args["c"], "transformer_options": transformer_options}
        # a cache may write to what it is given, which autograd forbids where a graph begins
        given = latent.clone() if latent.is_leaf and latent.requires_grad else latent
        call = {**self.args, "input": given, "c": conditions}
        call["timestep"] = self.args["timestep"].clone()
        try:
            return call_model(self.inner, self.apply_model, call)
        except StopProbe:
            return None


@dataclass(frozen=True)
class ProbeRequest:
    """What to ask a probe about one model: see ``Probe.look``; ``scale`` times ``latent`` is what
    the model sees."""

    model: Any
    entry: dict[str, Any]
    latent: Tensor
    scale: float
    sigma: Tensor
    model_options: dict[str, Any]

    def run(
        self,
        probe: Probe,
        work: Callable[[ModelCall], ProbeResult | None],
        copies_skips: bool = False,
    ) -> ProbeResult | None:
        """``Probe.enter``; a gradient is then with respect to ``latent``."""
        x = self.latent * self.scale
        look = probe.enter(
            self.model, self.entry, x, self.sigma, self.model_options, work, copies_skips
        )
        if look is None or look.gradient is None:
            return look
        return replace(look, gradient=look.gradient * self.scale)


class Probe:
    """Reads one model's maps of a layout's regions and differentiates RealCompo's loss.

    ``sites`` and ``factor`` say where maps are read. One object serves a whole run; masks and
    token weights are built once per size. ``checkpointed``: keep little for the backward (see
    checkpointing.py); None lets the first look decide by the memory that is free.
    """

    def __init__(self, regions: LayoutBatch, sites: tuple[Site, ...], factor: int) -> None:
        self._regions = regions
        self.sites, self.factor = sites, factor
        self._cache: dict[tuple[Any, ...], Tensor] = {}
        self.forwards = 0
        self.backwards = 0
        self.checkpointed: bool | None = None
        self.aliases: Aliases = {}
        self._has_read = False

    def look(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        sigma: Tensor,
        model_options: dict[str, Any],
    ) -> ProbeResult | None:
        """The loss of ``model`` at latent ``x`` (B, C, H, W) and noise level ``sigma`` (B,).

        ``entry`` is one conditioning entry as the host has processed it for this model. Returns
        None when the host did not run the entry at this noise level (timestep range).
        """
        return self.enter(model, entry, x, sigma, model_options, self.differentiate)

    def differentiate(self, call: ModelCall) -> ProbeResult | None:
        """Run the call as far as maps are read, and differentiate the loss; see ``read``."""
        latent = call.input.requires_grad_(True)
        maps = RegionMaps(self.token_weights(call.context))

        def answer() -> ProbeResult:
            look = self.loss_from_maps(maps, call)
            (gradient,) = torch.autograd.grad(look.loss.sum() * scale_of(call), latent)
            return with_gradient(look, gradient, call)

        return self.read(call, latent, maps, answer)

    def read(
        self, call: ModelCall, latent: Tensor, maps: RegionMaps, answer: Callable[[], ProbeResult]
    ) -> ProbeResult | None:
        """Run the call from ``latent``, with readers that fill ``maps``, and then ``answer``.

        A call that is a prediction as well goes on from there without a graph. None where another
        pack's cache spared the model a call that came by maps before.
        """
        seen: list[ProbeResult] = []

        def at_last() -> None:
            if not call.whole:
                raise StopProbe
            seen.append(answer())
            # gradient_mode puts it back when the call ends
            torch.set_grad_enabled(False)

        call.output = call.run(latent, self.reading(call, maps, at_last))
        self.forwards += 0 if call.whole else latent.shape[0]
        if not seen and not maps.sites and self._has_read:
            return None
        self.backwards += latent.shape[0]
        self._has_read = True
        return seen[0] if seen else answer()

    def enter(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        sigma: Tensor,
        model_options: dict[str, Any],
        work: Callable[[ModelCall], ProbeResult | None],
        copies_skips: bool = False,
    ) -> ProbeResult | None:
        """Ask the host for a prediction and do ``work`` in place of the model call.

        Gradients are on, and the model's weights are ones that autograd can work with.
        ``copies_skips``: the work sees to it that ControlNets behind the encoder write to copies.
        Returns None when the host ran no model.
        """
        throw_exception_if_processing_interrupted()
        options, seen = self.looking_options(
            model, entry, x, model_options, work, copies_skips=copies_skips
        )
        # a pack that samples in windows would split the one pass that is wanted here
        options.pop("context_handler", None)
        comfy.samplers.calc_cond_batch(model, [[entry]], x, sigma, options)
        return seen[0] if seen else None

    def looking_options(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        model_options: dict[str, Any],
        work: Callable[[ModelCall], ProbeResult | None],
        whole: bool = False,
        copies_skips: bool = False,
    ) -> tuple[dict[str, Any], list[ProbeResult]]:
        """Options of a prediction in whose place ``work`` is done, and where its look will be.

        See ``enter``. ``whole``: the prediction is wanted as well; else it comes out as zeros.
        """
        options, seen = on_one_card(model_options), []
        inner = options.get("model_function_wrapper")
        area = entry_area(entry, *x.shape[-2:])
        modules = (model.diffusion_model, *_patch_modules(entry))

        def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            family = family_of(model.diffusion_model)
            copies = adds_in_place() or family.adds_in_place
            copies = copies or _others_add_in_place(args["c"], copies_skips)
            with (
                gradient_mode(),
                without_inference_tensors(modules, self.aliases),
                saved_copies(modules, copies),
                differentiable_grounding(modules[1:]),
                family.one_pass(model.diffusion_model),
                checkpointed(
                    model.diffusion_model,
                    self._last_checkpoint(model, args, len(modules) > 1),
                    copies,
                ),
            ):
                call = ModelCall(apply_model, args, inner, x, area, model, whole, modules)
                look = work(call)
                if look is not None:
                    seen.append(look)
            return torch.zeros_like(args["input"]) if call.output is None else call.output

        options["model_function_wrapper"] = wrapper
        return options, seen

    def reading(
        self, call: ModelCall, maps: RegionMaps, at_last: Callable[[], None] = stop
    ) -> dict[str, Any]:
        """The call's options with readers that fill ``maps``, and ``at_last`` behind the last."""
        batch, height, width = (call.args["input"].shape[n] for n in (0, -2, -1))
        return family_of(call.model.diffusion_model).reading_options(
            call.options, self.sites, self.factor, maps, (batch, height, width), at_last
        )

    def _last_checkpoint(self, model: Any, args: dict[str, Any], grounded: bool) -> Site | None:
        """Where checkpointed blocks end, if memory is too short to do without; decided once.

        ``grounded``: GLIGEN's layers stand in the blocks.

        A block that runs again must not write to what autograd saves: blocks of hosts before
        mid-2025 do, and other packs' patches inside a block may.
        """
        inside = set(args["c"]["transformer_options"].get("patches", {})) & INSIDE_BLOCKS
        if adds_in_place() or inside:
            return None
        latent = args["input"]
        if self.checkpointed is None:
            text = args["c"].get("c_crossattn")
            what = Pass(
                tuple(latent.shape), compute_dtype(model), self.factor,
                77 if text is None else text.shape[1], grounded,
            )  # fmt: skip
            self.checkpointed = must_be_checkpointed(
                model.diffusion_model, self.sites, what, latent.device
            )
        return last_site(self.sites, self.factor) if self.checkpointed else None

    def loss_from_maps(self, maps: RegionMaps, call: ModelCall) -> ProbeResult:
        """Shares and losses of the maps, in their graph; no gradient yet.

        Raises RealCompoError when the pass came by no map.
        """
        if not maps.sites:
            raise RealCompoError(
                "balancer", "the model ran, but its attention to the prompt was not seen",
                "Set the balancer's mode to fixed, or take out the node that replaces the"
                " model's attention or its blocks.",
            )  # fmt: skip
        mean = maps.mean()
        if not mean.requires_grad:
            raise RealCompoError(
                "balancer", "another node runs the model without gradients (tiles, perturbed"
                " tokens), which the balancer needs",
                "Set the balancer's mode to fixed, or take that node out.",
            )  # fmt: skip
        if mean.shape[0] != call.args["input"].shape[0]:
            raise RealCompoError(
                "balancer", "another node gives attention other rows than one for each picture",
                "Set the balancer's mode to fixed, or take that node out.",
            )  # fmt: skip
        shares = inside_share(mean, self._masks(mean, call.x, call.area))
        weights, present = self._region_weights(shares)
        loss = realcompo_loss(shares, weights)
        left = (1.0 - shares.detach()) * present
        remaining = left.sum(dim=-1) / present.sum(dim=-1)
        seen = in_whole(mean.detach(), call.x, call.area, self.factor)
        return ProbeResult(shares, loss, remaining, None, None, seen)

    def token_weights(self, context: Tensor) -> Tensor:
        """What averages each region's tokens, for an encoded prompt (B, T, width)."""
        key = ("tokens", context.shape[1], context.device)
        if key not in self._cache:
            self._cache[key] = self._regions.token_weights(context.shape[1]).to(context.device)
        return self._cache[key]

    def _region_weights(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        key, present = ("weights", shares.device), ("present", shares.device)
        if key not in self._cache:
            self._cache[key] = self._regions.weights().to(shares.device)
            self._cache[present] = (self._cache[key] > 0).to(shares)
        return self._cache[key], self._cache[present]

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
        full_height, full_width = grid_size(x.shape[-2], x.shape[-1], self.factor)
        top, left = area[2] // self.factor, area[3] // self.factor
        grid = self._regions.grid(full_height, full_width)
        part = grid[..., top : top + height, left : left + width]
        out = torch.zeros(*grid.shape[:-2], height, width)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def compute_dtype(model: Any) -> torch.dtype:
    """What the host's model object computes in, which may not be what its weights are kept in."""
    return getattr(model, "manual_cast_dtype", None) or model.get_dtype()


def scale_of(call: ModelCall) -> float:
    """Factor for a loss whose gradient passes through this call."""
    return HALF_PRECISION_SCALE if call.half_precision else 1.0


def with_gradient(look: ProbeResult, gradient: Tensor, call: ModelCall) -> ProbeResult:
    """``look`` out of its graph, with the gradient at the call's latent, scaled as the loss was."""
    gradient = gradient / scale_of(call)
    if call.area is not None:
        height, width, top, left = call.area
        whole = torch.zeros_like(call.x, dtype=gradient.dtype)
        whole[..., top : top + height, left : left + width] = gradient
        gradient = whole
    finite = torch.isfinite(gradient)
    gradient = torch.where(finite, gradient, 0.0)
    return replace(without_graph(look), gradient=gradient, finite=finite.all())


def without_graph(look: ProbeResult) -> ProbeResult:
    """``look`` with its tensors detached."""
    return replace(look, shares=look.shares.detach(), loss=look.loss.detach())


def in_whole(
    maps: Tensor, x: Tensor, area: tuple[int, int, int, int] | None, factor: int
) -> Tensor:
    """Maps (B, R, h, w) of a part of the latent ``x`` in their place, nothing elsewhere."""
    if area is None:
        return maps
    height, width = grid_size(x.shape[-2], x.shape[-1], factor)
    top, left = area[2] // factor, area[3] // factor
    whole = maps.new_zeros(*maps.shape[:-2], height, width)
    part = whole[..., top : top + maps.shape[-2], left : left + maps.shape[-1]]
    part.copy_(maps[..., : part.shape[-2], : part.shape[-1]])
    return whole


def _others_add_in_place(conditions: dict[str, Any], copies_skips: bool) -> bool:
    """Whether tensors that autograd saves may be written to: by the host's ControlNet code, or by
    another pack's patches (FreeU scales in place). GLIGEN's patch does not."""
    patches = conditions["transformer_options"].get("patches", {})
    control = conditions.get("control")
    writes = control is not None and not (copies_skips and not alters_encoder(control))
    return writes or bool(set(patches) - {"middle_patch"})


def _patch_modules(entry: dict[str, Any]) -> list[torch.nn.Module]:
    """Modules beside the model that its forward goes through: GLIGEN's fusers."""
    gligen = entry.get("gligen")
    return [] if gligen is None else [gligen[1].model]
