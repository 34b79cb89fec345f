"""An API-format workflow: reading it, naming its inputs by columns, filling it with a row."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..balancer.values.foreign_json import LONGEST, parse_json
from .errors import RowError, RunnerError, shown, tidy
from .job import Graph
from .seeds import Target, is_link, seed_inputs, source, title
from .table import broken_json
from .values import coerce, spec_of, typed

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
        size = path.stat().st_size
        if size > LONGEST:
            raise RunnerError(
                f"{path.name} is no workflow: it has {size >> 20} MiB; give the file that Export"
                " (API) makes."
            )
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise RunnerError(f"The workflow {path} cannot be read: {error.strerror}.") from None
    except RunnerError:
        raise
    except ValueError as error:
        raise RunnerError(
            f"{path.name} {broken_json(error)}; give the file that Export (API) makes."
        ) from None
    return checked_workflow(value, path.name)


def checked_workflow(value: Any, name: str) -> Graph:
    """``value`` if it has the form of an API graph, with every link leading to a node of it."""
    if isinstance(value, dict) and isinstance(value.get("nodes"), list):
        raise RunnerError(
            f"{name} is a workflow as the page saves it: in ComfyUI choose Workflow > Export (API)"
            " and give that file."
        )
    if not isinstance(value, dict) or not value:
        raise RunnerError(f"{name} is no workflow: give the file that Export (API) makes.")
    for key, node in value.items():
        whole = isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        if not whole or not isinstance(node.get("class_type"), str) or not isinstance(key, str):
            raise RunnerError(
                f"{name} is no API workflow: {shown(key)} has no class_type and inputs; give the"
                " file that Export (API) makes."
            )
        for slot, linked in node["inputs"].items():
            if is_link(linked) and str(linked[0]) not in value:
                raise RunnerError(
                    f"{name}: input '{slot}' of node {key} is linked to node"
                    f" {tidy(linked[0], 60)}, which is not there; export the workflow again."
                )
    try:
        json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunnerError(
            f"{name} holds what JSON cannot write ({tidy(error, 100)}): give the file that Export"
            " (API) makes."
        ) from None
    return value


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
            raise RunnerError(f"The table has no column {shown(name)}, which --map names{near}.")
    found: dict[str, tuple[Target, ...]] = {}
    labels: list[str] = []
    for column in columns:
        if column in mapping:
            targets = tuple(_dotted(graph, target, info, column) for target in mapping[column])
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


def _dotted(graph: Graph, target: str, info: Mapping[str, Any], column: str) -> Target:
    """The input that 'node.input' names; both parts may hold dots themselves."""
    dots = [at for at, letter in enumerate(target) if letter == "."]
    nodes: list[str] = []
    for at in reversed(dots):
        nodes = _nodes_named(graph, target[:at])
        wanted = target[at + 1 :]
        if len(nodes) > 1:
            raise RunnerError(
                f"Column '{column}': nodes {', '.join(nodes)} are all called '{target[:at]}'; name"
                f" one by its id, such as '{nodes[0]}.{wanted}'."
            )
        if nodes:
            return _input(graph, nodes[0], wanted, info, column)
    name = target[: dots[-1]] if dots else target
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
    """The inputs that a name without a dot means; one that is linked stands where its link begins,
    so that no row draws as all others do because its cell reached nothing."""
    if column == "seed":
        return seed_inputs(graph)
    fits: dict[Target, None] = {}
    for node, entry in graph.items():
        target, value = Target(node, column), entry["inputs"].get(column)
        if column not in entry["inputs"]:
            continue
        if not is_link(value):
            fits[target] = None
            continue
        spec = spec_of(info, entry["class_type"], column)
        if spec is not None and typed(spec):  # not a model or a picture, which no cell can give
            fits[source(graph, target, column, _written)] = None
    if len(fits) > 1:
        places = " or ".join(f"{target.node}.{target.input}" for target in list(fits)[:3])
        first = next(iter(fits))
        raise RunnerError(
            f"Column {shown(column)} fits {len(fits)} nodes: rename it to {places}, or use --map"
            f" {column}={first.node}.{first.input} (--map {column}= if it shall fill nothing)."
        )
    return tuple(fits)


def _written(value: Any) -> bool:
    """Can an input's value be a cell?"""
    return isinstance(value, (str, int, float))


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
    near = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.5)
    if near:
        return f"; the nearest is {shown(near[0])}"
    return f"; there are {', '.join(shown(one) for one in known[:12])}" if known else ""


def fill(
    graph: Graph,
    binding: Binding,
    values: Mapping[str, Any],
    info: Mapping[str, Any],
    decimal_comma: bool = False,
) -> Graph:
    """``graph`` with a row's cells in its inputs; nodes that have none of them are shared with it.

    Raises ``RowError`` for a cell that is missing, of the wrong kind or out of its range.
    """
    cells: dict[Target, Any] = {}
    for column, targets in binding.columns.items():
        value = values.get(column)
        if value is None:
            raise RowError(f"column {shown(column)} has no value")
        for target in targets:
            entry = graph[target.node]
            spec = spec_of(info, entry["class_type"], target.input)
            before = entry["inputs"].get(target.input)
            try:
                cells[target] = coerce(value, spec, before, decimal_comma)
            except RowError as error:
                raise RowError(f"column {shown(column)}: {error}") from None
    return changed(graph, cells)


def changed(graph: Graph, values: Mapping[Target, Any]) -> Graph:
    """``graph`` with other values in some inputs; only the nodes that have them are copied."""
    made = dict(graph)
    for target, value in values.items():
        node = made[target.node]
        made[target.node] = {**node, "inputs": {**node["inputs"], target.input: value}}
    return made


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
    named: dict[Target, str] = {}
    shard = hashlib.sha256(name.encode()).hexdigest()[:2]
    for key, node in graph.items():
        before = node["inputs"].get(PREFIX)
        if isinstance(before, str) and info.get(node["class_type"], {}).get("output_node"):
            named[Target(key, PREFIX)] = f"{before.rstrip('/') or 'ComfyUI'}/{shard}/{name}"
    return changed(graph, named)


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
