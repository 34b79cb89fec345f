"""Small trainable matrices beside a frozen model's own: low rank (LoRA) or full differences.

They add to what a linear layer gives, so the layer itself is never touched, in whatever format
its weights are kept. What they learned goes by the keys that LoRA loaders know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """up(down(x)) * alpha / rank, zero before training (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(
        self, inputs: int, outputs: int, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        start = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(start)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output for x (..., inputs): (..., outputs), float32."""
        inner = nn.functional.linear(x.float(), self.down)
        return nn.functional.linear(inner, self.up) * (self.alpha / self.down.shape[0])

    def file_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Endings of file keys and their tensors, for parameter ``values`` by name."""
        return {
            "lora_up.weight": values["up"],
            "lora_down.weight": values["down"],
            "alpha": torch.tensor(float(self.alpha)),
        }


class FullDifference(nn.Module):
    """A whole matrix that is added to the layer's, zero before training."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.difference = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """As ``LowRank.forward``."""
        return nn.functional.linear(x.float(), self.difference)

    def file_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As ``LowRank.file_tensors``."""
        return {"diff": values["difference"]}


class Adapters:
    """Adapters by the name of the layer that each goes beside; can be switched off together."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        alpha: float,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        """``shapes`` (outputs, inputs) of every layer; ``rank`` 0 trains full differences.

        A rank above what a matrix can have is cut to that. Start values come from ``generator``
        (CPU) alone.
        """
        self.modules: dict[str, LowRank | FullDifference] = {}
        for name, (outputs, inputs) in shapes.items():
            if rank == 0:
                module: LowRank | FullDifference = FullDifference(inputs, outputs)
            else:
                fitting = min(rank, inputs, outputs)
                # the scale alpha / rank stays as it was given
                module = LowRank(inputs, outputs, fitting, alpha * fitting / rank, generator)
            self.modules[name] = module.to(device)
        self.active = True

    def parameters(self) -> list[nn.Parameter]:
        """All trainable tensors, in the order of the layers."""
        return [p for module in self.modules.values() for p in module.parameters()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with names, 'layer|parameter'."""
        for name, module in self.modules.items():
            for own, parameter in module.named_parameters():
                yield f"{name}|{own}", parameter

    @contextmanager
    def off(self) -> Iterator[None]:
        """The frozen model, for as long as this lasts."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before

    def state(self, values: Iterable[Tensor] | None = None) -> dict[str, Tensor]:
        """What was learned, as a LoRA file has it: float32 on the CPU, by 'layer.ending'.

        ``values`` stand for the parameters, in their order (averages, say).
        """
        tensors = iter(self.parameters() if values is None else values)
        state: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            own = {key: next(tensors) for key, _ in module.named_parameters()}
            for ending, tensor in module.file_tensors(own).items():
                state[f"{name}.{ending}"] = tensor.detach().float().cpu().clone()
        return state
