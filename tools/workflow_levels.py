"""A saved workflow as levels: the graph itself, and one for every use of a subgraph in it.

The page saves a subgraph once, as a definition; nodes whose type is its id are uses of it. A use
has the nodes of its own that the definition describes, named after all uses that lead to them.
Pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from node_inputs import WorkflowError, is_widget, kind_of, specs_of, widget_values
from workflow_ids import definitions, with_own_ids

MUTED, BYPASSED = 2, 4
INSIDE = "-10"
"""Where links come from that enter a subgraph; not a node."""
TEXT_ONLY = {"Note", "MarkdownNote"}
VIRTUAL = TEXT_ONLY | {"Reroute", "PrimitiveNode"}
"""Nodes of the page's own, which the server does not have."""
Node = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """An input of a node on the page; ``link`` is what is connected there."""

    node: str
    name: str
    kind: str
    link: int | None
    widget: bool = False


@dataclass(eq=False)
class Level:
    """The nodes of one graph or of one use of a subgraph.

    ``links``: origin and its slot by link. ``use``: the node that this level is, at ``outer``.
    ``promoted``: values of the use's own widgets, by input. ``overrides``: those that an older page
    set beyond the inputs, by node and input of this level.
    """

    path: tuple[str, ...]
    nodes: dict[str, Node]
    links: dict[int, tuple[str, int]]
    info: dict[str, Any]
    definition: dict[str, Any]
    outer: Level | None = None
    use: Node | None = None
    inner: dict[str, Level] = field(default_factory=dict)
    promoted: dict[str, Any] = field(default_factory=dict)
    overrides: dict[tuple[str, str], Any] = field(default_factory=dict)
    _slots: dict[str, list[Slot]] = field(default_factory=dict)

    def name(self, node: str) -> str:
        """The node's id in the API graph."""
        return ":".join((*self.path, node))

    def slots(self, node: str) -> list[Slot]:
        """A node's inputs in the page's order: in a file those without a link may be left out."""
        if node not in self._slots:
            self._slots[node] = self._laid_out(node)
        return self._slots[node]

    def _laid_out(self, node: str) -> list[Slot]:
        saved = self.nodes[node].get("inputs") or []
        link = {slot["name"]: slot.get("link") for slot in saved}
        if node in self.inner:
            declared = self.inner[node].definition.get("inputs") or []
            return [Slot(node, e["name"], e["type"], link.get(e["name"])) for e in declared]
        known = self.info.get(self.nodes[node]["type"])
        specs = sorted(specs_of(known) if known else (), key=lambda entry: is_widget(entry[1]))
        made = [Slot(node, n, kind_of(s), link.get(n), is_widget(s)) for n, s in specs]
        names = {slot.name for slot in made}
        more = [slot for slot in saved if slot["name"] not in names]
        return made + [
            Slot(node, s["name"], s["type"], s.get("link"), s.get("widget") is not None)
            for s in more
        ]

    def output_kind(self, node: str, slot: int) -> str:
        """Type of a node's output."""
        known = self.info.get(self.nodes[node]["type"], {}).get("output") or []
        saved = self.nodes[node].get("outputs") or []
        kind = known[slot] if slot < len(known) else saved[slot]["type"]
        return "COMBO" if isinstance(kind, list) else kind

    def values(self, node: str) -> dict[str, Any]:
        """Widget values of a node of a class of the host, and those that primitives give."""
        saved = self.nodes[node]
        values = widget_values(saved, self.info[saved["type"]], self.name(node))
        for slot in self.slots(node):
            origin, _ = self.links.get(slot.link or -1, ("", 0))
            source = self.nodes.get(origin, {})
            given = source.get("widgets_values") if source.get("type") == "PrimitiveNode" else None
            if slot.widget and given:
                values[slot.name] = given[0]
        return values

    def walk(self) -> Iterator[Level]:
        """This level and all below it, but for uses that are muted or bypassed in the workflow."""
        yield self
        for node, level in self.inner.items():
            # of uses inside a subgraph the page asks each node for itself
            if self.path or self.nodes[node].get("mode") not in (MUTED, BYPASSED):
                yield from level.walk()


def levels_of(workflow: dict[str, Any], info: dict[str, Any]) -> Level:
    """The level of the workflow itself, with all below it.

    Raises ``WorkflowError`` for a subgraph that holds itself.
    """
    workflow = with_own_ids(workflow)
    return _level(workflow, {d["id"]: d for d in definitions(workflow)}, info)


def _level(
    graph: dict[str, Any], known: dict[str, Any], info: dict[str, Any],
    outer: Level | None = None, use: Node | None = None,
) -> Level:  # fmt: skip
    path = (*outer.path, str(use["id"])) if outer is not None and use is not None else ()
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    links = dict(_link(link) for link in graph.get("links") or [])
    level = Level(path, nodes, links, info, graph, outer, use)
    around, above = [graph.get("id")] if outer is not None else [], outer
    while above is not None and above.outer is not None:
        around.append(above.definition["id"])
        above = above.outer
    for name, node in nodes.items():
        if node["type"] in known:
            if node["type"] in around:
                label = known[node["type"]].get("name", node["type"])
                raise WorkflowError(f"node {level.name(name)}: subgraph '{label}' holds itself")
            level.inner[name] = _level(known[node["type"]], known, info, level, node)
    return level


def _link(link: Any) -> tuple[int, tuple[str, int]]:
    if isinstance(link, dict):
        return link["id"], (str(link["origin_id"]), link["origin_slot"])
    return link[0], (str(link[1]), link[2])
