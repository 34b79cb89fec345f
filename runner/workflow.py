"""An API-format workflow: reading it, naming its inputs by columns, filling it with a row."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RowError, RunnerError
from .job import Graph
from .values import coerce, spec_of, typed

SEEDS = ("seed", "noise_seed")
PREFIX = "filename_prefix"
# Types whose making reads or patches model weights: rows that agree in all inputs of the nodes
# that give these need no loading between them.
MODEL_TYPES = {
    "MODEL", "CLIP", "VAE", "CONTROL_NET", "GLIGEN", "CLIP_VISION", "STYLE_MODEL", "UPSCALE_MODEL",
    "LORA_MODEL", "PHOTOMAKER", "AUDIO_ENCODER", "MODEL_PATCH",
}  # fmt: skip


def read_workflow(path: Path) -> Graph:
    """The graph in ``path``, as ComfyUI's 'Export (API)' writes it. Raises ``RunnerError``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunnerError(f"The workflow {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise RunnerError(f"{path.name} is no JSON: {error}.") from None
    return checked_workflow(value, path.name)


def checked_workflow(value: Any, name: str) -> Graph:
    """``value`` if it has the form of an API graph, with every link leading to a node of it."""
    if isinstance(value, dict) and "nodes" in value and "links" in value:
        raise RunnerError(
            f"{name} is a workflow as the page saves it: in ComfyUI choose Workflow > Export (API)"
            " and give that file."
        )
    if not isinstance(value, dict) or not value:
        raise RunnerError(f"{name} is no workflow: give the file that Export (API) makes.")
    for key, node in value.items():
        whole = isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        if not whole or not isinstance(node.get("class_type"), str):
            raise RunnerError(
                f"{name} is no API workflow: '{key}' has no class_type and inputs; give the file"
                " that Export (API) makes."
            )
        for slot, linked in node["inputs"].items():
            if is_link(linked) and str(linked[0]) not in value:
                raise RunnerError(
                    f"{name}: input '{slot}' of node {key} is linked to node {linked[0]}, which is"
                    " not there; export the workflow again."
                )
    return value


def is_link(value: Any) -> bool:
    """Is an input's value in an API graph a reference to another node's output?"""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def title(graph: Graph, node: str) -> str:
    """The title that the page shows on a node."""
    return str((graph[node].get("_meta") or {}).get("title") or graph[node]["class_type"])


@dataclass(frozen=True)
class Target:
    """One input of one node."""

    node: str
    input: str


@dataclass(frozen=True)
class Binding:
    """Which inputs each column fills; ``labels`` fill none and are carried into the results."""

    columns: dict[str, tuple[Target, ...]]
    labels: tuple[str, ...]


def bind(
    graph: Graph,
    columns: Iterable[str],
    info: Mapping[str, Any],
    mapping: Mapping[str, Sequence[str]] | None = None,
) -> Binding:
    """Find the inputs of every column.

    ``mapping``: column -> ['node.input', ...] where the name does not say it, [] for a column that
    fills nothing. A name 'node.input' takes the node by id, title or class. A name without a dot
    takes the one input of that name, 'seed' all seeds; one that fits nothing is a label. 'id'
    names the row. Raises ``RunnerError`` for a name that fits no node or input, or several.
    """
    columns, mapping = list(columns), dict(mapping or {})
    for name in mapping:
        if name not in columns:
            near = _nearest(name, columns)
            raise RunnerError(f"The table has no column '{name}', which --map names{near}.")
    found: dict[str, tuple[Target, ...]] = {}
    labels: list[str] = []
    for column in columns:
        if column in mapping:
            targets = tuple(_dotted(graph, place, info, column) for place in mapping[column])
        elif column == "id":
            targets = ()
        elif "." in column:
            targets = (_dotted(graph, column, info, column),)
        else:
            targets = _bare(graph, column, info)
        if targets:
            found[column] = targets
        else:
            labels.append(column)
    _no_input_twice(graph, found)
    return Binding(found, tuple(labels))


def _dotted(graph: Graph, place: str, info: Mapping[str, Any], column: str) -> Target:
    """The input that 'node.input' names; both parts may hold dots themselves."""
    dots = [at for at, letter in enumerate(place) if letter == "."]
    nodes: list[str] = []
    for at in reversed(dots):
        nodes = _nodes_named(graph, place[:at])
        wanted = place[at + 1 :]
        if len(nodes) > 1:
            raise RunnerError(
                f"Column '{column}': nodes {', '.join(nodes)} are all called '{place[:at]}'; name"
                f" one by its id, such as '{nodes[0]}.{wanted}'."
            )
        if nodes:
            return _input(graph, nodes[0], wanted, info, column)
    name = place[: dots[-1]] if dots else place
    known = list(dict.fromkeys([title(graph, node) for node in graph]))
    raise RunnerError(
        f"Column '{column}': the workflow has no node with the id or title"
        f" '{name}'{_nearest(name, known)}."
    )


def _nodes_named(graph: Graph, name: str) -> list[str]:
    """Nodes by id, title or class; 'use:node' are those in one use of a subgraph, whose ids begin
    with that of the use."""
    if name in graph:
        return [name]
    use, _, last = name.rpartition(":")
    inside = [node for node in graph if node.rpartition(":")[0] == use] if use else []
    for among, wanted in ((list(graph), name), (inside, last)):
        for called in (title, lambda graph, node: graph[node]["class_type"]):
            if found := [node for node in among if called(graph, node) == wanted]:
                return found
    return []


