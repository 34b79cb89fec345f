"""Turn a workflow as the page saves it into the graph that the server runs.

The saved form is litegraph's (``version`` 0.4: nodes, links, widget values in the order of the
node's inputs); the server's form is ``{node id: {class_type, inputs}}``. The page does this when a
user presses Run; a demo or a test without a page needs it too. ``object_info`` is the server's
description of its node classes. Pure Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
SEED_NAMES = {"seed", "noise_seed"}
TEXT_ONLY = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """The workflow cannot be run as it is; the message names the node and the reason."""


@dataclass(frozen=True)
class _Input:
    """One input of a node class, in the order in which the page lays widgets out."""

    name: str
    is_widget: bool
    options: dict[str, Any]
    has_seed_control: bool


def is_widget(spec: Any) -> bool:
    """Is an input of a node class set on the node itself, not only by a link?"""
    kind, options = spec[0], (spec[1:] or [{}])[0]
    typed = isinstance(kind, list) or kind in WIDGET_TYPES
    return typed and not options.get("forceInput", False)


def has_seed_control(name: str, spec: Any) -> bool:
    """Does the page put a widget behind this one that says what becomes of it after a run?"""
    flag = (spec[1:] or [{}])[0].get("control_after_generate")
    wanted = spec[0] == "INT" and name in SEED_NAMES if flag is None else bool(flag)
    return is_widget(spec) and wanted


def choices(spec: Any) -> list[Any]:
    """What a combo lets choose from; older classes give the list in the type's place."""
    kind, options = spec[0], (spec[1:] or [{}])[0]
    return list(kind if isinstance(kind, list) else options.get("options") or ())


def specs_of(info: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and type with options of a class's inputs, in the order in which the page has them."""
    order = info.get("input_order", {})
    result = []
    for section in ("required", "optional"):
        specs = info["input"].get(section) or {}
        result += [(name, specs[name]) for name in order.get(section) or specs]
    return result


def _inputs_of(info: dict[str, Any]) -> list[_Input]:
    return [
        _Input(name, is_widget(spec), (spec[1:] or [{}])[0], has_seed_control(name, spec))
        for name, spec in specs_of(info)
    ]


def _widget_values(node: dict[str, Any], inputs: list[_Input]) -> dict[str, Any]:
    """Widget values by input name; the page also saves values of widgets that a link overrides."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {entry.name: saved[entry.name] for entry in inputs if entry.name in saved}
    rest, values = list(saved), {}
    for entry in inputs:
        if not entry.is_widget:
            continue
        if rest:
            values[entry.name] = rest.pop(0)
            if entry.has_seed_control and rest and rest[0] in AFTER_GENERATE:
                rest.pop(0)
            if rest and entry.options.get("image_upload") and rest[0] == "image":
                rest.pop(0)  # the upload button counts as a widget
        elif "default" in entry.options:
            values[entry.name] = entry.options["default"]  # the node gained this input since
    if rest:
        raise WorkflowError(
            f"node {node['id']} ({node['type']}) saves {len(rest)} widget values more than it has "
            f"widgets: {rest}"
        )
    return values


class _Links:
    """Where an input's value comes from, through reroutes, bypassed nodes and primitives."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.sources: dict[int, tuple[int, int]] = {}
        for link in workflow.get("links", []):
            if isinstance(link, dict):
                self.sources[link["id"]] = (link["origin_id"], link["origin_slot"])
            else:
                self.sources[link[0]] = (link[1], link[2])

    def resolve(self, link: int | None) -> tuple[str, Any] | None:
        """("link", [node id, slot]), ("value", widget value), or None where nothing arrives."""
        for _ in range(len(self.nodes) + 1):
            if link is None or link not in self.sources:
                return None
            origin, slot = self.sources[link]
            node = self.nodes.get(origin)
            if node is None or node.get("mode") == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                values = node.get("widgets_values") or []
                return ("value", values[0]) if values else None
            if node["type"] == "Reroute":
                link = (node.get("inputs") or [{}])[0].get("link")
            elif node.get("mode") == BYPASSED:
                link = self._through(node, slot)
            else:
                return "link", [str(origin), slot]
        raise WorkflowError(f"link {link} runs in a circle of reroutes or bypassed nodes")

    @staticmethod
    def _through(node: dict[str, Any], slot: int) -> int | None:
        """Link that a bypassed node passes on: the same slot if its type fits, else the first."""
        kind, inputs = node["outputs"][slot]["type"], node.get("inputs") or []
        ordered = inputs[slot : slot + 1] + inputs[:slot] + inputs[slot + 1 :]
        fitting = (entry for entry in ordered if kind == "*" or entry["type"] in (kind, "*"))
        return next((entry["link"] for entry in fitting if entry.get("link") is not None), None)


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The graph that ``POST /prompt`` takes, with ``_meta.title`` kept.

    Muted and text nodes are left out, bypassed ones and reroutes are looked through, primitives
    become values. Raises ``WorkflowError`` for a subgraph, a node class that ``object_info`` lacks,
    or widget values that do not fit the class.
    """
    if (workflow.get("definitions") or {}).get("subgraphs"):
        raise WorkflowError("the workflow holds subgraphs; unpack them before saving it")
    links, graph = _Links(workflow), {}
    for node in workflow["nodes"]:
        if node["type"] in TEXT_ONLY | {"Reroute", "PrimitiveNode"}:
            continue
        if node.get("mode") in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"node {node['id']}: the host has no class {node['type']}")
        inputs = _inputs_of(object_info[node["type"]])
        values: dict[str, Any] = {
            name: {"__value__": value} if isinstance(value, list) else value
            for name, value in _widget_values(node, inputs).items()
        }
        for slot in node.get("inputs") or []:
            if slot.get("link") is None:
                continue
            source = links.resolve(slot["link"])
            if source is not None:
                values[slot["name"]] = source[1]
        title = node.get("title") or object_info[node["type"]].get("display_name", node["type"])
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": values,
            "_meta": {"title": title},
        }
    return graph
