"""Order along one axis of the picture: from 'this before that' to intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Interval = tuple[float, float]
Edge = tuple[int, int]
ZONES: tuple[Interval, Interval, Interval] = ((0.0, 0.45), (0.3, 0.7), (0.55, 1.0))
"""What 'left', 'middle' and 'right' (or top to bottom) mean on an axis of 0..1."""

_STEPS = 24


@dataclass
class Axis:
    """Items 0..n-1 on an axis of 0..1: who is before whom, and which zone somebody is bound to.

    ``weights`` are the shares of room that items ask for; ``zones`` hold None or an index into
    ``ZONES``. Items of different zones are in order by themselves.
    """

    weights: Sequence[float]
    zones: Sequence[int | None]
    edges: list[Edge] = field(default_factory=list)

    def __post_init__(self) -> None:
        for one, first in enumerate(self.zones):
            for other, second in enumerate(self.zones):
                if first is not None and second is not None and first < second:
                    self.edges.append((one, other))

    def order(self, extra: Sequence[Edge] = ()) -> list[int] | None:
        """The items so that every edge runs forward, or None if the edges run in a circle."""
        edges = [*self.edges, *extra]
        waiting = [sum(1 for _, to in edges if to == item) for item in range(len(self.weights))]
        ready = [item for item, count in enumerate(waiting) if not count]
        out: list[int] = []
        while ready:
            item = ready.pop(0)
            out.append(item)
            for start, to in edges:
                if start == item:
                    waiting[to] -= 1
                    if not waiting[to]:
                        ready.append(to)
        return out if len(out) == len(self.weights) else None

    def _window(self, item: int) -> Interval:
        zone = self.zones[item]
        return (0.0, 1.0) if zone is None else ZONES[zone]

    def _starts(self, order: list[int], edges: Sequence[Edge], unit: float) -> list[float] | None:
        """Earliest starts if each item takes ``unit`` times its weight; None if they do not fit."""
        starts = [0.0] * len(order)
        for item in order:
            low, high = self._window(item)
            size = unit * self.weights[item]
            before = [starts[s] + unit * self.weights[s] for s, to in edges if to == item]
            starts[item] = max([low, *before])
            if starts[item] + size > high + 1e-9:
                return None
        return starts

    def _widest(self, order: list[int], edges: Sequence[Edge]) -> tuple[float, list[float]]:
        low, high = 0.0, 1.0
        best = self._starts(order, edges, low) or [0.0] * len(order)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            starts = self._starts(order, edges, middle)
            if starts is None:
                high = middle
            else:
                low, best = middle, starts
        return low, best

    def room(self, extra: Sequence[Edge] = ()) -> float:
        """The room per weight, 0..1, that is left for everybody with ``extra`` edges; 0 if the
        edges run in a circle."""
        order = self.order(extra)
        return self._widest(order, [*self.edges, *extra])[0] if order else 0.0

    def intervals(self) -> list[Interval]:
        """An interval for every item: along every edge one ends before the other starts."""
        order = self.order()
        if order is None:
            raise ValueError("the order runs in a circle")
        _, starts = self._widest(order, self.edges)
        out: list[Interval] = []
        for item, start in enumerate(starts):
            ends = [starts[to] for source, to in self.edges if source == item]
            out.append((start, min([self._window(item)[1], *ends])))
        return out