def _input(graph: Graph, node: str, name: str, info: Mapping[str, Any], column: str) -> Target:
    kind = graph[node]["class_type"]
    spec = spec_of(info, kind, name)
    if spec is None and name not in graph[node]["inputs"]:
        sections = info.get(kind, {}).get("input", {})
        known = [key for part in ("required", "optional") for key in sections.get(part) or {}]
        known = known or list(graph[node]["inputs"])
        near = _nearest(name, known)
        raise RunnerError(
            f"Column '{column}': node {node} ({title(graph, node)}) has no input '{name}'{near}."
        )
    if spec is not None and not typed(spec) and is_link(graph[node]["inputs"].get(name)):
        raise RunnerError(
            f"Column '{column}': input '{name}' of node {node} ({title(graph, node)}) takes a"
            f" {spec[0]} from another node, which no table cell can give."
        )
    return Target(node, name)


def _bare(graph: Graph, column: str, info: Mapping[str, Any]) -> tuple[Target, ...]:
    if column == "seed":
        return seed_inputs(graph)
    fits = [
        Target(node, column)
        for node, entry in graph.items()
        if column in entry["inputs"] and not is_link(entry["inputs"][column])
    ]
    if len(fits) > 1:
        places = " or ".join(f"{target.node}.{column}" for target in fits[:3])
        raise RunnerError(
            f"Column '{column}' fits {len(fits)} nodes: rename it to {places}, or use --map"
            f" {column}={fits[0].node}.{column} (--map {column}= if it shall fill nothing)."
        )
    return tuple(fits)


def seed_inputs(graph: Graph) -> tuple[Target, ...]:
    """Every seed that is not linked: a row has one seed, whatever draws from it."""
    return tuple(
        Target(node, name)
        for node, entry in graph.items()
        for name in SEEDS
        if isinstance(entry["inputs"].get(name), int)
    )


def _no_input_twice(graph: Graph, found: Mapping[str, tuple[Target, ...]]) -> None:
    taken: dict[Target, str] = {}
    for column, targets in found.items():
        for target in targets:
            if target in taken:
                raise RunnerError(
                    f"Columns '{taken[target]}' and '{column}' both fill input '{target.input}' of"
                    f" node {target.node} ({title(graph, target.node)}): keep one."
                )
            taken[target] = column


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; the nearest is '{near[0]}'"
    return f"; there are {', '.join(repr(one) for one in known[:12])}" if known else ""


def fill(
    graph: Graph, binding: Binding, values: Mapping[str, Any], info: Mapping[str, Any]
) -> Graph:
    """A copy of ``graph`` with a row's cells in its inputs. Raises ``RowError`` for a cell that is
    missing, of the wrong kind or out of its range."""
    filled = copy.deepcopy(graph)
    for column, targets in binding.columns.items():
        if values.get(column) is None:
            raise RowError(f"column '{column}' has no value")
        for target in targets:
            spec = spec_of(info, graph[target.node]["class_type"], target.input)
            try:
                value = coerce(values[column], spec, graph[target.node]["inputs"].get(target.input))
            except RowError as error:
                raise RowError(f"column '{column}': {error}") from None
            filled[target.node]["inputs"][target.input] = value
    return filled


def graph_hash(graph: Graph) -> str:
    """16 hexadecimal digits that stand for what is computed; titles do not matter."""
    plain = {key: {"class_type": n["class_type"], "inputs": n["inputs"]}
             for key, n in graph.items()}  # fmt: skip
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_prefix(graph: Graph, name: str, info: Mapping[str, Any]) -> Graph:
    """A copy whose saving nodes put their files below a name of the row's own.

    Two servers may share a folder, and ComfyUI counts a folder's files for each that it adds: one
    prefix for all rows would overwrite pictures in the first case and crawl in every.
    """
    named = copy.deepcopy(graph)
    shard = hashlib.sha256(name.encode()).hexdigest()[:2]
    for node in named.values():
        before = node["inputs"].get(PREFIX)
        if isinstance(before, str) and info.get(node["class_type"], {}).get("output_node"):
            node["inputs"][PREFIX] = f"{before.rstrip('/') or 'ComfyUI'}/{shard}/{name}"
    return named


def model_key(graph: Graph, info: Mapping[str, Any]) -> str:
    """Hash of everything that decides which models a graph needs, patched how."""
    parts = []
    for name, node in graph.items():
        gives = info.get(node["class_type"], {}).get("output") or []
        if any(isinstance(kind, str) and kind in MODEL_TYPES for kind in gives):
            parts.append([name, node["class_type"], node["inputs"]])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def check_classes(graph: Graph, info: Mapping[str, Any]) -> None:
    """Raise ``RunnerError`` unless every node class is known and one of them saves something."""
    unknown = sorted({n["class_type"] for n in graph.values()} - set(info))
    if unknown:
        where = next(key for key, node in graph.items() if node["class_type"] == unknown[0])
        raise RunnerError(
            f"Node {where} ({title(graph, where)}) is of class '{unknown[0]}', which this ComfyUI"
            " does not have: install its custom nodes, or name a ComfyUI that has them."
        )
    if not any(info[node["class_type"]].get("output_node") for node in graph.values()):
        raise RunnerError("The workflow has no output node: add a Save Image.")
