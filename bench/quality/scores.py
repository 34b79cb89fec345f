"""Rows of the quality table judged: by the oracle, and by the style judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...shapes.oracle import judge_scenes
from ...shapes.style import features, style_probability
from ...shapes.world import Scene
from ..pictures import Drawn
from ..rows import Row
from ..statistics import RowResult
from .job import Job, load_drawn


def score(row: Row, scenes: Sequence[Scene], drawn: Drawn) -> RowResult:
    """A row's pictures judged by the oracle and the style judge."""
    verdicts = judge_scenes(drawn.pictures, scenes)

    def summed(name: str) -> np.ndarray:
        return np.array([sum(float(getattr(o, name)) for o in v.objects) for v in verdicts])

    def scored_by(name: str) -> np.ndarray:
        values = [getattr(v, name) for v in verdicts]
        return np.array([np.nan if value is None else float(value) for value in values])

    return RowResult(
        method=row.method,
        objects=np.array([len(scene.objects) for scene in scenes]),
        hits={"right": summed("right"), "colour": summed("colour"), "place": summed("iou")},
        pictures={
            **{name: scored_by(name) for name in ("count", "binding", "relation")},
            "style": style_probability(drawn.pictures, row.style).double().numpy(),
        },
        features=features(drawn.pictures).double().numpy(),
        # A pass that stops half-way is counted as a whole one.
        forwards_per_image=drawn.forwards + drawn.partial_forwards,
        backwards_per_image=drawn.backwards,
        seconds_per_image=drawn.seconds,
        target_style=row.style,
        settings=row.recipe(),
    )


def scored(job: Job, row: Row) -> RowResult:
    """A drawn row's scores, judged once."""
    path = job.scored(row)
    if not path.exists():
        score(row, job.scenes, load_drawn(job.drawn(row))).save(path)
    return RowResult.load(path)


def print_row(result: RowResult) -> None:
    """One line of progress."""
    objects = result.objects.sum()
    print(
        f"{result.method:32} right {result.hits['right'].sum() / objects:.3f} "
        f"colour {result.hits['colour'].sum() / objects:.3f} "
        f"count {np.nanmean(result.pictures['count']):.3f} "
        f"style {result.pictures['style'].mean():.3f} "
        f"{result.forwards_per_image:.0f}+{result.backwards_per_image:.0f} "
        f"{result.seconds_per_image:.2f} s",
        flush=True,
    )
