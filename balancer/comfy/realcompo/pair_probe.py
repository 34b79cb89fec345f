"""The probes of a balanced step at once, where branches are one checkpoint.

Branches that differ by a ControlNet share conv_in, down path and middle. That half is run and
differentiated once; each branch's second half is run, differentiated and freed by itself, so no
more activations are alive than in a probe of one model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from ...attention.maps import RegionMaps
from ..attention.families import family_of
from ..attention.family import StopProbe, last_site
from ..autograd.inference_weights import gradient_mode, without_inference_tensors
from .differentiable_pass import Work
from .model_call import ModelCall
from .probe import Probe
from .probe_request import ProbeRequest, ProbeResult
from .shared_encoder import alters_encoder, encoder_length, recording, replaying


class _Half:
    """The common first half: its outputs in their graph, and what is passed back to them."""

    def __init__(self, probe: Probe, call: ModelCall) -> None:
        self._network = network = call.model.diffusion_model
        self.call = call
        self.latent = call.input.requires_grad_(True)
        self.maps = RegionMaps(probe.targets.token_weights(call.context))
        with recording(network, copies=False, stop=StopProbe()) as outputs:
            call.run(self.latent, probe.passes.reading(call, self.maps))
        self._outputs: list[Tensor] = [*outputs]
        if self.maps.total is not None:
            self._outputs.append(self.maps.total)
        self._blocks = len(outputs)
        self._passed: list[Tensor | None] = [None] * len(self._outputs)

    @property
    def is_whole(self) -> bool:
        """Whether the pass came by all of the half; a cache of another pack may spare it."""
        return self._blocks == encoder_length(self._network)

    def follow(self, probe: Probe, call: ModelCall) -> ProbeResult | None:
        """Run one branch's second half, differentiate its loss, and keep the gradient here."""
        maps, total = self.maps.continued()
        leaves = [out.detach().requires_grad_(True) for out in self._outputs[: self._blocks]]
        inputs = leaves if total is None else [*leaves, total]

        def answer() -> ProbeResult:
            result = probe.loss_from_maps(maps, call)
            loss = result.loss.sum() * call.loss_scale
            gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
            for index, gradient in enumerate(gradients):
                before = self._passed[index]
                if gradient is not None:
                    self._passed[index] = gradient if before is None else before + gradient
            return result.without_graph()

        # a ControlNet adds in place to what the blocks give
        with replaying(self._network, [leaf.clone() for leaf in leaves]):
            return probe.read(call, call.input, maps, answer)

    def gradient(self) -> Tensor:
        """Gradient (B, C, h, w) of the losses so far at the latent."""
        known = [
            (output, passed)
            for output, passed in zip(self._outputs, self._passed, strict=True)
            if passed is not None
        ]
        outputs, passed = zip(*known, strict=True)
        (gradient,) = torch.autograd.grad(outputs, self.latent, grad_outputs=passed)
        return gradient


def can_share(probe: Probe, network: Module) -> bool:
    """Whether the last map of ``network`` that is read lies behind the common half."""
    last = last_site(probe.passes.sites, probe.passes.factor)
    return last is not None and family_of(network).is_behind_first_half(last)


class PairProbe:
    """Probes one network as each of several branches sees it.

    ``probes`` are the branches' own, which keep count; ``halves`` counts the samples whose first
    half served another branch as well. The gradient of all losses is in the first result, unless a
    control that reaches into the first half (T2I-Adapter) forbids to share it: then each result has
    its own.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        for probe in probes[1:]:  # one network, one set of stand-ins
            probe.passes.aliases = probes[0].passes.aliases
        self.halves = 0
        self.begin()

    def begin(self) -> None:
        """Before the probes of a step."""
        self._half: _Half | None = None
        self._followers = 0

    def work(self, probe: Probe) -> Work:
        """What to do in place of the model call, for one branch after the other."""

        def differentiate(call: ModelCall) -> ProbeResult | None:
            if alters_encoder(call.args["c"].get("control")):
                return probe.differentiate(call)
            if self._half is None:
                half = _Half(probe, call)
                if not half.is_whole:
                    return probe.differentiate(call)
                self._half = half
            self._followers += 1
            return self._half.follow(probe, call)

        return differentiate

    def finish(
        self, results: list[ProbeResult | None], scale: float = 1.0
    ) -> list[ProbeResult | None]:
        """The results with their gradient, times ``scale``, after all were had."""
        half, followers = self._half, self._followers
        self.begin()
        if half is None:
            return results
        self.halves += half.latent.shape[0] * (followers - 1)
        aliases = self._probes[0].passes.aliases
        # checkpointed blocks run again in this
        with gradient_mode(), without_inference_tensors(half.call.modules, aliases):
            gradient = half.gradient()
        for index, result in enumerate(results):
            if result is not None and result.gradient is None:
                results[index] = half.call.with_gradient(result, gradient * scale)
                break
        return results

    def run(
        self, requests: Sequence[Callable[[], ProbeRequest | None]]
    ) -> list[ProbeResult | None]:
        """All branches' results at the same latent; the requests are asked for one by one."""
        self.begin()
        results: list[ProbeResult | None] = []
        scale = 1.0
        for probe, ask in zip(self._probes, requests, strict=True):
            request = ask()
            if request is None:
                results.append(None)
                continue
            scale = request.scale
            results.append(probe.run(request, self.work(probe), copies_skips=True))
        return self.finish(results, scale)
