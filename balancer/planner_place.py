"""Boxes for things and their relations: who is left of, above, in or in front of whom.

Every relation becomes an order along one axis; things that would still overlap are put beside or
below each other. What contradicts what was said before is left out, with a remark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .layout import Box
from .planner_axis import Axis
from .planner_parse import Anchor, Parsed, Relation, Thing

_LEAST_ROOM = 0.05
_ROW = 0.24
"""Things go into one row as long as each keeps this share of the width, then below each other."""
_MARGIN = 0.06
_TALLEST, _WIDEST = 1.5, 1.3
"""Longest sides of a box for one thing, relative to the other side, in pixels."""
_INSIDE: Box = (0.2, 0.2, 0.8, 0.8)
_IN_FRONT: Box = (0.15, 0.5, 0.85, 1.0)
_ACROSS = {"left": 0, "middle": 1, "right": 2}
_DOWN = {"top": 0, "middle": 1, "bottom": 2}


def _within(outer: Box, inner: Box) -> Box:
    """``inner``, which counts in shares of ``outer``, in shares of the picture."""
    wide, high = outer[2] - outer[0], outer[3] - outer[1]
    return (
        outer[0] + inner[0] * wide, outer[1] + inner[1] * high,
        outer[0] + inner[2] * wide, outer[1] + inner[3] * high,
    )  # fmt: skip


def _overlap(one: Box, other: Box) -> bool:
    e = 1e-6
    apart = one[2] <= other[0] + e or other[2] <= one[0] + e
    return not (apart or one[3] <= other[1] + e or other[3] <= one[1] + e)


@dataclass
class _Cells:
    """Cells without overlap for some things; ``members`` are their numbers in the prompt."""

    members: list[int]
    things: list[Thing]
    notes: list[str]

    def __post_init__(self) -> None:
        chosen = [self.things[index] for index in self.members]
        across: list[Anchor] = [thing.anchor for thing in chosen]
        wide = [1.0 + 0.4 * (min(thing.count, 5) - 1) for thing in chosen]
        self.x = Axis(wide, [_ACROSS.get(anchor[0]) for anchor in across])
        self.y = Axis([1.0] * len(chosen), [_DOWN.get(anchor[1]) for anchor in across])
        self.touched: set[int] = set()

    def relate(self, relation: Relation) -> None:
        """Add one relation between two members."""
        one, other = self.members.index(relation.one), self.members.index(relation.other)
        axis = self.y if relation.kind in ("above", "on") else self.x
        self.touched |= {one, other}
        if relation.kind in ("beside", "at") and axis.order([(one, other)]) is None:
            one, other = other, one
        if axis.room([(one, other)]) < _LEAST_ROOM:
            names = [self.things[i].phrase for i in (relation.one, relation.other)]
            self.notes.append(
                f"left out: '{names[0]}' {relation.kind} '{names[1]}' (contradicts what was said"
                " before, or leaves no room)"
            )
            return
        axis.edges.append((one, other))

    def _grid(self) -> None:
        """Things about which nothing is said, in rows, if they are too many for one."""
        free = [
            index
            for index, member in enumerate(self.members)
            if index not in self.touched and not any(self.things[member].anchor)
        ]
        if len(free) <= 3:
            return
        columns = math.ceil(math.sqrt(len(free)))
        rows = [free[start : start + columns] for start in range(0, len(free), columns)]
        for row in rows:
            self.x.edges += list(zip(row, row[1:], strict=False))
        for upper, lower in zip(rows, rows[1:], strict=False):
            self.y.edges += [(one, other) for one in upper for other in lower]

    def _boxes(self) -> list[Box]:
        across, down = self.x.intervals(), self.y.intervals()
        return [(x[0], y[0], x[1], y[1]) for x, y in zip(across, down, strict=True)]

    def boxes(self) -> dict[int, Box]:
        """A cell of the unit square for every member."""
        self._grid()
        boxes = self._boxes()
        # Every round settles one pair for good; whom that moves into whom, the next rounds see.
        while (pair := self._overlapping(boxes)) is not None and self._part(*pair):
            boxes = self._boxes()
        return dict(zip(self.members, boxes, strict=True))

    def _overlapping(self, boxes: list[Box]) -> tuple[int, int] | None:
        for other in range(len(boxes)):
            for one in range(other):
                if _overlap(boxes[one], boxes[other]):
                    return one, other
        return None

    def _part(self, one: int, other: int) -> bool:
        """Put two things beside or below each other, wherever there is more room; False if there
        is none."""
        edges = ((one, other), (other, one))
        row = [(self.x.room([edge]), self.x, edge) for edge in edges]
        column = [(self.y.room([edge]), self.y, edge) for edge in edges]
        chosen = max(row, key=lambda entry: entry[0])
        if chosen[0] < _ROW:
            chosen = max([chosen, *column], key=lambda entry: entry[0])
        if chosen[0] > 0:
            chosen[1].edges.append(chosen[2])
        return chosen[0] > 0


def _parents(parsed: Parsed, notes: list[str]) -> dict[int, tuple[int, Box]]:
    """Which thing stands in or in front of which other one, and where in its box."""
    parents: dict[int, tuple[int, Box]] = {}

    def above(index: int) -> list[int]:
        chain = [index]
        while chain[-1] in parents and len(chain) <= len(parsed.things):
            chain.append(parents[chain[-1]][0])
        return chain

    for relation in parsed.relations:
        if relation.kind not in ("inside", "front"):
            continue
        if relation.one in parents or relation.one in above(relation.other):
            notes.append(f"left out: a second place of '{parsed.things[relation.one].phrase}'")
            continue
        place = _INSIDE if relation.kind == "inside" else _IN_FRONT
        parents[relation.one] = (relation.other, place)
    for relation in parsed.relations:
        # Who rides a horse in front of a castle is in front of it, too.
        carried = relation.kind == "on" and relation.other in parents
        if carried and relation.one not in parents and relation.one not in above(relation.other):
            parents[relation.one] = parents[relation.other]
    return parents


def _fitted(cell: Box, thing: Thing, aspect: float) -> Box:
    """The box of one thing in its cell: no stripe, with some air, at the side that it names."""
    wide, high = cell[2] - cell[0], cell[3] - cell[1]
    inner_wide, inner_high = wide * (1 - 2 * _MARGIN), high * (1 - 2 * _MARGIN)
    w = min(inner_wide, inner_high * _WIDEST / aspect)
    h = min(inner_high, inner_wide * _TALLEST * aspect)
    across = {"left": 0.0, "right": 1.0}.get(thing.anchor[0], 0.5)
    down = {"top": 0.0, "bottom": 1.0}.get(thing.anchor[1], 0.5)
    left = cell[0] + min(max(across * wide - w * across, _MARGIN * wide), wide - w - _MARGIN * wide)
    top = cell[1] + min(max(down * high - h * down, _MARGIN * high), high - h - _MARGIN * high)
    return (left, top, left + w, top + h)


def _copies(cell: Box, count: int, aspect: float) -> list[Box]:
    """``count`` cells in rows, with the columns that make them most like squares."""
    if count == 1:
        return [cell]
    wide, high = (cell[2] - cell[0]) * aspect, cell[3] - cell[1]

    def worth(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(wide / columns, high / rows)

    columns = max(range(1, count + 1), key=worth)
    rows = math.ceil(count / columns)
    out = []
    for number in range(count):
        row = number // columns
        # The last row may be short; it is spread over the whole width.
        held = columns if row < rows - 1 else count - columns * (rows - 1)
        column = number - row * columns
        out.append(
            _within(cell, (column / held, row / rows, (column + 1) / held, (row + 1) / rows))
        )
    return out


def place(parsed: Parsed, aspect: float = 1.0) -> tuple[list[list[Box]], list[str]]:
    """For every thing its boxes (one for each copy), and remarks about what could not be obeyed.

    ``aspect`` is the picture's width divided by its height.
    """
    notes: list[str] = []
    things = list(parsed.things)
    parents = _parents(parsed, notes)
    for child, (parent, _) in parents.items():
        if any(things[child].anchor) and not any(things[parent].anchor):
            things[parent] = Thing(things[parent].phrase, things[parent].start,
                                   things[parent].count, things[child].anchor)  # fmt: skip
    for child in parents:
        things[child] = Thing(things[child].phrase, things[child].start, things[child].count)

    def chain(index: int) -> list[int]:
        out = [index]
        while out[-1] in parents:
            out.append(parents[out[-1]][0])
        return out

    cells: dict[int, Box] = {}
    levels: list[tuple[int | None, list[int], Box]] = [
        (None, [i for i in range(len(things)) if i not in parents], (0.0, 0.0, 1.0, 1.0))
    ]
    while levels:
        parent, members, frame = levels.pop(0)
        group = _Cells(members, things, notes)
        for relation in parsed.relations:
            if relation.kind in ("inside", "front"):
                continue
            # A relation to a thing inside another one is a relation to that one, seen from outside.
            ends = [
                next((i for i in chain(end) if i in members), None)
                for end in (relation.one, relation.other)
            ]
            if None not in ends and ends[0] != ends[1]:
                group.relate(Relation(relation.kind, ends[0], ends[1]))  # type: ignore[arg-type]
        for member, box in group.boxes().items():
            cells[member] = _within(frame, box)
            for where in (_INSIDE, _IN_FRONT):
                inner = [c for c, (p, at) in parents.items() if p == member and at is where]
                if inner:
                    fitted = _fitted(cells[member], things[member], aspect)
                    levels.append((member, inner, _within(fitted, where)))
    return [
        [_fitted(copy, thing, aspect) for copy in _copies(cells[index], thing.count, aspect)]
        for index, thing in enumerate(things)
    ], notes
