"""What two patchers of one model have in common, and what each adds to it, weight by weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor

Patch = tuple[Any, ...]
"""The host's: strength, what to add, strength of the model, offset, function."""


@dataclass(frozen=True)
class Part:
    """Weight patches and weight wrappers by the weight's key, each in the order of application."""

    patches: dict[str, list[Patch]] = field(default_factory=dict)
    wrappers: dict[str, list[Callable[..., Tensor]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.patches or self.wrappers)

    @property
    def keys(self) -> list[str]:
        """The weights it changes."""
        return list(dict.fromkeys([*self.patches, *self.wrappers]))

    def take_over(self, other: Part, name: str) -> None:
        """Begin with what ``other`` does to the weights of the object ``name``."""
        both: Any = ((self.patches, other.patches), (self.wrappers, other.wrappers))
        for mine, its in both:
            for key in its:
                if _belongs(key, name):
                    mine[key] = [*its[key], *mine.get(key, [])]

    def drop(self, name: str) -> None:
        """Do nothing to the weights of the object ``name``."""
        for mine in (self.patches, self.wrappers):
            for key in [key for key in mine if _belongs(key, name)]:
                del mine[key]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the patches."""
        for patches in self.patches.values():
            yield from _tensors(patches)


def _belongs(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def part_of(patcher: Any) -> Part:
    """All that a patcher does to its model's weights."""
    return Part(patcher.patches, getattr(patcher, "weight_wrapper_patches", {}))


def split(first: Part, second: Part) -> tuple[Part, Part, Part]:
    """What both begin with, and what either does to the weights after that."""
    patches = _split(first.patches, second.patches)
    wrappers = _split(first.wrappers, second.wrappers)
    common, own, others = (Part(*pair) for pair in zip(patches, wrappers, strict=True))
    return common, own, others


def _split(
    first: dict[str, list[Any]], second: dict[str, list[Any]]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]], dict[str, list[Any]]]:
    common: dict[str, list[Any]] = {}
    own: dict[str, list[Any]] = {}
    others: dict[str, list[Any]] = {}
    for key in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(key, []), second.get(key, [])
        shared = 0
        while shared < min(len(ours), len(theirs)) and same(ours[shared], theirs[shared]):
            shared += 1
        for found, items in (
            (common, ours[:shared]), (own, ours[shared:]), (others, theirs[shared:])
        ):  # fmt: skip
            if items:
                found[key] = items
    return common, own, others


def same(first: Any, second: Any) -> bool:
    """Whether two patches, or objects put into a model, are the same; tensors by identity."""
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, (bool, int, float, str, torch.dtype, MethodType)):
        return first == second
    return False


def moved(value: Any, device: torch.device) -> Any:
    """Patches whose tensors are on ``device``; adapters of the host are copied for it."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(item, device) for item in value)
    if hasattr(value, "calculate_weight") and hasattr(value, "weights"):
        twin = copy.copy(value)
        twin.weights = moved(value.weights, device)
        return twin
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "calculate_weight") and hasattr(value, "weights"):
        yield from _tensors(value.weights)


def bytes_of(tensors: Iterator[Tensor]) -> int:
    """Memory of the tensors; one that comes twice counts once."""
    return sum({id(t): t.numel() * t.element_size() for t in list(tensors)}.values())
