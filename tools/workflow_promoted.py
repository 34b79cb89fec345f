"""Values of the widgets that a subgraph shows on the nodes that stand for it.

An input of a subgraph that leads to a widget is one itself, with a value per use. Pages before
ComfyUI 0.33 listed what is shown (``proxyWidgets``), inputs or not, and saved values in the list's
order; the present page reads these too. Pure Python.
"""

from __future__ import annotations

import re
from typing import Any

from workflow_levels import INSIDE, Level, Slot

PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)")
HOLDER = "-1"
"""Stands for the subgraph's own inputs among the nodes that a list names."""


def promote(level: Level) -> None:
    """Fill ``promoted`` and ``overrides`` of all levels below ``level``."""
    for inner in level.inner.values():
        promote(inner)
    for inner in level.inner.values():
        _own(inner)


def _own(level: Level) -> None:
    """The values of one use, innermost first: those inside, then what is saved with the use."""
    assert level.use is not None
    for entry in level.definition.get("inputs") or []:
        for slot in _targets(level, entry):
            found = _value(level, slot)
            if found:
                level.promoted[entry["name"]] = found[0]
                break
    saved = level.use.get("widgets_values") or []
    for name, value in zip(list(level.promoted), saved, strict=False):
        if value is not None:
            level.promoted[name] = value
    properties = level.use.get("properties") or {}
    for entry in reversed(properties.get("proxyWidgetErrorQuarantine") or []):
        holder, name = entry["originalEntry"][:2]
        if holder == HOLDER and name in level.promoted and entry.get("hostValue") is not None:
            level.promoted[name] = entry["hostValue"]
    for entry, value in zip(properties.get("proxyWidgets") or [], saved, strict=False):
        if value is not None:
            _listed(level, [str(part) for part in entry], value)


def _targets(level: Level, entry: dict[str, Any]) -> list[Slot]:
    """The inputs inside that an input of the subgraph leads to, in the order of its links."""
    links = list(entry.get("linkIds") or [])
    slots = [slot for node in level.nodes for slot in level.slots(node) if slot.link in links]
    return sorted(slots, key=lambda slot: links.index(slot.link))


def _value(level: Level, slot: Slot) -> list[Any]:
    """The value of a widget inside, in a list; none for an input that is no widget."""
    if slot.node in level.inner:
        promoted = level.inner[slot.node].promoted
        return [promoted[slot.name]] if slot.name in promoted else []
    if not slot.widget or level.nodes[slot.node]["type"] not in level.info:
        return []
    values = level.values(slot.node)
    return [values[slot.name]] if slot.name in values else []


def _listed(level: Level, entry: list[str], value: Any) -> None:
    """Give a widget that the list names its value."""
    node, name = entry[:2]
    slot = _named(level, node, name, entry[2] if len(entry) > 2 else None)
    while slot is None and (found := PREFIX.fullmatch(name)):
        name = found[2]
        slot = _named(level, node, name, found[1])
    if node == HOLDER and name in level.promoted:
        level.promoted[name] = value
    if slot is None:
        return
    origin, index = level.links.get(slot.link or -1, ("", 0))
    if origin == INSIDE:
        level.promoted[level.definition["inputs"][index]["name"]] = value
    else:
        level.overrides[node, slot.name] = value


def _named(level: Level, node: str, name: str, deeper: str | None) -> Slot | None:
    """The widget that is called so on a node inside; on a use of a subgraph rather by the name that
    it has there, on the node ``deeper`` if that is given."""
    if node not in level.nodes:
        return None
    if node not in level.inner:
        return next((s for s in level.slots(node) if s.name == name and s.widget), None)
    inner, fallback = level.inner[node], None
    for slot, entry in zip(level.slots(node), inner.definition.get("inputs") or [], strict=True):
        targets = _targets(inner, entry)
        if slot.name not in inner.promoted or not targets:
            continue
        if targets[0].name == name and deeper in (None, targets[0].node):
            return slot
        if slot.name == name:
            if deeper is None:
                return slot
            fallback = slot
    return fallback
