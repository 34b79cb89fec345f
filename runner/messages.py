"""ComfyUI's refusals and failures as one sentence each, whatever form they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import one_line, tidy


def refusal(error: Any, node_errors: Any) -> str:
    """What is wrong with a graph, from the parts of the answer to ``POST /prompt``."""
    reasons = []
    for node, entry in _pairs(node_errors):
        about = entry if isinstance(entry, Mapping) else {}
        errors = about.get("errors")
        for one in errors if isinstance(errors, list) else ():
            where = f"node {tidy(node, 60)} ({tidy(about.get('class_type'), 100)})"
            reasons.append(f"{where}: {one_line(_said(one))}")
    if not reasons:
        reasons.append(one_line(_said(error, ": ")))
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"ComfyUI refuses the row: {reasons[0]}{more}"


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _said(error: Any, between: str = "") -> str:
    """An error's message with its details: behind ``between``, else in brackets."""
    if not isinstance(error, Mapping):
        return tidy(error, 500)
    message, details = (tidy(error.get(name), 500) for name in ("message", "details"))
    if between:
        return f"{message}{between}{details}"
    return f"{message} ({details})" if error.get("details") else message


def failure(messages: Iterable[Any]) -> tuple[str, str]:
    """('execution_error' or 'execution_interrupted', sentence) from a run's status messages."""
    for kind, data in messages:
        if kind in ("execution_error", "execution_interrupted"):
            return kind, failed_node(kind, data)
    return "execution_error", "ComfyUI gave no reason"


def failed_node(kind: str, data: Any) -> str:
    """The sentence of one such message."""
    about = data if isinstance(data, Mapping) else {}
    where = f"node {tidy(about.get('node_id'), 60)} ({tidy(about.get('node_type'), 100)})"
    if kind == "execution_interrupted":
        return f"{where} was interrupted"
    name = tidy(str(about.get("exception_type") or "").rsplit(".", 1)[-1], 100)
    said = one_line(about.get("exception_message") or "")
    # the class says nothing that a sentence of its own does not
    return f"{where}: {said}" if name == "RealCompoError" else f"{where}: {name}: {said}"
