"""What one conditioning entry's modulation needs to know, and its grids, built once per size."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.regions import LayoutBatch
from ..errors import RealCompoError
from ..layouts.grid import Area
from .modulation import DenseSettings, Segments

NONE, MODULATE, SCALE = "none", "modulate", "scale"
DENSE_NODE = "Dense Attention (DenseDiffusion)"
# A run needs one grid per level of the model, twice that with areas; others are old ones.
GRIDS_KEPT = 16


@dataclass(frozen=True)
class View:
    """The part of a latent that a model call sees: ``area`` of ``full`` (height, width); None is
    all of it."""

    full: tuple[int, int]
    area: Area | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Latent rows and columns that are seen."""
        return self.full if self.area is None else (self.area[0], self.area[1])


@dataclass(frozen=True, eq=False)
class DensePlan:
    """Regions, their tokens in a prompt of ``length`` tokens, and how they modulate its attention.

    ``weighting`` says what the regions' weights do: ``none`` nothing, as in DenseDiffusion;
    ``modulate`` each is a factor of how far its phrase's tokens are moved; ``scale`` nothing is
    moved, but the finished cross-attention to the phrase's tokens is multiplied by it, everywhere
    in the picture and without renormalising (Prompt-to-Prompt's re-weighting). ``node`` is whom
    complaints name. Travels in a conditioning entry, so that exactly this entry is modulated
    wherever it goes.
    """

    regions: LayoutBatch
    length: int
    settings: DenseSettings
    weighting: str = NONE
    node: str = DENSE_NODE
    _grids: OrderedDict[tuple[Any, ...], Any] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def segments(self, height: int, width: int, view: View, device: torch.device) -> Segments:
        """The regions on an attention grid of ``height`` x ``width`` that shows ``view``."""
        return self._kept(
            ("segments", height, width, view, device),
            lambda: self._segments(height, width, view).to(device),
        )

    def positive(
        self, height: int, width: int, view: View, device: torch.device, tokens: int
    ) -> Tensor:
        """R (S, N, tokens) of cross-attention to ``tokens`` keys; see ``words``."""
        return self._kept(
            ("positive", height, width, view, device, tokens),
            lambda: self.segments(height, width, view, device).positive(
                self._spread(self._tokens(), tokens).to(device)
            ),
        )

    def words(self, tokens: int, device: torch.device) -> Tensor:
        """Every key's own factor (S, tokens): 0 for what is not to be moved, its region's weight
        where weights count, else 1. A token of several regions has the largest of their weights.
        """
        return self._kept(("words", tokens, device), lambda: self._words(tokens).to(device))

    @property
    def is_idle_scale(self) -> bool:
        """Whether there is nothing to scale: every weight is 1."""
        return all(region.weight == 1.0 for one in self.regions.layouts for region in one.regions)

    def _segments(self, height: int, width: int, view: View) -> Segments:
        grid = self.regions.grid(height, width, view.area, full=view.full)
        masks = grid.reshape(-1, grid.shape[-3], height * width)
        return Segments.of(masks, self.settings)

    def _tokens(self) -> Tensor:
        weights = self.regions.token_weights(self.length)
        return (weights.reshape(-1, *weights.shape[-2:]) > 0).float().transpose(1, 2)

    def _words(self, tokens: int) -> Tensor:
        others = 1.0 if self.weighting == SCALE or self.settings.words == "push down" else 0.0
        if self.weighting == NONE and others:
            return torch.ones(1, tokens)
        named = self._tokens()
        own = named
        if self.weighting != NONE:
            own = named * self.regions.weights().reshape(len(self.regions.layouts), -1, 1)
        factors = torch.where(named.amax(dim=1) > 0, own.amax(dim=1), torch.tensor(others))
        return self._spread(factors, tokens, others)

    def _spread(self, values: Tensor, tokens: int, rest: float = 0.0) -> Tensor:
        """(..., length) for ``tokens`` keys. The host repeats a prompt to the length of the longest
        in its batch; other packs append tokens, which no region names: they get ``rest``."""
        if tokens < self.length:
            raise RealCompoError(
                "model", f"another node shortens the prompt to {tokens} of {self.length} tokens",
                "Remove it: the layout's words can no longer be told in what is left",
            )  # fmt: skip
        if tokens % self.length == 0:
            return values.repeat(*[1] * (values.dim() - 1), tokens // self.length)
        return functional.pad(values, (0, tokens - self.length), value=rest)

    def _kept(self, key: tuple[Any, ...], make: Any) -> Any:
        if key not in self._grids:
            # A gradient pass may use what an ordinary pass has made: no inference tensors.
            with torch.inference_mode(False), torch.no_grad():
                self._grids[key] = make()
            while len(self._grids) > GRIDS_KEPT * 2:
                self._grids.popitem(last=False)
        return self._grids[key]
