"""Turn a saved ComfyUI workflow into the API form that the server executes.

The page saves graphs (positions, widgets by order); the server takes nodes with named inputs. The
page does the conversion when a user presses Run; a demo or a test without a page needs it too.
``object_info`` is the server's description of its node classes. Pure Python.
"""

from __future__ import annotations

from typing import Any

from node_inputs import WorkflowError
from workflow_ids import definitions
from workflow_levels import BYPASSED, MUTED, VIRTUAL, Level, levels_of
from workflow_links import source
from workflow_promoted import promote

__all__ = ["WorkflowError", "classes_of", "to_api"]


def classes_of(workflow: dict[str, Any]) -> set[str]:
    """The node classes of the host that a saved workflow uses, inside its subgraphs too."""
    graphs = [workflow, *definitions(workflow)]
    used = {node["type"] for graph in graphs for node in graph["nodes"]}
    return used - VIRTUAL - {graph["id"] for graph in graphs[1:]}


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The graph that ``POST /prompt`` takes, with ``_meta.title`` kept.

    Muted and text nodes are left out, bypassed ones and reroutes are looked through, primitives
    become values. Nodes of a subgraph take its place, each use of it with nodes of its own: node 3
    of the subgraph that node 57 stands for is '57:3'. Raises ``WorkflowError`` for a node class
    that ``object_info`` lacks, or widget values that do not fit the class.
    """
    root = levels_of(workflow, object_info)
    _known(root)
    promote(root)
    return {
        level.name(node): _converted(level, node)
        for level in root.walk()
        for node, saved in level.nodes.items()
        if node not in level.inner
        and saved["type"] not in VIRTUAL
        and saved.get("mode") not in (MUTED, BYPASSED)
    }


def _known(root: Level) -> None:
    for level in root.walk():
        for node, saved in level.nodes.items():
            foreign = saved["type"] not in level.info and saved["type"] not in VIRTUAL
            if foreign and node not in level.inner and saved.get("mode") not in (MUTED, BYPASSED):
                raise WorkflowError(
                    f"node {level.name(node)}: the host has no class {saved['type']}"
                )


def _converted(level: Level, node: str) -> dict[str, Any]:
    saved, info = level.nodes[node], level.info[level.nodes[node]["type"]]
    inputs = level.values(node)
    found = {slot.name: source(level, slot) for slot in level.slots(node)}
    inputs.update({name: got[1] for name, got in found.items() if got and got[0] == "value"})
    inputs = {name: _boxed(value) for name, value in inputs.items()}
    inputs.update({name: got[1] for name, got in found.items() if got and got[0] == "link"})
    title = saved.get("title") or info.get("display_name") or saved["type"]
    return {"class_type": saved["type"], "inputs": inputs, "_meta": {"title": title}}


def _boxed(value: Any) -> Any:
    """A list as a value: the server takes a bare one for a link."""
    return {"__value__": value} if isinstance(value, list) else value
