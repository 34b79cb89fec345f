"""The best pictures of each group of rows, by a metric: best-of-N and reward-ranked sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import RunnerError, one_line


def best_of(
    results: Path | Iterable[Mapping[str, Any]],
    metric: str,
    group: Sequence[str] = ("group",),
    keep: int = 1,
    largest: bool = True,
) -> list[dict[str, Any]]:
    """The ``keep`` best pictures of every group, best first, groups in order of appearance.

    ``results``: a run's folder, its results table, or rows of one. ``group``: columns whose
    values make a group ('group' is the row before ``--repeat``). ``metric``: a column such as
    'metric.right', one number per row or one per picture. Each dictionary is the row with its
    ``image``, ``score`` and ``rank`` (from 1). Rows that failed, and scores that are no number,
    are left out. Raises ``RunnerError`` for a column that the table does not have.
    """
    rows = read_results(results)
    known = set().union(*rows) if rows else set()
    missing = [name for name in (metric, *group) if name not in known]
    if missing:
        there = ", ".join(sorted(known))
        raise RunnerError(f"The results have no column '{missing[0]}'; there are: {there}.")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        members = groups.setdefault(tuple(row.get(name) for name in group), [])
        members += _pictures(row, metric)
    best = []
    for members in groups.values():
        # stable: of equal scores the earlier picture
        members.sort(key=lambda row: -row["score"] if largest else row["score"])
        best += [{**row, "rank": rank} for rank, row in enumerate(members[:keep], 1)]
    return best


def read_results(results: Path | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a run's folder or results table, or those given. Raises ``RunnerError``."""
    if not isinstance(results, Path):
        return list(results)
    import pyarrow.parquet

    file = results / "results.parquet" if results.is_dir() else results
    if not file.is_file():
        raise RunnerError(f"There is no results table {file}.")
    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except Exception as error:  # of many kinds, by which byte is wrong
        raise RunnerError(f"The results table {file} is damaged: {one_line(error)}.") from None


def _pictures(row: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """One entry per picture of a finished row, with its score."""
    images = list(row.get("images") or ())
    score = row.get(metric)
    if row.get("status", "done") != "done" or score is None or not images:
        return []
    scores = list(score) if isinstance(score, (list, tuple)) else [score] * len(images)
    return [
        {**row, "image": image, "score": float(one)}
        for image, one in zip(images, scores, strict=False)
        if isinstance(one, (int, float)) and not math.isnan(one)
    ]
