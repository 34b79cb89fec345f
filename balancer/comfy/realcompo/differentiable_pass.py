"""A prediction of the host in whose place something is done with gradients.

The host makes an ordinary conditional prediction, and the work slips in as the innermost model
call. So hooks, areas, GLIGEN, ControlNet and other packs' patches act as in any other prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...attention.maps import RegionMaps
from ..attention.entries import entry_area
from ..attention.families import family_of
from ..attention.family import Site, last_site, stop
from ..autograd.activation_memory import Pass
from ..autograd.checkpointing import checkpointed, must_be_checkpointed
from ..autograd.grounded_attention import differentiable_grounding
from ..autograd.inference_weights import (
    Aliases,
    gradient_mode,
    saved_copies,
    without_inference_tensors,
)
from ..host.cards import on_one_card
from ..host.compat import adds_in_place
from .model_call import ModelCall, compute_dtype
from .probe_request import ProbeResult
from .shared_encoder import INSIDE_BLOCKS, alters_encoder

Work = Callable[[ModelCall], ProbeResult | None]
"""What is done in place of a model call."""


class DifferentiablePass:
    """How one model is run during a run of the guider, so that autograd can go back through it.

    Maps are read at the ``sites`` of level ``factor``. ``checkpointed``: keep little for the
    backward (see checkpointing.py); None lets the first pass decide by the memory that is free.
    """

    def __init__(self, sites: tuple[Site, ...], factor: int) -> None:
        self.sites, self.factor = sites, factor
        self.aliases: Aliases = {}
        self.checkpointed: bool | None = None

    def options(
        self,
        model: Any,
        entry: dict[str, Any],
        x: Tensor,
        model_options: dict[str, Any],
        work: Work,
        whole: bool = False,
        copies_skips: bool = False,
    ) -> tuple[dict[str, Any], list[ProbeResult]]:
        """Options of a prediction for ``x`` (B, C, H, W) in whose place ``work`` is done, and where
        its result will be.

        ``whole``: the prediction is wanted as well; else it comes out as zeros. ``copies_skips``:
        the work sees to it that ControlNets behind the encoder write to copies.
        """
        options, results = on_one_card(model_options), []
        inner = options.get("model_function_wrapper")
        area = entry_area(entry, *x.shape[-2:])
        modules = (model.diffusion_model, *_patch_modules(entry))

        def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            with self._ready(model, modules, args, copies_skips):
                call = ModelCall(apply_model, args, inner, x, area, model, whole, modules)
                result = work(call)
                if result is not None:
                    results.append(result)
            return torch.zeros_like(args["input"]) if call.output is None else call.output

        options["model_function_wrapper"] = wrapper
        return options, results

    def reading(
        self, call: ModelCall, maps: RegionMaps, at_last: Callable[[], None] = stop
    ) -> dict[str, Any]:
        """The call's options with readers that fill ``maps``, and ``at_last`` behind the last."""
        batch, height, width = (call.args["input"].shape[n] for n in (0, -2, -1))
        return family_of(call.model.diffusion_model).reading_options(
            call.options, self.sites, self.factor, maps, (batch, height, width), at_last
        )

    @contextmanager
    def _ready(
        self, model: Any, modules: tuple[Module, ...], args: dict[str, Any], copies_skips: bool
    ) -> Iterator[None]:
        """Gradients on, and ``modules`` such that autograd can work with their weights."""
        network = model.diffusion_model
        family = family_of(network)
        copies = adds_in_place() or family.adds_in_place
        copies = copies or _others_add_in_place(args["c"], copies_skips)
        with (
            gradient_mode(),
            without_inference_tensors(modules, self.aliases),
            saved_copies(modules, copies),
            differentiable_grounding(modules[1:]),
            family.one_pass(network),
            checkpointed(network, self._last_checkpoint(model, args, len(modules) > 1), copies),
        ):
            yield

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


def _others_add_in_place(conditions: dict[str, Any], copies_skips: bool) -> bool:
    """Whether tensors that autograd saves may be written to: by the host's ControlNet code, or by
    another pack's patches (FreeU scales in place). GLIGEN's patch does not."""
    patches = conditions["transformer_options"].get("patches", {})
    control = conditions.get("control")
    writes = control is not None and not (copies_skips and not alters_encoder(control))
    return writes or bool(set(patches) - {"middle_patch"})


def _patch_modules(entry: dict[str, Any]) -> list[Module]:
    """Modules beside the model that its forward goes through: GLIGEN's fusers."""
    gligen = entry.get("gligen")
    return [] if gligen is None else [gligen[1].model]
