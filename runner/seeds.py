"""Inputs that are linked: the node whose value they are, and the seeds of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import RunnerError, shown, tidy
from .job import Graph
from .values import limits, spec_of

SEEDS = ("seed", "noise_seed")
CONTROL = "control"
"""How inputs begin that only tell the page what to do with a value after a run."""
SHOWN_PLACES = 4


def is_link(value: Any) -> bool:
    """Is an input's value in an API graph a reference to another node's output?"""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def title(graph: Graph, node: str) -> str:
    """The title that the page shows on a node."""
    about = graph[node].get("_meta")
    said = about.get("title") if isinstance(about, Mapping) else None
    return str(said or graph[node]["class_type"])


@dataclass(frozen=True)
class Target:
    """One input of one node."""

    node: str
    input: str


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def source(
    graph: Graph, start: Target, column: str, fits: Callable[[Any], bool] = _whole
) -> Target:
    """The input whose value comes out at ``start``, through nodes that only pass it on.

    That is the ``value`` of the node at the link's other end, or its input of the ``column``'s
    name, or the only one that it has. Raises ``RunnerError``, naming what could be meant, for a
    node that computes: a cell that is put into one of its inputs would come out as something else.
    """
    names = (*SEEDS, "value") if column == "seed" else (column, "value")
    at, seen = start, {start.node}
    while is_link(graph[at.node]["inputs"].get(at.input)):
        node = str(graph[at.node]["inputs"][at.input][0])
        if node not in graph or node in seen:
            break
        seen.add(node)
        inputs = {name: value for name, value in graph[node]["inputs"].items()
                  if not name.startswith(CONTROL)}  # fmt: skip
        own = [name for name in names if fits(inputs.get(name))]
        if len(inputs) == 1:
            own = own or [name for name, value in inputs.items() if fits(value)]
            if not own:
                at = Target(node, next(iter(inputs)))  # it passes on what it is given
                continue
        if len(own) != 1 or any(is_link(value) for value in inputs.values()):
            break
        return Target(node, own[0])
    raise RunnerError(_unclear(graph, start, column))


def _unclear(graph: Graph, start: Target, column: str) -> str:
    """What to do where a link leads to no value; several links are not followed at once."""
    node = str(graph[start.node]["inputs"][start.input][0])
    inputs = graph[node]["inputs"] if node in graph else {}
    places = [f"{node}.{name}" for name, value in inputs.items() if not is_link(value)]
    places = [tidy(place, 80) for place in places[:SHOWN_PLACES]]
    own = f"{start.node}.{start.input}"
    choice = f"{' or '.join([*places, ''])}{own} (instead of the link)"
    kind = tidy(title(graph, node), 60) if node in graph else "which is not there"
    return (
        f"Column {shown(column)}: input '{start.input}' of node {start.node}"
        f" ({tidy(title(graph, start.node), 60)}) is linked to node {node} ({kind}), and which"
        f" value comes from there is not plain: name the column {choice}, or use"
        f" --map {tidy(column, 60)}=NODE.INPUT (--map {tidy(column, 60)}= if it shall fill"
        " nothing)."
    )


def seed_inputs(graph: Graph, given: Collection[Target] = ()) -> tuple[Target, ...]:
    """Every seed: a row has one seed, whatever draws from it. One that is linked stands where its
    link begins. ``given``: inputs that have columns of their own, whatever is in them.

    Raises ``RunnerError`` where a link leads to no plain value: rows would all draw the same.
    """
    found: dict[Target, None] = {}
    for node, entry in graph.items():
        for name in SEEDS:
            value, target = entry["inputs"].get(name), Target(node, name)
            if _whole(value) or target in given:
                found[target] = None
            elif is_link(value):
                found[source(graph, target, "seed")] = None
    return tuple(found)


def next_seeds(graph: Graph, number: int, info: Mapping[str, Any], given: Collection[Target]) -> (
    dict[Target, int]
):  # fmt: skip
    """The seeds that stand ``number`` after those of ``graph``, within what their inputs take."""
    found = {}
    for target in seed_inputs(graph, given):
        value = graph[target.node]["inputs"].get(target.input)
        if not _whole(value):
            continue
        spec = spec_of(info, graph[target.node]["class_type"], target.input)
        low, high = limits(spec[1] if spec is not None else {})
        first, last = int(low or 0), int(high if high is not None else 2**64 - 1)
        found[target] = first + (value - first + number) % (last - first + 1)
    return found
