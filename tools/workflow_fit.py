"""Does a saved workflow fit a host's node classes: their inputs, widgets in order, and outputs?

The page takes what does not fit without a word: it lays values out by position, so that a class
that gained a widget in between gets its neighbours' values. Pure Python.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from node_inputs import (
    AFTER_GENERATE,
    choices,
    has_seed_control,
    is_widget,
    kind_of,
    options_of,
    specs_of,
)
from workflow_levels import VIRTUAL
from workflow_links import joins

NUMBERS: dict[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float)}
PLAIN: dict[str, type] = {"STRING": str, "BOOLEAN": bool}


def misfits(
    workflow: dict[str, Any], object_info: dict[str, Any], files: Collection[str] = ()
) -> list[str]:
    """A line for everything in a saved workflow that the classes of ``object_info`` do not have so.

    ``files``: classes whose combos list files of the user's own. Widgets and outputs that a class
    gained at its end are no misfit: the page gives them their defaults.
    """
    found, nodes = [], {node["id"]: node for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        if node["type"] in VIRTUAL:
            continue
        info = object_info.get(node["type"])
        said = [] if info is None else [*_widgets(node, info, files), *_slots(node, info)]
        if info is None:
            said = ["the host has no such class"]
        found += [f"node {node['id']} ({node['type']}): {words}" for words in said]
    for number, origin, slot, target, entry, _ in workflow.get("links", []):
        ends = nodes.get(origin, {}).get("outputs", []), nodes.get(target, {}).get("inputs", [])
        if slot >= len(ends[0]) or entry >= len(ends[1]) or ends[1][entry]["link"] != number:
            found.append(f"link {number} does not lead from node {origin} to node {target}")
        elif not joins(ends[0][slot]["type"], ends[1][entry]["type"]):
            found.append(
                f"link {number} takes a {ends[0][slot]['type']} of node {origin} to an input of"
                f" node {target} for a {ends[1][entry]['type']}"
            )
    return found


def _widgets(
    node: dict[str, Any], info: dict[str, Any], files: Collection[str]
) -> Iterator[str]:
    """Values beside their widgets."""
    rest = list(node.get("widgets_values") or [])
    for name, spec in specs_of(info):
        if not is_widget(spec) or not rest:
            continue
        value = rest.pop(0)
        if not _takes(spec, value, free=node["type"] in files):
            yield f"its widget '{name}' gets {value!r}"
        if has_seed_control(name, spec) and (not rest or rest.pop(0) not in AFTER_GENERATE):
            yield f"what becomes of '{name}' after a run is not among its values"
        if options_of(spec).get("image_upload") and rest and rest[0] == "image":
            rest.pop(0)
    if rest:
        yield f"it saves {len(rest)} values more than it has widgets"


def _takes(spec: list[Any], value: Any, free: bool) -> bool:
    kind, options = kind_of(spec), options_of(spec)
    if kind == "COMBO":
        return value in choices(spec) or (free and isinstance(value, str))
    if kind in NUMBERS:
        low, high = options.get("min", value), options.get("max", value)
        return type(value) in NUMBERS[kind] and low <= value <= high
    return isinstance(value, PLAIN.get(kind, object))


def _slots(node: dict[str, Any], info: dict[str, Any]) -> Iterator[str]:
    specs = dict(specs_of(info))
    linked = {slot["name"] for slot in node.get("inputs", []) if slot["link"] is not None}
    for slot in node.get("inputs", []):
        spec = specs.get(slot["name"])
        if spec is None:
            yield f"it has no input '{slot['name']}'"
        elif slot["type"] != kind_of(spec):
            yield f"its input '{slot['name']}' takes a {kind_of(spec)}, not a {slot['type']}"
    for name in info["input"].get("required") or {}:
        if not is_widget(specs[name]) and name not in linked:
            yield f"nothing is linked to its input '{name}'"
    has, saved = list(info["output"]), [slot["type"] for slot in node.get("outputs", [])]
    if saved != has[: len(saved)]:
        yield f"its outputs are {', '.join(map(str, has))}, not {', '.join(saved)}"
