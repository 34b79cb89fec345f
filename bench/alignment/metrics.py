"""What the alignment table measures on pictures of two things, by the oracle and the style judge.

No box is asked for: a thing counts wherever it is. Of the things asked for, ``shown`` are those
whose shape is there in whatever colour, ``present`` those whose shape is there in their colour.
So ``shown`` falls with missing objects, and ``bound`` = present / shown with swapped attributes.
``both``: pictures that show all that was asked for, whatever else; ``binding``: and no other kind
of thing; ``count``: as many things as were asked for.

Diversity is that of pictures of one prompt from different noise: the mean over their pairs of the
root mean square difference of the codec's latents, which see where things are and in what colours,
and of the style judge's features, those of the Frechet distance, which see texture and light.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ...shapes.host_models import load_codec
from ...shapes.oracle import PictureScore, judge_scenes
from ...shapes.style import features, style_probability
from ...shapes.world import Scene
from ..statistics import RowResult

SCORES = ("present", "shown")


def shapes_shown(scene: Scene, verdict: PictureScore) -> int:
    """How many of the things asked for have something of their shape to themselves."""
    wanted = Counter(thing.shape for thing in scene.objects)
    seen = Counter(thing.shape for thing in verdict.found)
    return sum(min(number, seen[shape]) for shape, number in wanted.items())


def alignment_scores(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """The oracle's figures, (N,) each; 'present' and 'shown' are sums over a scene's things.

    ``bound`` is nan where none of the shapes asked for is there.
    """
    scores: dict[str, list[float]] = {
        name: [] for name in (*SCORES, "both", "bound", "count", "binding")
    }
    for scene, verdict in zip(scenes, judge_scenes(pictures, scenes), strict=True):
        present = sum(thing.present for thing in verdict.objects)
        shown = shapes_shown(scene, verdict)
        values = {
            "present": present, "shown": shown, "both": present == len(scene.objects),
            "bound": present / shown if shown else np.nan,
            "count": verdict.count, "binding": verdict.binding,
        }  # fmt: skip
        for name, value in values.items():
            scores[name].append(float(value))
    return {name: np.array(values) for name, values in scores.items()}


def spread(vectors: Tensor) -> float:
    """Mean over pairs of (K, D) vectors, K at least 2, of the root mean square difference."""
    pairs = [(a - b).square().mean().sqrt() for a, b in combinations(vectors.double(), 2)]
    return float(torch.stack(pairs).mean())


@torch.no_grad()
def diversity(pictures: Tensor, groups: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Spread of every group of pictures (indices into (M, 3, H, W)), (len(groups),) each."""
    codec = load_codec()
    latents = torch.cat([codec.encode(part * 2 - 1) for part in pictures.split(64)]).flatten(1)
    looks = features(pictures)
    return {
        name: np.array([spread(vectors[list(group)]) for group in groups])
        for name, vectors in (("diversity", latents), ("diversity_look", looks))
    }


def measured(
    method: str,
    style: str,
    scenes: Sequence[Scene],
    pictures: Tensor,
    repeats: Sequence[Sequence[int]],
    costs: dict[str, float],
    recipe: dict[str, object],
) -> RowResult:
    """A row's scores: its first N ``pictures`` are of N ``scenes``; ``repeats`` are the indices
    of all pictures of the first scenes' prompts, each in other noise."""
    first = pictures[: len(scenes)]
    scores = alignment_scores(first, scenes)
    spreads = {}
    for name, values in diversity(pictures, repeats).items():
        spreads[name] = np.full(len(scenes), np.nan)
        spreads[name][: len(repeats)] = values
    return RowResult(
        method=method,
        objects=np.array([len(scene.objects) for scene in scenes]),
        hits={name: scores.pop(name) for name in SCORES},
        pictures={
            **scores, **spreads, "style": style_probability(first, style).double().numpy(),
        },
        features=features(first).double().numpy(),
        target_style=style,
        settings=dict(recipe),
        **costs,
    )  # fmt: skip
