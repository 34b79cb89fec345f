"""Run an API graph in this process with the host's node classes and the pack's.

The server's executor is the real thing; this small one serves where there is no server (the
headless host) and where a single value of a graph is wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import headless
import hostpack
from node_call import call
from workflow import WorkflowError

Event = Callable[[str, dict[str, Any]], None]


def object_info(name: str, node: type, display_name: str) -> dict[str, Any]:
    """The part of ``GET /object_info`` that describes a node class, as the server builds it; newer
    classes of the host build it themselves."""
    if hasattr(node, "GET_NODE_INFO_V1"):
        return node.GET_NODE_INFO_V1()
    inputs = node.INPUT_TYPES()  # type: ignore[attr-defined]
    outputs = list(node.RETURN_TYPES)  # type: ignore[attr-defined]
    return {
        "input": inputs,
        "input_order": {section: list(entries) for section, entries in inputs.items()},
        "output": outputs,
        "output_is_list": list(getattr(node, "OUTPUT_IS_LIST", [False] * len(outputs))),
        "output_name": list(getattr(node, "RETURN_NAMES", outputs)),
        "name": name,
        "display_name": display_name,
        "description": getattr(node, "DESCRIPTION", ""),
        "category": getattr(node, "CATEGORY", "sd"),
        "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
        "output_tooltips": list(getattr(node, "OUTPUT_TOOLTIPS", ())),
    }


def is_link(value: Any) -> bool:
    """Is an input's value in an API graph a reference to another node's output?"""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def ancestors(graph: dict[str, Any], node: str) -> list[str]:
    """Nodes that ``node`` needs, nearest first, without itself."""
    found: list[str] = []
    front = [node]
    while front:
        sources = [
            str(value[0])
            for name in front
            for value in graph[name]["inputs"].values()
            if is_link(value)
        ]
        front = [name for name in dict.fromkeys(sources) if name not in found]
        found += front
    return found


class Executor:
    """One run of a graph of V1 node classes: each node once, after its sources, as on the server.

    ``values`` holds what every node gave (``{node: [list of values per output]}``), ``shown`` what
    the nodes show (``{node: ui}``, as in the server's history).
    """

    def __init__(
        self,
        graph: dict[str, Any],
        find_class: Callable[[str], type],
        on_event: Event | None = None,
        memory: Memory | None = None,
    ) -> None:
        """``find_class`` gives the class of a node type or raises ``WorkflowError``. ``memory``:
        what earlier runs computed, so that only what has changed is computed again."""
        self.graph, self.find_class = graph, find_class
        self._memory = memory
        self.values: dict[str, list[list[Any]]] = {}
        self.shown: dict[str, Any] = {}
        self._say = on_event or (lambda kind, data: None)

    def run(self, targets: Iterable[str] | None = None) -> Executor:
        """Run ``targets`` (default: every output node) and what they need; returns itself."""
        import torch

        if targets is None:
            targets = [
                name
                for name, node in self.graph.items()
                if getattr(self.find_class(node["class_type"]), "OUTPUT_NODE", False)
            ]
        if self._memory is not None:
            self._memory.begin(self.graph, self.find_class)
        with torch.inference_mode():
            for target in targets:
                self._compute(str(target), ())
        if self._memory is not None:
            self._memory.forget_unused()
        return self

    def _compute(self, name: str, below: tuple[str, ...]) -> None:
        if name in self.values:
            return
        if name in below:
            raise WorkflowError(f"the graph runs in a circle through node {name}")
        known = self._memory.recall(name) if self._memory is not None else None
        if known is not None:
            self.values[name], show = known
            if show:
                self.shown[name] = show
            return
        inputs: dict[str, list[Any]] = {}
        for key, value in self.graph[name]["inputs"].items():
            if is_link(value):
                self._compute(str(value[0]), (*below, name))
                inputs[key] = self.values[str(value[0])][value[1]]
            else:
                inputs[key] = [value["__value__"] if isinstance(value, dict) else value]
        self._say("executing", {"node": name})
        node = self.find_class(self.graph[name]["class_type"])
        described = node.INPUT_TYPES()  # type: ignore[attr-defined]
        missing = [key for key in described.get("required", {}) if key not in inputs]
        if missing:
            raise WorkflowError(f"node {name} ({node.__name__}): nothing at input {missing[0]}")
        hidden = {"PROMPT": self.graph, "UNIQUE_ID": name, "EXTRA_PNGINFO": {}}
        self.values[name], show = call(node, inputs, hidden)
        if show:
            self.shown[name] = show
        if self._memory is not None:
            self._memory.keep(name, self.values[name], show)


class Memory:
    """What the nodes of the last run gave, by all that decides it: their class and values, and the
    same of every node before them. The server keeps outputs by the same rule."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[list[Any]], dict[str, Any]]] = {}
        self._names: dict[str, str] = {}
        self._graph: dict[str, Any] = {}
        self._find: Callable[[str], type] = lambda name: type(name, (), {})

    def begin(self, graph: dict[str, Any], find_class: Callable[[str], type]) -> None:
        """A new run, of ``graph``."""
        self._graph, self._find, self._names = graph, find_class, {}

    def recall(self, node: str) -> tuple[list[list[Any]], dict[str, Any]] | None:
        """(values per output, what it showed) of a node that has not changed, else None."""
        return self._known.get(self._name(node))

    def keep(self, node: str, values: list[list[Any]], show: dict[str, Any]) -> None:
        """Remember what a node gave."""
        self._known[self._name(node)] = values, show

    def forget_unused(self) -> None:
        """Drop what the last run did not need: models of another row would pile up."""
        used = set(self._names.values())
        self._known = {name: value for name, value in self._known.items() if name in used}

    def _name(self, node: str) -> str:
        if node not in self._names:
            self._names[node] = ""  # a circle must end; the run refuses it by itself
            entry = self._graph[node]
            cls = self._find(entry["class_type"])
            inputs = {
                key: ["node", self._name(str(value[0])), value[1]] if is_link(value) else value
                for key, value in sorted(entry["inputs"].items())
            }
            hidden = (cls.INPUT_TYPES().get("hidden") or {}).values()  # type: ignore[attr-defined]
            me = node if "UNIQUE_ID" in hidden or getattr(cls, "NOT_IDEMPOTENT", False) else ""
            text = json.dumps([entry["class_type"], inputs, me, _changed(cls, entry["inputs"])])
            self._names[node] = hashlib.sha256(text.encode()).hexdigest()
        return self._names[node]


def _changed(cls: type, inputs: dict[str, Any]) -> str:
    """What a class says of its inputs' state outside the graph (a file's date, say)."""
    ask = getattr(cls, "IS_CHANGED", None)
    if ask is None:
        return ""
    try:
        answer = ask(**{key: None if is_link(value) else value for key, value in inputs.items()})
    except Exception:  # as the server: what cannot be called counts as changed
        answer = float("nan")
    return uuid.uuid4().hex if answer != answer else repr(answer)  # nan differs from everything


class InProcess:
    """The host's node classes and the pack's in this process."""

    def __init__(self, host: Path, base: Path, arguments: tuple[str, ...] = ("--cpu",)) -> None:
        """Start the host from ``host`` with ``arguments``; pictures go below ``base``."""
        hostpack.start_host(host, arguments)
        self.host = host
        self.nodes = importlib.import_module("nodes")
        headless.give_folders(importlib.import_module("folder_paths"), base)
        pack = hostpack.load_pack()
        self.nodes.NODE_CLASS_MAPPINGS.update(pack.NODE_CLASS_MAPPINGS)
        self.nodes.NODE_DISPLAY_NAME_MAPPINGS.update(pack.NODE_DISPLAY_NAME_MAPPINGS)

    def node_class(self, name: str) -> type:
        """Class of node type ``name``, from the host's extra files if need be.

        Raises ``WorkflowError`` for a type that this host does not have as a V1 class.
        """
        known = self.nodes.NODE_CLASS_MAPPINGS
        if name not in known:
            for path in sorted((self.host / "comfy_extras").glob("nodes_*.py")):
                if f'"{name}"' in path.read_text(encoding="utf-8"):
                    loading = self.nodes.load_custom_node(str(path), module_parent="comfy_extras")
                    if inspect.isawaitable(loading):
                        asyncio.run(_finish(loading))
                if name in known:
                    break
        if name not in known or not hasattr(known[name], "FUNCTION"):
            raise WorkflowError(f"this host has no node class {name} that runs without its server")
        return known[name]

    def object_info(self, names: Iterable[str]) -> dict[str, Any]:
        """Descriptions of those of the named classes that this host has."""
        info = {}
        for name in names:
            try:
                node = self.node_class(name)
            except WorkflowError:
                continue
            shown = self.nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name)
            info[name] = object_info(name, node, shown)
        return info

    def run(
        self,
        graph: dict[str, Any],
        targets: Iterable[str] | None = None,
        on_event: Event | None = None,
        memory: Memory | None = None,
    ) -> Executor:
        """Run a graph with these classes; the host's progress goes to ``on_event`` too."""
        if on_event is not None:
            utils = importlib.import_module("comfy.utils")
            utils.PROGRESS_BAR_ENABLED = False  # type: ignore[attr-defined]
            utils.set_progress_bar_global_hook(
                lambda value, total, *_, **__: on_event("progress", {"value": value, "max": total})
            )
        return Executor(graph, self.node_class, on_event, memory).run(targets)


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def host_from_environment() -> Path:
    """The host that ``dev.py`` chose. Raises ``SystemExit`` with the remedy if there is none."""
    path = hostpack.host_path()
    if path is None:
        raise SystemExit(f"No ComfyUI: COMFYUI_PATH is '{os.environ.get('COMFYUI_PATH', '')}'.")
    return path
