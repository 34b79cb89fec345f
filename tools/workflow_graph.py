"""A graph in the form in which the page saves it, built node by node."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node_inputs import choices, has_seed_control, is_widget

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
LINE, HEAD = 26, 60
LATER = {"LoraModelLoader": {"bypass"}, "SaveImage": {"images"},
         "PreviewImage": {"images"}}  # fmt: skip
"""Widgets and outputs of the host's classes that its older releases lack. They are left out of the
files, so that these open there as well; the page of a newer one adds them with their defaults."""


@dataclass(frozen=True)
class Slot:
    """An output of a node in the graph."""

    node: dict[str, Any]
    index: int


@dataclass
class Graph:
    """A graph in litegraph's saved form, built node by node; ``info`` describes the classes."""

    info: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[int, int], title: str = "", /, **values: Any) -> list[Slot]:
        """A node of class ``kind``; values are widget values, or slots to link to its inputs."""
        info = self.info[kind]
        node: dict[str, Any] = {
            "id": len(self.nodes) + 1, "type": kind, "pos": list(at), "flags": {},
            "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [],
            "properties": {"Node name for S&R": kind}, "widgets_values": [],
        }  # fmt: skip
        if title:
            node["title"] = title
        rows, later = 0.0, LATER.get(kind, set())
        for section in ("required", "optional"):
            for name in info.get("input_order", {}).get(section, []):
                spec = info["input"][section][name]
                if not (name in later and is_widget(spec)):
                    rows += self._input(node, name, spec, values)
        if values:
            raise ValueError(f"{kind} has no input {', '.join(values)}")
        for index, (output, name) in enumerate(
            zip(info["output"], info["output_name"], strict=True)
        ):
            slot = {"name": name, "type": output, "links": [], "slot_index": index}
            if name not in later:
                node["outputs"].append(slot)
        node["size"] = [300, int(HEAD + LINE * max(rows, len(node["outputs"])))]
        self.nodes.append(node)
        return [Slot(node, index) for index in range(len(node["outputs"]))]

    def _input(
        self, node: dict[str, Any], name: str, spec: list[Any], values: dict[str, Any]
    ) -> float:
        """Add one input; returns the lines that it takes on the node."""
        kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
        widget = is_widget(spec)
        value = values.pop(name, None)
        if isinstance(value, Slot) or not widget:
            entry: dict[str, Any] = {"name": name, "type": kind, "link": None}
            if widget:
                entry["type"] = "COMBO" if isinstance(kind, list) else kind
                entry["widget"] = {"name": name}
            if isinstance(value, Slot):
                self._link(value, node, len(node["inputs"]), entry)
            node["inputs"].append(entry)
        if widget:
            given = value is not None and not isinstance(value, Slot)
            first = next(iter(choices(spec)), "")
            chosen = value if given else options.get("default", first)
            node["widgets_values"].append(chosen)
            if has_seed_control(name, spec):
                node["widgets_values"].append("fixed")
                return 2.0
        return 4.0 if options.get("multiline") else 1.0

    def _link(self, source: Slot, node: dict[str, Any], slot: int, entry: dict[str, Any]) -> None:
        number = len(self.links) + 1
        output = source.node["outputs"][source.index]
        output["links"].append(number)
        entry["link"] = number
        self.links.append(
            [number, source.node["id"], source.index, node["id"], slot, output["type"]]
        )

    def note(self, at: tuple[int, int], text: str, size: tuple[int, int] = (420, 220)) -> None:
        """A note in Markdown."""
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": list(at),
            "size": list(size), "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [],
            "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
        })  # fmt: skip

    def group(self, title: str, x: int, y: int, width: int, height: int) -> None:
        """A titled frame."""
        self.groups.append(
            {"id": len(self.groups) + 1, "title": title, "bounding": [x, y, width, height],
             "color": "#3f789e", "font_size": 24, "flags": {}}
        )  # fmt: skip

    def save(self, name: str) -> None:
        """Write ``workflows/<name>.json``."""
        value = {
            "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups, "config": {},
            "extra": {}, "version": 0.4,
        }  # fmt: skip
        text = json.dumps(value, indent=1, ensure_ascii=True)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
