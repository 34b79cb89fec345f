"""State that other packs' patches keep between calls: momentum, caches, recorded attention.

It lives in the surroundings of their functions and in objects of theirs. One MODEL in both
branches has one such state for two predictions a step, and a look is a call that they never asked
for; so it is taken out and put back around these.
"""

from __future__ import annotations

import dis
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module

# longer containers are tables, not state; deeper ones belong to something else
_LONGEST, _DEEPEST = 4096, 8
# options, transformer_options, kind, block or key, list: so far the options themselves reach
_SHALLOW = 5
_ASSIGNS = {"STORE_DEREF", "DELETE_DEREF"}
# the host's and libraries' objects are shared with everything else that runs
_OTHERS = {"comfy", "torch", "numpy", "builtins", __name__.partition(".balancer.")[0]}
_NONE = object()

Kept = dict[int, tuple[Any, Any]]
"""By id: a variable's cell or a container, and what it held."""


def kept(options: dict[str, Any]) -> Kept:
    """What the patches among a model's options hold now: the variables of their surroundings that
    they assign to, and attributes of their objects."""
    walk = _Walk()
    walk.visit(options, 0, inside=False)
    return {
        key: (holder, content)
        for key, (holder, content) in walk.found.items()
        if not isinstance(holder, CellType) or key in walk.rebound
    }


def put_back(state: Iterable[tuple[Any, Any]]) -> None:
    """Let holders hold what they held."""
    for holder, content in state:
        _fill(holder, content)


@contextmanager
def aside(options: dict[str, Any]) -> Iterator[None]:
    """A call that leaves no trace in the objects (caches) of patches among ``options``."""
    before = [one for one in kept(options).values() if not isinstance(one[0], CellType)]
    try:
        yield
    finally:
        put_back(before)


class OwnStates:
    """For each of two branches a state of its own, where patches of both are one object.

    ``first`` and ``second`` are the branches' options. True where there is such an object.
    """

    def __init__(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        self._options = (first, second)
        start = self._now()
        self._states = {branch: list(start.values()) for branch in (False, True)}

    def __bool__(self) -> bool:
        return bool(self._states[False])

    @contextmanager
    def of(self, spatial: bool) -> Iterator[None]:
        """One branch's prediction, with that branch's state in force."""
        if not self:
            yield
            return
        put_back(self._states[spatial])
        try:
            yield
        finally:
            self._states[spatial] = list(self._now().values())

    def _now(self) -> Kept:
        """Common containers, and those that they have come to hold."""
        first, second = (kept(options) for options in self._options)
        return {key: first[key] for key in first if key in second}


def _fill(holder: Any, content: Any) -> None:
    if isinstance(holder, CellType):
        if content is _NONE:
            del holder.cell_contents
        else:
            holder.cell_contents = content
    elif isinstance(holder, dict):
        holder.clear()
        holder.update(content)
    elif isinstance(holder, list):
        holder[:] = content
    else:
        holder.clear()
        (holder.update if isinstance(holder, set) else holder.extend)(content)


@dataclass
class _Walk:
    """Everything that options lead to: ``rebound`` are the variables that functions assign to."""

    found: Kept = field(default_factory=dict)
    rebound: set[int] = field(default_factory=set)
    packs: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def visit(self, value: Any, depth: int, inside: bool) -> None:
        """``inside``: the value is a part of some object's state."""
        if depth > _DEEPEST or isinstance(value, (Tensor, Module, ModelPatcher, type)):
            return
        if isinstance(value, (dict, list, set, deque)):
            self._container(value, depth, inside)
        elif isinstance(value, tuple):
            self._each(value, depth, inside)
        elif isinstance(value, partial):
            self._each((value.func, value.args, value.keywords), depth, False)
        elif isinstance(value, MethodType):
            self._each((value.__func__, value.__self__), depth, False)
        elif isinstance(value, FunctionType):
            self._function(value, depth)
        elif hasattr(value, "__dict__") and self._is_a_packs(value, depth):
            self.visit(vars(value), depth + 1, True)

    def _each(self, values: Iterable[Any], depth: int, inside: bool) -> None:
        for value in values:
            self.visit(value, depth + 1, inside)

    def _container(self, value: Any, depth: int, inside: bool) -> None:
        if id(value) in self.seen or len(value) > _LONGEST:
            return
        self.seen.add(id(value))
        held = dict(value) if isinstance(value, dict) else list(value)
        if inside:
            self.found[id(value)] = (value, held)
        self._each(held.values() if isinstance(held, dict) else held, depth, inside)

    def _function(self, function: FunctionType, depth: int) -> None:
        if _root(function) in _OTHERS:
            return
        self.packs.add(_root(function))
        assigned = _assigned(function.__code__)
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            if name in assigned:
                self.rebound.add(id(cell))
            if id(cell) in self.found:
                continue
            try:
                content = cell.cell_contents
            except ValueError:  # not set yet
                content = _NONE
            self.found[id(cell)] = (cell, content)
            self.visit(content, depth + 1, False)

    def _is_a_packs(self, value: Any, depth: int) -> bool:
        """Whether an object is of a pack that patches this model: not the server, not a progress
        bar. One that stands among the options themselves makes its package one of these."""
        root = _root(type(value))
        if root in _OTHERS:
            return False
        if depth <= _SHALLOW:
            self.packs.add(root)
        return root in self.packs


@lru_cache(maxsize=4096)
def _assigned(code: CodeType) -> frozenset[str]:
    """The variables of its surroundings that a function, or one inside it, assigns to."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _ASSIGNS}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _assigned(inner)
    return frozenset(names & set(code.co_freevars))


def _root(thing: Any) -> str:
    """The package that a function or class comes from."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0]
