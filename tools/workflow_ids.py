"""The subgraphs that a saved workflow defines, and ids for their nodes that no other node has.

Pure Python.
"""

from __future__ import annotations

import copy
from typing import Any


def definitions(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """Every subgraph that a saved workflow, or a subgraph of it, defines."""
    found = (graph.get("definitions") or {}).get("subgraphs") or []
    return [*found, *(deeper for one in found for deeper in definitions(one))]


def with_own_ids(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with every id on one node only, as the page gives them on loading: those of a
    subgraph that another graph has already are counted on from the last."""
    workflow, found = copy.deepcopy(workflow), definitions(workflow)
    if not found:
        return workflow
    taken = {str(node["id"]) for node in workflow["nodes"]}
    last = int(workflow.get("last_node_id") or (workflow.get("state") or {}).get("lastNodeId") or 0)
    for graph in definitions(workflow):
        renamed: dict[str, int] = {}
        for node in graph["nodes"]:
            name = str(node["id"])
            if name in taken:
                last = next(n for n in range(last + 1, last + len(taken) + 2)
                            if str(n) not in taken)  # fmt: skip
                renamed[name] = node["id"] = last
            elif name.isdecimal():
                last = max(last, int(name))
            taken.add(str(node["id"]))
        _rename(workflow, graph, renamed)
    return workflow


def _rename(workflow: dict[str, Any], graph: dict[str, Any], renamed: dict[str, int]) -> None:
    """Let the links of ``graph``, and what promotes its widgets, follow its nodes' new ids."""
    for link in graph.get("links") or []:
        for end in ("origin_id", "target_id"):
            link[end] = renamed.get(str(link[end]), link[end])
    for level in (workflow, *definitions(workflow)):
        for node in level["nodes"]:
            if node["type"] == graph["id"]:
                for entry in (node.get("properties") or {}).get("proxyWidgets") or []:
                    entry[0] = str(renamed.get(str(entry[0]), entry[0]))
