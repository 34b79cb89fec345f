"""Count passes where they happen: samples that enter and leave a network, and backward passes.

Independent of what the guider says of itself: the counting sits on the networks' own first and
last layers and on autograd, so that it does not matter how a pass was started or shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Passes:
    """``entered``: samples that the first layer of a U-Net computed; ``finished``: the last;
    ``control``: samples through a ControlNet; ``backward``: samples differentiated."""

    entered: int = 0
    finished: int = 0
    control: int = 0
    backward: int = 0


@contextmanager
def counting(networks: Sequence[Any], controls: Sequence[Any] = ()) -> Iterator[Passes]:
    """Count the passes of U-Nets and ControlNets of the host while the block runs.

    Calls of ``torch.autograd.grad`` count the samples of their first input, but for those that a
    layer makes of its own within a backward pass.
    """
    passes = Passes()
    original, within = torch.autograd.grad, [0]

    def enter(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        # a pass that takes over what another has computed puts a stand-in here: no work is done
        if "forward" not in layer.__dict__:
            passes.entered += args[0].shape[0]

    def finish(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        passes.finished += args[0].shape[0]

    def steer(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        passes.control += args[0].shape[0]

    def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        first = inputs if isinstance(inputs, Tensor) else inputs[0]
        passes.backward += 0 if within[0] else first.shape[0]
        within[0] += 1
        try:
            return original(outputs, inputs, *args, **kwargs)
        finally:
            within[0] -= 1

    handles = []
    for network in {id(n): n for n in networks}.values():
        handles.append(network.input_blocks[0][0].register_forward_pre_hook(enter))
        handles.append(network.out.register_forward_pre_hook(finish))
    handles += [c.input_blocks[0][0].register_forward_pre_hook(steer) for c in controls]
    torch.autograd.grad = grad
    try:
        yield passes
    finally:
        torch.autograd.grad = original
        for handle in handles:
            handle.remove()
