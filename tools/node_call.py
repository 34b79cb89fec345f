"""Calling one node as the host's executor does: its lists mapped, and whatever it gives read."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

CLONE = "PREPARE_CLASS_CLONE"
"""What newer classes of the host have in the place of instances."""


def call(
    node: type, inputs: dict[str, list[Any]], hidden: dict[str, Any]
) -> tuple[list[list[Any]], dict[str, Any]]:
    """Call a node once per element of its lists; returns the lists per output and what it shows.

    ``hidden``: what the node may ask for beside its inputs, by kind (``PROMPT``, ``UNIQUE_ID``).
    """
    function = _callable(node, hidden)
    if not hasattr(node, CLONE):
        described = node.INPUT_TYPES().get("hidden") or {}  # type: ignore[attr-defined]
        kinds = {key: kind if isinstance(kind, str) else kind[0] for key, kind in described.items()}
        inputs = {**inputs, **{key: [hidden.get(kind)] for key, kind in kinds.items()}}
    if getattr(node, "INPUT_IS_LIST", False):
        results = [function(**inputs)]
    else:
        count = max((len(value) for value in inputs.values()), default=1)
        results = [
            function(**{key: value[min(i, len(value) - 1)] for key, value in inputs.items()})
            for i in range(count)
        ]
    outputs = len(node.RETURN_TYPES)  # type: ignore[attr-defined]
    spread = getattr(node, "OUTPUT_IS_LIST", [False] * outputs)
    lists: list[list[Any]] = [[] for _ in range(outputs)]
    show: dict[str, Any] = {}
    for result in results:
        display, result = _shown_and_given(result)
        for key, items in display.items():
            show.setdefault(key, []).extend(items)
        for slot, value in enumerate(result or ()):
            lists[slot].extend(value) if spread[slot] else lists[slot].append(value)
    return lists, show


def _callable(node: type, hidden: dict[str, Any]) -> Callable[..., Any]:
    """What runs a node. Newer classes of the host find what is hidden at a copy of themselves."""
    made: Any = node()
    if hasattr(node, CLONE):
        clone: Any = getattr(node, CLONE)
        later = "v3_data" in inspect.signature(clone).parameters
        made = clone({"hidden_inputs": hidden} if later else hidden)
    function = getattr(made, node.FUNCTION)  # type: ignore[attr-defined]
    if not inspect.iscoroutinefunction(function):
        return function
    return lambda **inputs: asyncio.run(function(**inputs))


def _shown_and_given(result: Any) -> tuple[dict[str, Any], Any]:
    """(what a call of a node shows, its outputs): a dictionary, outputs alone, or the object that
    newer classes of the host give."""
    if isinstance(result, dict):
        return result.get("ui", {}), result.get("result", ())
    if hasattr(result, "block_execution"):
        show: Any = result.ui or {}
        return (show.as_dict() if hasattr(show, "as_dict") else show), result.result
    return {}, result
