"""How far two branches of one checkpoint ask it for the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor

from ..host.options import joins_rows, sees_rows

Conds = dict[str, list[dict[str, Any]]]

POSITIVE, NEGATIVE = 0, 1
"""Index by which the host marks rows of the positive and the negative prompt in a model call."""

# what a ControlNet adds, and what says nothing about the model's input
_BESIDE = {"control", "control_apply_to_uncond", "uuid", "additional_models"}
# functions that take the place of the host's own call: their result cannot be foretold
_REPLACING = ("sampler_calc_cond_batch_function", "context_handler")


@dataclass(frozen=True)
class Agreement:
    """What the second branch may take from the first.

    ``negative``: the unconditional prediction. ``encoder``: which prompts (POSITIVE, NEGATIVE)
    differ by a ControlNet at most, so that conv_in, down path and middle are the same.
    """

    negative: bool = False
    encoder: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return self.negative or bool(self.encoder)


def agreement(
    first: Conds, first_options: dict[str, Any], second: Conds, second_options: dict[str, Any]
) -> Agreement:
    """Compare two branches of one model: processed conditioning and model options of each.

    Both must be the very same weights; the caller knows. Whatever cannot be compared counts as
    different. Reads tensors back once; call it once per run.
    """
    prompts = [(first.get(name, []), second.get(name, [])) for name in ("positive", "negative")]
    every = [entry for conds in (first, second) for one in conds.values() for entry in one]
    if (
        any(options.get(name) for options in (first_options, second_options) for name in _REPLACING)
        or joins_rows(first_options, every)
        or not same_options(first_options, second_options)
        # hooks change the weights between calls
        or any(_have("hooks", entries) for both in prompts for entries in both)
    ):
        return Agreement()
    alike = frozenset(
        index for index, (one, other) in enumerate(prompts) if len(one) == 1 and _same(one, other)
    )
    ours, theirs = prompts[NEGATIVE]
    # a pass without the negative rows would not be what another pack's patch expects
    steered = sees_rows(first_options) or _have("control", [*ours, *theirs])
    return Agreement(bool(ours) and not steered and _same(ours, theirs), alike)


def _have(name: str, entries: list[dict[str, Any]]) -> bool:
    return any(entry.get(name) is not None for entry in entries)


def same_options(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether both branches' options change the model in the same way.

    Patches may write to them in the course of a run, so it is asked before every common pass.
    """
    if first.get("model_function_wrapper") is not second.get("model_function_wrapper"):
        return False
    ours, theirs = (
        {k: v for k, v in options.get("transformer_options", {}).items() if k != "sample_sigmas"}
        for options in (first, second)
    )
    return _same(ours, theirs)


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.shape == second.shape and bool(torch.equal(first, second))
    if isinstance(first, dict):
        keys = first.keys() - _BESIDE
        return keys == second.keys() - _BESIDE and all(_same(first[k], second[k]) for k in keys)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, FunctionType):  # made twice by one piece of code
        ours, theirs = (
            (f.__defaults__, f.__kwdefaults__, f.__closure__) for f in (first, second)
        )  # fmt: skip
        return first.__code__ is second.__code__ and _same(ours, theirs)
    if isinstance(first, CellType):
        return _same(first.cell_contents, second.cell_contents)
    if hasattr(first, "cond"):  # the host's wrappers around model inputs
        return _same(vars(first), vars(second))
    if isinstance(first, (str, bytes, int, float, bool)):
        return first == second
    return False
