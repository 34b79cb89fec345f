"""ComfyUI's refusals and failures as one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import one_line


def refusal(error: Any, node_errors: Any) -> str:
    """What is wrong with a graph, from the parts of the answer to ``POST /prompt``."""
    reasons = []
    for node, entry in (node_errors or {}).items():
        for one in entry.get("errors", []):
            details = f" ({one['details']})" if one.get("details") else ""
            said = f"{one.get('message')}{details}"
            reasons.append(f"node {node} ({entry.get('class_type')}): {one_line(said)}")
    if not reasons:
        whole = isinstance(error, Mapping)
        said = f"{error.get('message')}: {error.get('details')}" if whole else str(error)
        reasons.append(one_line(said))
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"ComfyUI refuses the row: {reasons[0]}{more}"


def failure(messages: Iterable[Any]) -> tuple[str, str]:
    """('execution_error' or 'execution_interrupted', sentence) from a run's status messages."""
    for kind, data in messages:
        if kind in ("execution_error", "execution_interrupted"):
            return kind, failed_node(kind, data)
    return "execution_error", "ComfyUI gave no reason"


def failed_node(kind: str, data: Mapping[str, Any]) -> str:
    """The sentence of one such message."""
    place = f"node {data.get('node_id')} ({data.get('node_type')})"
    if kind == "execution_interrupted":
        return f"{place} was interrupted"
    name = str(data.get("exception_type") or "").rsplit(".", 1)[-1]
    said = one_line(data.get("exception_message") or "")
    # the class says nothing that a sentence of its own does not
    return f"{place}: {said}" if name == "RealCompoError" else f"{place}: {name}: {said}"
