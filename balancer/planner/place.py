"""Boxes for things and their relations: who is left of, above, in or in front of whom.

Every relation becomes an order along one axis; things that would still overlap are put beside or
below each other. What contradicts what was said before is left out, with a remark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..layouts.layout import Box
from ..text.parse import Parsed, Relation, Thing
from .axis import Axis

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
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    return (
        outer[0] + inner[0] * width, outer[1] + inner[1] * height,
        outer[0] + inner[2] * width, outer[1] + inner[3] * height,
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
        widths = [1.0 + 0.4 * (min(thing.count, 5) - 1) for thing in chosen]
        self.x = Axis(widths, [_ACROSS.get(thing.anchor[0]) for thing in chosen])
        self.y = Axis([1.0] * len(chosen), [_DOWN.get(thing.anchor[1]) for thing in chosen])
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


Parents = dict[int, tuple[int, Box]]
"""Thing -> the thing in or in front of which it stands, and where in that one's box."""


def _chain(index: int, parents: Parents) -> list[int]:
    """A thing, what it stands in, what that stands in ..."""
    chain = [index]
    while chain[-1] in parents:
        chain.append(parents[chain[-1]][0])
    return chain


def _parents(parsed: Parsed, notes: list[str]) -> Parents:
    parents: Parents = {}
    for relation in parsed.relations:
        if relation.kind not in ("inside", "front"):
            continue
        if relation.one in parents or relation.one in _chain(relation.other, parents):
            notes.append(f"left out: a second place of '{parsed.things[relation.one].phrase}'")
            continue
        where = _INSIDE if relation.kind == "inside" else _IN_FRONT
        parents[relation.one] = (relation.other, where)
    for relation in parsed.relations:
        # Who rides a horse in front of a castle is in front of it, too.
        carried = relation.kind == "on" and relation.other in parents
        if carried and relation.one not in parents and (
            relation.one not in _chain(relation.other, parents)
        ):  # fmt: skip
            parents[relation.one] = parents[relation.other]
    return parents


def _with_anchors_outside(things: list[Thing], parents: Parents) -> list[Thing]:
    """``things`` with the places in the picture of those inside others moved to these others."""
    out = list(things)
    for child, (parent, _) in parents.items():
        if not any(out[parent].anchor):
            out[parent] = replace(out[parent], anchor=out[child].anchor)
    return [
        replace(thing, anchor=("", "")) if index in parents else thing
        for index, thing in enumerate(out)
    ]


def _relations_among(
    members: list[int], relations: list[Relation], parents: Parents
) -> Iterator[Relation]:
    """The relations between ``members``, and between what stands in them, as seen from outside."""
    for relation in relations:
        if relation.kind in ("inside", "front"):
            continue
        one, other = (
            next((index for index in _chain(end, parents) if index in members), None)
            for end in (relation.one, relation.other)
        )
        if one is not None and other is not None and one != other:
            yield Relation(relation.kind, one, other)


def _fitted(cell: Box, thing: Thing, aspect: float) -> Box:
    """The box of one thing in its cell: no stripe, with some air, at the side that it names."""
    width, height = cell[2] - cell[0], cell[3] - cell[1]
    margin_x, margin_y = _MARGIN * width, _MARGIN * height
    inner_width, inner_height = width * (1 - 2 * _MARGIN), height * (1 - 2 * _MARGIN)
    w = min(inner_width, inner_height * _WIDEST / aspect)
    h = min(inner_height, inner_width * _TALLEST * aspect)
    across = {"left": 0.0, "right": 1.0}.get(thing.anchor[0], 0.5)
    down = {"top": 0.0, "bottom": 1.0}.get(thing.anchor[1], 0.5)
    left = cell[0] + min(max(across * width - w * across, margin_x), width - w - margin_x)
    top = cell[1] + min(max(down * height - h * down, margin_y), height - h - margin_y)
    return (left, top, left + w, top + h)


def _copies(cell: Box, count: int, aspect: float) -> list[Box]:
    """``count`` cells in rows, with the columns that make them most like squares."""
    if count == 1:
        return [cell]
    width, height = (cell[2] - cell[0]) * aspect, cell[3] - cell[1]

    def worth(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(width / columns, height / rows)

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
    parents = _parents(parsed, notes)
    things = _with_anchors_outside(parsed.things, parents)
    cells: dict[int, Box] = {}
    outermost = [index for index in range(len(things)) if index not in parents]
    levels: list[tuple[list[int], Box]] = [(outermost, (0.0, 0.0, 1.0, 1.0))]
    for members, frame in levels:  # grows while it is read: what stands in the members comes later
        group = _Cells(members, things, notes)
        for relation in _relations_among(members, parsed.relations, parents):
            group.relate(relation)
        for member, cell in group.boxes().items():
            cells[member] = _within(frame, cell)
            box = _fitted(cells[member], things[member], aspect)
            for where in (_INSIDE, _IN_FRONT):
                inner = [child for child, found in parents.items() if found == (member, where)]
                if inner:
                    levels.append((inner, _within(box, where)))
    return [
        [_fitted(copy, thing, aspect) for copy in _copies(cells[index], thing.count, aspect)]
        for index, thing in enumerate(things)
    ], notes
