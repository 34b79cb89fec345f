"""Where an input's value comes from: through reroutes, bypassed nodes, and in and out of subgraphs.

By the page's own rules, some of which surprise: a bypassed node passes on its first input of the
right type, also one that nothing is linked to. Pure Python.
"""

from __future__ import annotations

from typing import Any

from node_inputs import WorkflowError
from workflow_levels import BYPASSED, INSIDE, MUTED, VIRTUAL, Level, Slot

Source = tuple[str, Any] | None
"""("link", [node id, slot]), ("value", widget value), or None where nothing arrives."""
Seen = frozenset[tuple[Any, ...]]


def joins(given: str, wanted: str) -> bool:
    """May a link lead from an output of the one type to an input of the other?"""
    if "*" in (given, wanted) or "" in (given, wanted):
        return True
    return bool(set(given.upper().split(",")) & set(wanted.upper().split(",")))


def source(level: Level, slot: Slot, kind: str | None = None, seen: Seen = frozenset()) -> Source:
    """What arrives at an input. ``kind``: the type that is asked for, where it is not the input's.

    Raises ``WorkflowError`` for a circle.
    """
    if (slot.node, slot.name) in level.overrides:
        return "value", level.overrides[slot.node, slot.name]
    if slot.link not in level.links:
        return None
    origin, index = level.links[slot.link]
    if origin != INSIDE or level.outer is None:
        return _output(level, origin, index, kind or slot.kind, seen)
    above = level.outer.slots(level.path[-1])[index]
    if above.link is None and (above.node, above.name) not in level.outer.overrides:
        known = above.name in level.promoted
        return ("value", level.promoted[above.name]) if known else None
    return source(level.outer, above, None, seen)


def _output(level: Level, node: str, index: int, kind: str, seen: Seen) -> Source:
    """What a node gives at an output."""
    if (level.path, node, index) in seen:
        name = level.name(node)
        raise WorkflowError(f"node {name} is part of a circle of reroutes or bypassed nodes")
    seen = seen | {(level.path, node, index)}
    saved = level.nodes.get(node)
    if saved is None or saved.get("mode") == MUTED:
        return None
    if saved.get("mode") == BYPASSED:
        through = _through(level, node, index, kind)
        return source(level, through, None, seen) if through is not None else None
    if node in level.inner:
        return _out_of(level, node, index, kind, seen)
    if saved["type"] == "Reroute":
        return next((source(level, slot, kind, seen) for slot in level.slots(node)), None)
    return None if saved["type"] in VIRTUAL else ("link", [level.name(node), index])


def _out_of(level: Level, node: str, index: int, kind: str, seen: Seen) -> Source:
    """What a subgraph gives at an output."""
    inner = level.inner[node]
    links = inner.definition["outputs"][index].get("linkIds") or []
    if not links or links[0] not in inner.links:
        return None
    origin, slot = inner.links[links[0]]
    if origin == INSIDE:  # straight through; the page itself has no answer to this
        return source(level, level.slots(node)[slot], kind, seen)
    return _output(inner, origin, slot, kind, seen)


def _through(level: Level, node: str, index: int, kind: str) -> Slot | None:
    """The input that a bypassed node passes on."""
    slots = level.slots(node)
    if kind in ("*", ""):
        return slots[index if index < len(slots) else 0] if slots else None
    made = level.output_kind(node, index)

    def fits(slot: Slot) -> bool:
        return joins(slot.kind, made) and joins(slot.kind, kind)

    if index < len(slots) and fits(slots[index]):
        return slots[index]
    exact = (slot for slot in slots if slot.kind == kind)
    return next(exact, None) or next(filter(fits, slots), None)
