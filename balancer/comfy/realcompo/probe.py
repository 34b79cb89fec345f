"""One probe of one model: its cross-attention shares at a latent, and the gradient of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor

from ...attention.losses import realcompo_loss
from ...attention.maps import RegionMaps, inside_share
from ...attention.regions import LayoutBatch
from ...errors import RealCompoError
from ..attention.family import Site, StopProbe
from .differentiable_pass import DifferentiablePass, Work
from .model_call import ModelCall
from .probe_request import ProbeRequest, ProbeResult
from .region_targets import RegionTargets, in_whole


class Probe:
    """Reads one model's maps of a layout's regions and differentiates RealCompo's loss.

    ``sites`` and ``factor`` say where maps are read. One object serves a whole run. ``forwards``
    and ``backwards`` count the samples that it ran partly and differentiated.
    """

    def __init__(self, regions: LayoutBatch, sites: tuple[Site, ...], factor: int) -> None:
        self.targets = RegionTargets(regions, factor)
        self.passes = DifferentiablePass(sites, factor)
        self.forwards = 0
        self.backwards = 0
        self._has_read = False

    def run(
        self, request: ProbeRequest, work: Work | None = None, copies_skips: bool = False
    ) -> ProbeResult | None:
        """Ask the host for the prediction and do ``work`` (``differentiate``) in its place.

        ``copies_skips``: see ``DifferentiablePass.options``. Returns None when the host ran no
        model (timestep range).
        """
        x = request.latent * request.scale
        throw_exception_if_processing_interrupted()
        options, results = self.passes.options(
            request.model, request.entry, x, request.model_options, work or self.differentiate,
            copies_skips=copies_skips,
        )  # fmt: skip
        # a pack that samples in windows would split the one pass that is wanted here
        options.pop("context_handler", None)
        comfy.samplers.calc_cond_batch(
            request.model, [[request.entry]], x, request.sigma, options
        )  # fmt: skip
        if not results or results[0].gradient is None:
            return results[0] if results else None
        return replace(results[0], gradient=results[0].gradient * request.scale)

    def differentiate(self, call: ModelCall) -> ProbeResult | None:
        """Run the call as far as maps are read, and differentiate the loss; see ``read``."""
        latent = call.input.requires_grad_(True)
        maps = RegionMaps(self.targets.token_weights(call.context))

        def answer() -> ProbeResult:
            result = self.loss_from_maps(maps, call)
            (gradient,) = torch.autograd.grad(result.loss.sum() * call.loss_scale, latent)
            return call.with_gradient(result, gradient)

        return self.read(call, latent, maps, answer)

    def read(
        self, call: ModelCall, latent: Tensor, maps: RegionMaps, answer: Callable[[], ProbeResult]
    ) -> ProbeResult | None:
        """Run the call from ``latent`` (B, C, h, w), with readers that fill ``maps``; ``answer``.

        A call that is a prediction as well goes on from there without a graph. None where another
        pack's cache spared the model a call that came by maps before.
        """
        results: list[ProbeResult] = []

        def at_last() -> None:
            if not call.whole:
                raise StopProbe
            results.append(answer())
            # gradient_mode puts it back when the call ends
            torch.set_grad_enabled(False)

        call.output = call.run(latent, self.passes.reading(call, maps, at_last))
        self.forwards += 0 if call.whole else latent.shape[0]
        if not results and not maps.sites and self._has_read:
            return None
        self.backwards += latent.shape[0]
        self._has_read = True
        return results[0] if results else answer()

    def loss_from_maps(self, maps: RegionMaps, call: ModelCall) -> ProbeResult:
        """Shares and losses (Eq. 6) of the maps, in their graph; no gradient yet.

        Raises RealCompoError when the pass came by no map, or by maps that cannot be used.
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
        shares = inside_share(mean, self.targets.masks(mean, call.x, call.area))
        weights, present = self.targets.loss_weights(shares)
        loss = realcompo_loss(shares, weights)
        left = (1.0 - shares.detach()) * present
        remaining = left.sum(dim=-1) / present.sum(dim=-1)
        seen = in_whole(mean.detach(), call.x, call.area, self.passes.factor)
        return ProbeResult(shares, loss, remaining, maps=seen)
