"""Both looks of a balanced step at once, where the two branches are one checkpoint.

Branches that differ by a ControlNet share conv_in, down path and middle. That half is run and
differentiated once; each branch's second half is run, differentiated and freed by itself, so no
more activations are alive than in a look at one model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..attention_maps import RegionMaps
from .attention.family import StopProbe, last_site
from .gradients import gradient_mode, without_inference_tensors
from .probe import (
    ModelCall,
    Probe,
    ProbeRequest,
    ProbeResult,
    scale_of,
    with_gradient,
    without_graph,
)
from .shared_encoder import alters_encoder, encoder_length, recording, replaying


class _Half:
    """The common first half: its outputs in their graph, and what is passed back to them."""

    def __init__(self, probe: Probe, call: ModelCall) -> None:
        self._network = network = call.model.diffusion_model
        self.call = call
        self.latent = call.input.requires_grad_(True)
        self.maps = RegionMaps(probe.token_weights(call.context))
        with recording(network, copies=False, stop=StopProbe()) as outputs:
            call.run(self.latent, probe.reading(call, self.maps))
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
            look = probe.loss_from_maps(maps, call)
            loss = look.loss.sum() * scale_of(call)
            gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
            for place, gradient in enumerate(gradients):
                before = self._passed[place]
                if gradient is not None:
                    self._passed[place] = gradient if before is None else before + gradient
            return without_graph(look)

        # a ControlNet adds in place to what the blocks give
        with replaying(self._network, [leaf.clone() for leaf in leaves]):
            return probe.read(call, call.input, maps, answer)

    def gradient(self) -> Tensor:
        """Gradient of the losses so far at the latent."""
        known = [
            (output, passed)
            for output, passed in zip(self._outputs, self._passed, strict=True)
            if passed is not None
        ]
        outputs, passed = zip(*known, strict=True)
        (gradient,) = torch.autograd.grad(outputs, self.latent, grad_outputs=passed)
        return gradient


def can_share(probe: Probe) -> bool:
    """Whether the last map to be read lies behind the common half: in U-Nets only."""
    last = last_site(probe.sites, probe.factor)
    return last is not None and last.key[0] == "output"


class PairProbe:
    """Looks at one network as the realism and as the spatial branch see it.

    ``first`` and ``second`` are the branches' own probes, which keep count; ``halves`` counts the
    samples whose first half served both. The gradient of both losses is in the first look, unless a
    control that reaches into the first half (T2I-Adapter) forbids to share it: then each look has
    its own.
    """

    def __init__(self, first: Probe, second: Probe) -> None:
        self._probes = (first, second)
        second.aliases = first.aliases  # one network, one set of stand-ins
        self.halves = 0
        self.begin()

    def begin(self) -> None:
        """Before the looks of a step."""
        self._half: _Half | None = None
        self._followers = 0

    def work(self, probe: Probe) -> Callable[[ModelCall], ProbeResult | None]:
        """What to do in place of the model call, for the first branch and then for the second."""

        def look(call: ModelCall) -> ProbeResult | None:
            if alters_encoder(call.args["c"].get("control")):
                return probe.differentiate(call)
            if self._half is None:
                half = _Half(probe, call)
                if not half.is_whole:
                    return probe.differentiate(call)
                self._half = half
            self._followers += 1
            return self._half.follow(probe, call)

        return look

    def finish(
        self, looks: list[ProbeResult | None], scale: float = 1.0
    ) -> list[ProbeResult | None]:
        """The looks with their gradient, times ``scale``, after both were had."""
        half, followers = self._half, self._followers
        self.begin()
        if half is None:
            return looks
        self.halves += half.latent.shape[0] * (followers - 1)
        # checkpointed blocks run again in this
        with gradient_mode(), without_inference_tensors(half.call.modules, self._probes[0].aliases):
            gradient = half.gradient()
        for place, look in enumerate(looks):
            if look is not None and look.gradient is None:
                looks[place] = with_gradient(look, gradient * scale, half.call)
                break
        return looks

    def look(
        self, first: Callable[[], ProbeRequest | None], second: Callable[[], ProbeRequest | None]
    ) -> list[ProbeResult | None]:
        """Both branches' looks at the same latent; the questions are asked for one by one."""
        self.begin()
        looks: list[ProbeResult | None] = []
        scale = 1.0
        for probe, ask in zip(self._probes, (first, second), strict=True):
            question = ask()
            if question is None:
                looks.append(None)
                continue
            scale = question.scale
            looks.append(question.run(probe, self.work(probe), copies_skips=True))
        return self.finish(looks, scale)
