"""Pairs of different objects, split once for all: some to finetune on, the others held out.

Finetuning that is to help with pairs must show it on pairs that it never saw.
"""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import combinations

from .world import COLOURS, SHAPES, Scene, ShapeObject, random_boxes

Pair = tuple[tuple[str, str], tuple[str, str]]
"""Two different objects as (colour, shape), in the order of ``COLOURS`` and ``SHAPES``."""

HELD_OUT = 0.25
_SPLIT_SEED = 20_261_122


@lru_cache(maxsize=1)
def _split() -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    everything = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs: list[Pair] = list(combinations(everything, 2))
    random.Random(_SPLIT_SEED).shuffle(pairs)
    held = round(HELD_OUT * len(pairs))
    return tuple(pairs[held:]), tuple(pairs[:held])


def training_pairs() -> tuple[Pair, ...]:
    """The 326 unordered pairs that finetuning may use."""
    return _split()[0]


def held_out_pairs() -> tuple[Pair, ...]:
    """The 109 unordered pairs for measuring."""
    return _split()[1]


def pair_scenes(pairs: tuple[Pair, ...], count: int, seed: int) -> list[Scene]:
    """``count`` scenes of two objects: every pair as often as any other, give or take one.

    Which object is named first, and where both lie, comes from ``seed``.
    """
    rng = random.Random(seed)
    chosen: list[Pair] = []
    while len(chosen) < count:
        chosen += rng.sample(pairs, len(pairs))
    scenes = []
    for first, second in chosen[:count]:
        order = [first, second] if rng.random() < 0.5 else [second, first]
        things = [ShapeObject(*o, box) for o, box in zip(order, random_boxes(rng, 2), strict=True)]
        scenes.append(Scene(tuple(things)))
    return scenes
