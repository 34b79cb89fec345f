"""What a step of every finetuning is made of: prompts of a batch, and the way back to the start."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from .session import Encoded, Session


class PromptGroups:
    """Indices of prompts, grouped by what must be equal within a batch (length in tokens, say)."""

    def __init__(self, kinds: Sequence[Hashable]) -> None:
        """``kinds``: what must be equal, of every prompt."""
        self._kinds = tuple(kinds)
        self._groups: dict[Hashable, list[int]] = {}
        for index, kind in enumerate(self._kinds):
            self._groups.setdefault(kind, []).append(index)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._groups.values())

    def draw(self, batch: int, generator: torch.Generator) -> list[int]:
        """``batch`` prompts of one kind; a kind's chance goes with its number of prompts."""
        first = int(torch.randint(len(self._kinds), (1,), generator=generator))
        group = self._groups[self._kinds[first]]
        order = torch.randperm(len(group), generator=generator).tolist()
        return [group[order[n % len(group)]] for n in range(batch)]


def noise_error(prediction: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """Mean square error of predictions of the clean latent (B, C, H, W) in terms of the noise.

    ``sigma`` (B,): their noise levels. The noise differs by the difference over sigma.
    """
    return ((prediction - target) / sigma[:, None, None, None]).square().mean()


def distance_to_untrained(
    session: Session,
    x: Tensor,
    sigma: Tensor,
    prompts: Sequence[Encoded],
    tuned: Tensor | None = None,
) -> Tensor:
    """Mean square of what training changed in the predicted noise, a scalar in autograd's graph.

    Inputs as of ``Session.predict``; ``tuned``: its prediction, where it is made already.
    """
    with session.frozen():
        frozen = session.predict(x, sigma, prompts)
    tuned = session.predict(x, sigma, prompts) if tuned is None else tuned
    return noise_error(tuned, frozen, sigma)
