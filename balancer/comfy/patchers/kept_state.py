"""State that other packs' patches keep between calls: momentum, caches, recorded attention.

It lives in variables around their functions, in attributes of their objects, and in dictionaries
and lists that either holds. One MODEL in both branches has one such state for two predictions a
step, and a probe is a call that nobody asked for; so what has changed is put back around these.
Nothing that lies deeper is touched.
"""

from __future__ import annotations

import dis
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module

_ASSIGNS = {"STORE_DEREF", "DELETE_DEREF"}
# the host's and libraries' objects are shared with everything else that runs
_OTHERS = {"comfy", "torch", "numpy", "builtins", "functools", __name__.partition(".balancer.")[0]}
_PLAIN = (bool, int, float, complex, str, bytes, type, type(None))
_CONTAINERS = (dict, list, set)
# longer ones are tables, not state
_LONGEST = 4096
_NONE = object()

Kept = dict[int, tuple[Any, Any]]
"""By id: a variable's cell, an object or a container, and what it held: a value, attributes by
name, or a copy."""


def kept(options: dict[str, Any], variables: bool = True) -> Kept:
    """What the patches among a model's options hold now: attributes of objects that stand among
    the options or own a function, and with ``variables`` what is around functions: variables that
    they assign to, dictionaries and lists."""
    found: Kept = {}
    met: set[int] | None = set() if variables else None
    for part in _parts(options):
        _visit(part, found, met)
    return found


def put_back(state: Iterable[tuple[Any, Any]]) -> None:
    """Let holders hold what they held; what has not changed is not written to."""
    for holder, content in state:
        if isinstance(holder, CellType):
            if content is not _NONE:
                holder.cell_contents = content
        elif isinstance(holder, list):
            if len(holder) != len(content) or not all(map(operator.is_, holder, content)):
                holder[:] = content
        elif isinstance(holder, set):
            if holder != content:
                holder.clear()
                holder.update(content)
        else:
            names = holder if isinstance(holder, dict) else vars(holder)
            for name in [name for name in names if name not in content]:
                del names[name]
            for name, value in content.items():
                if names.get(name, _NONE) is not value:
                    names[name] = value


@contextmanager
def aside(options: dict[str, Any]) -> Iterator[None]:
    """A call that leaves no trace in objects of patches among ``options`` (caches). What is around
    functions may count calls, and a probe is one."""
    before = list(kept(options, variables=False).values())
    try:
        yield
    finally:
        put_back(before)


class OwnStates:
    """For each branch a state of its own, where patches of several are one object.

    ``options`` are the branches', by their roles. True where there is such an object.
    """

    def __init__(self, options: dict[str, dict[str, Any]]) -> None:
        self._options = options
        start = list(self._now().values())
        self._states = {role: start for role in options}

    def __bool__(self) -> bool:
        return any(self._states.values())

    @contextmanager
    def of(self, role: str) -> Iterator[None]:
        """One branch's prediction, with that branch's state in force."""
        if not self:
            yield
            return
        put_back(self._states[role])
        try:
            yield
        finally:
            self._states[role] = list(self._now().values())

    def _now(self) -> Kept:
        """What holders that several branches have in common hold."""
        every = [kept(options) for options in self._options.values()]
        times = Counter(key for each in every for key in each)
        return {key: held for each in every for key, held in each.items() if times[key] > 1}


def _parts(value: Any) -> Iterator[Any]:
    """Everything among options that is no container of the options themselves."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _parts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, partial):
        yield from _parts((value.func, value.args, value.keywords))
    elif not isinstance(value, (Tensor, Module, ModelPatcher, *_PLAIN)):
        yield value


def _visit(value: Any, found: Kept, met: set[int] | None) -> None:
    """``met`` are the cells that were visited; None: what is around functions is not asked for."""
    if isinstance(value, MethodType):
        _visit(value.__func__, found, met)
        value = value.__self__
    if isinstance(value, FunctionType):
        if met is not None:
            _function(value, found, met)
    elif _is_a_packs_object(value) and id(value) not in found:
        found[id(value)] = (value, dict(vars(value)))
        for inner in vars(value).values():
            _contents(inner, found)


def _is_a_packs_object(value: Any) -> bool:
    known = isinstance(value, (Module, ModelPatcher, type))
    return not known and hasattr(value, "__dict__") and _root(type(value)) not in _OTHERS


def _contents(value: Any, found: Kept) -> None:
    if type(value) in _CONTAINERS and len(value) <= _LONGEST:
        found[id(value)] = (value, value.copy())


def _function(function: FunctionType, found: Kept, met: set[int]) -> None:
    """The cells that a function assigns to, also those of functions that it was made around."""
    if _root(function) in _OTHERS:
        return
    assigned = _assigned(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # not set yet
            content = _NONE
        if name in assigned:
            found[id(cell)] = (cell, content)
        elif id(cell) in met:  # functions may know each other
            continue
        elif isinstance(content, (FunctionType, MethodType)):
            met.add(id(cell))
            _visit(content, found, met)
        else:
            _contents(content, found)


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
