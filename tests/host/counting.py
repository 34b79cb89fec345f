"""Count what a sampler costs: passes through the diffusion models, and backward passes.

Counting happens at the network's own ``forward``, so it does not matter by which of the host's
ways a pass was started. Results are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass
class PassCount:
    """Passes through one diffusion model.

    full / partial: calls that returned / that an exception left. full_samples, partial_samples:
    the same in batch rows. stray_layers: layers of the UNet's blocks that ran outside any such
    call, as in a shared or hand-made pass.
    """

    full: int = 0
    partial: int = 0
    full_samples: int = 0
    partial_samples: int = 0
    stray_layers: int = 0


@dataclass
class Counts:
    """``models[name]`` per patcher given; ``backward``: outermost runs of autograd's engine."""

    models: dict[str, PassCount] = field(default_factory=dict)
    backward: int = 0

    def total(self, what: str) -> int:
        """Sum of one field of PassCount over the different networks."""
        different = {id(count): count for count in self.models.values()}
        return sum(getattr(count, what) for count in different.values())


@contextmanager
def _count_passes(network: torch.nn.Module, count: PassCount) -> Iterator[None]:
    depth = 0
    forward = network.forward

    def counted(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            out = forward(x, *args, **kwargs)
        except BaseException:
            count.partial += 1
            count.partial_samples += x.shape[0]
            raise
        finally:
            depth -= 1
        count.full += 1
        count.full_samples += x.shape[0]
        return out

    def entered(module: torch.nn.Module, args: Any) -> None:
        if depth == 0:
            count.stray_layers += 1

    # The host walks through a block's layers itself and never calls the block.
    blocks = [*getattr(network, "input_blocks", ()), *getattr(network, "output_blocks", ())]
    blocks.append(getattr(network, "middle_block", ()))
    handles = [layer.register_forward_pre_hook(entered) for block in blocks for layer in block]
    own = "forward" in network.__dict__
    network.forward = counted
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if own:
            network.forward = forward
        else:
            del network.forward


@contextmanager
def _count_backward(counts: Counts) -> Iterator[None]:
    depth = 0
    # Tensor.backward looks torch.autograd.backward up when it is called, so both are seen.
    saved: dict[str, Callable[..., Any]] = {
        name: getattr(torch.autograd, name) for name in ("grad", "backward")
    }

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            # A custom autograd function may differentiate again inside its own backward.
            counts.backward += depth == 0
            depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1

        return run

    for name, function in saved.items():
        setattr(torch.autograd, name, counting(function))
    try:
        yield
    finally:
        for name, function in saved.items():
            setattr(torch.autograd, name, function)


@contextmanager
def counting(**patchers: ModelPatcher) -> Iterator[Counts]:
    """Count while the block runs: ``with counting(realism=a, spatial=b) as counts: ...``.

    Patchers that share one network share one PassCount object. Calls of ``grad`` bound by name at
    import time (``from torch.autograd import grad``) are not seen.
    """
    counts = Counts()
    networks: dict[int, PassCount] = {}
    with ExitStack() as stack:
        stack.enter_context(_count_backward(counts))
        for name, patcher in patchers.items():
            network = patcher.model.diffusion_model
            if id(network) not in networks:
                networks[id(network)] = PassCount()
                stack.enter_context(_count_passes(network, networks[id(network)]))
            counts.models[name] = networks[id(network)]
        yield counts
