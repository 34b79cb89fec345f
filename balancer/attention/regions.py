"""The regions that a batch is balanced by: one layout for all samples, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..layouts.grid import Area, region_grid
from ..layouts.layout import Layout
from .maps import token_weights

Tokens = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayoutBatch:
    """Layouts with the token positions of their regions.

    One layout serves a whole batch, and tensors then have no batch dimension. Several are one per
    sample: tensors get a leading dimension B, and samples with fewer regions are filled up with
    regions of no tokens, no area and weight zero.
    """

    layouts: tuple[Layout, ...]
    tokens: tuple[Tokens, ...]

    @classmethod
    def of(
        cls, layout: Layout | Sequence[Layout], tokens: Tokens | Sequence[Tokens]
    ) -> LayoutBatch:
        """From one layout and its tokens, or from equally long sequences of both.

        Raises ValueError if the sequences are empty or differ in length.
        """
        if isinstance(layout, Layout):
            return cls((layout,), (tuple(tokens),))  # type: ignore[arg-type]
        layouts, spans = tuple(layout), tuple(tuple(entry) for entry in tokens)
        if not layouts or len(layouts) != len(spans):
            raise ValueError(f"{len(layouts)} layouts with token positions for {len(spans)}")
        return cls(layouts, spans)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """Regions of the layout with the most of them."""
        return max(len(layout.regions) for layout in self.layouts)

    def _together(self, make: Callable[[int], Tensor], dim: int) -> Tensor:
        """One tensor per layout, filled up along ``dim`` (negative) and stacked."""
        parts = [make(number) for number in range(len(self.layouts))]
        if len(parts) == 1:
            return parts[0]
        room = [0] * (-2 * dim - 1)
        padded = [functional.pad(p, (*room, self.count - p.shape[dim])) for p in parts]
        return torch.stack(padded)

    def token_weights(self, length: int) -> Tensor:
        """(length, R) or (B, length, R), see ``attention_maps.token_weights``."""
        return self._together(lambda n: token_weights(self.tokens[n], length), -1)

    def grid(
        self,
        height: int,
        width: int,
        area: Area | None = None,
        *,
        full: tuple[int, int] | None = None,
        soft: bool = False,
    ) -> Tensor:
        """(R, height, width) or (B, R, height, width), see ``masks.region_grid``."""
        return self._together(
            lambda n: region_grid(self.layouts[n], height, width, area, full=full, soft=soft), -3
        )

    def coverage(self, height: int, width: int) -> Tensor:
        """How much of each cell lies in some region: (1 or B, 1, height, width) in 0..1."""
        if not self.count:
            return torch.zeros(len(self.layouts), 1, height, width)
        grid = self.grid(height, width, soft=True)
        return grid.amax(dim=-3, keepdim=True).reshape(-1, 1, height, width)

    def weights(self) -> Tensor:
        """(R,) or (B, R): every region's weight in the loss, 0 where there is none."""
        return self._together(
            lambda n: torch.tensor([r.weight for r in self.layouts[n].regions]), -1
        )
