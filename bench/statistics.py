"""What a method scored on a set of scenes, and how sure one can be of it.

Every row of the quality table is measured on the same scenes with the same noise, so rows are
compared in pairs: one set of resamples of *scenes* (never of objects, which share a picture) serves
every row, and a difference is taken inside each resample. Intervals are 95 % percentile intervals
(Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..balancer.errors import RealCompoError

Floats = NDArray[np.float64]
Named = TypeVar("Named", "RowResult", "Summary")

OBJECT_METRICS = ("right", "colour", "place", "present", "shown")
SPREADS = ("diversity", "diversity_look")
PICTURE_METRICS = ("count", "binding", "relation", "style", "both", "bound", *SPREADS)
DISTANCE = "realism_distance"
METRICS = (
    *OBJECT_METRICS, "both", "bound", "count", "binding", "relation", DISTANCE, "style", *SPREADS
)  # fmt: skip
"""Every metric in the order of the table; a table has those that its rows have."""
LOWER_IS_BETTER = frozenset({DISTANCE})

FAMILIES: dict[str, tuple[float, float | None]] = {
    "fixed": (1.0, 0.0), "switch": (0.0, 1.0), "mask-switch": (0.0, None),
}  # fmt: skip
"""Baselines with one parameter: its value where they turn into realism alone and spatial alone.

``fixed-0.30`` is a constant realism share of 0.30, ``switch-0.20`` the spatial model for the first
0.20 of the steps, ``mask-switch-0.20`` the same inside the regions only, so it never becomes the
spatial model alone.
"""


@dataclass(frozen=True, eq=False)
class RowResult:
    """What one method scored on N scenes.

    ``objects`` (N,) int: objects per scene, at least 1. ``hits``: per object metric (N,) SUMS over
    the scene's objects, so 0..objects (``place`` sums IoUs). ``pictures``: per image metric (N,) in
    0..1 (``SPREADS``: from 0 on), nan where a scene does not pose the question. ``features``
    (N, D): one vector per picture for the Frechet distance. The three costs are means per image; a
    backward counts apart from its forward. ``target_style`` says which style's reference and
    ``style`` score the row is measured against. ``settings`` are JSON values that say how the row
    was made. Raises ValueError for
    arrays that do not fit together.
    """

    method: str
    objects: NDArray[np.int64]
    hits: dict[str, Floats]
    pictures: dict[str, Floats]
    features: Floats
    forwards_per_image: float
    backwards_per_image: float
    seconds_per_image: float
    target_style: str = "realistic"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def refuse(problem: str) -> ValueError:
            return ValueError(f"row '{self.method}': {problem}")

        objects, features = np.asarray(self.objects), np.asarray(self.features, np.float64)
        if objects.ndim != 1 or not objects.size or objects.min() < 1 or (objects % 1).any():
            raise refuse("objects is not (N,) whole numbers of at least 1")
        if features.ndim != 2 or len(features) != len(objects) or not np.isfinite(features).all():
            raise refuse(f"features {features.shape} is not ({len(objects)}, D) finite numbers")
        object.__setattr__(self, "objects", objects.astype(np.int64))
        object.__setattr__(self, "features", features)
        for kind, known in (("hits", OBJECT_METRICS), ("pictures", PICTURE_METRICS)):
            given = {k: np.asarray(v, np.float64) for k, v in getattr(self, kind).items()}
            top = objects if kind == "hits" else np.ones(len(objects))
            for name, values in given.items():
                if name not in known:
                    raise refuse(f"'{name}' is not one of {', '.join(known)}")
                if values.shape != objects.shape:
                    raise refuse(f"'{name}' has the shape {values.shape}, not {objects.shape}")
                posed = np.ones(len(values), bool) if kind == "hits" else ~np.isnan(values)
                most = np.inf if name in SPREADS else top + 1e-6
                if not ((values >= 0) & (values <= most))[posed].all():
                    raise refuse(f"'{name}' leaves 0..{'objects' if kind == 'hits' else 1}")
            object.__setattr__(self, kind, given)

    def save(self, path: Path) -> None:
        """Write everything as one ``.npz``; a stopped write leaves the old file as it was."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        arrays: dict[str, Any] = {
            "about": np.array(json.dumps(plain)),
            "objects": self.objects, "features": self.features,
            **{f"hits.{name}": values for name, values in self.hits.items()},
            **{f"pictures.{name}": values for name, values in self.pictures.items()},
        }  # fmt: skip
        part = path.with_name(path.name + ".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> RowResult:
        """Inverse of ``save``. Raises RealCompoError for a file that ``save`` did not write."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            about = json.loads(str(arrays.pop("about")))
            groups: dict[str, Any] = {"hits": {}, "pictures": {}}
            for name in [name for name in arrays if "." in name]:
                group, metric = name.split(".")
                groups[group][metric] = arrays.pop(name)
            return cls(**about, **arrays, **groups)
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise RealCompoError(
                str(path), f"this is not a stored row ({error})", "Delete it and measure again"
            ) from error


_ARRAYS = ("objects", "hits", "pictures", "features")


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of feature vectors."""

    mean: Floats
    covariance: Floats

    @classmethod
    def fit(cls, features: Floats) -> Gaussian:
        """From (N, D) features, N at least 2; the covariance is the unbiased one."""
        features = np.asarray(features, np.float64)
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distances(means: Floats, covariances: Floats, reference: Gaussian) -> Floats:
    """Frechet distances (B,) of B Gaussians, means (B, D), covariances (B, D, D), to one other.

    |m - r|^2 + tr(S + R - 2 (S R)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6). The
    trace of (S R)^(1/2) is taken as that of (R^(1/2) S R^(1/2))^(1/2): the same eigenvalues, but of
    a symmetric matrix, so it is exact and real without a general matrix root. Rounding can leave
    eigenvalues and the distance a hair below zero; both are clipped there.
    """
    values, vectors = np.linalg.eigh(reference.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariances @ root)
    trace = np.trace(covariances, axis1=-2, axis2=-1) + np.trace(reference.covariance)
    apart = np.square(means - reference.mean).sum(-1)
    return (apart + trace - 2 * np.sqrt(inner.clip(0)).sum(-1)).clip(0)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Frechet distance of two Gaussians, in squared units of the features."""
    return float(frechet_distances(one.mean[None], one.covariance[None], other)[0])


@dataclass(frozen=True)
class Estimate:
    """A figure on all scenes with its 95 % interval; all nan where it is not defined.

    ``covered`` is the share of the resamples in which it is defined, the rest is not in the
    interval.
    """

    mean: float
    low: float
    high: float
    covered: float = 1.0

    @classmethod
    def of(cls, values: Floats) -> Estimate:
        """From (1 + R,): the figure on all scenes first, then on R resamples."""
        finite = values[1:][np.isfinite(values[1:])]
        if not np.isfinite(values[0]) or not finite.size:
            return cls(float("nan"), float("nan"), float("nan"), finite.size / (len(values) - 1))
        low, high = np.percentile(finite, (2.5, 97.5))
        return cls(float(values[0]), float(low), float(high), finite.size / (len(values) - 1))


def parameter_of(method: str) -> tuple[str, float] | None:
    """Family and parameter of a baseline's name ('fixed-0.50' -> 'fixed', 0.5), else None."""
    match = re.fullmatch(rf"({'|'.join(FAMILIES)})-(\d*\.?\d+)", method)
    return (match[1], float(match[2])) if match else None


def curve_of(rows: Sequence[Named], family: str) -> list[Named]:
    """The tested points of ``family`` and its ends, ``realism`` and ``spatial``, by parameter.

    A family that never becomes the spatial model alone ends at its last point. Empty if an end or
    every tested point is missing, since then there is no curve.
    """
    named = {row.method: row for row in rows}
    parameters = ((parameter_of(row.method), row) for row in rows)
    points = [(found[1], row) for found, row in parameters if found and found[0] == family]
    ends = zip(("realism", "spatial"), FAMILIES[family], strict=True)
    needed = [(name, value) for name, value in ends if value is not None]
    if not points or any(name not in named for name, _ in needed):
        return []
    points += [(value, named[name]) for name, value in needed]
    return [row for _, row in sorted(points, key=lambda point: point[0])]


def interpolate(x: Floats, xs: Floats, ys: Floats, lower_is_better: bool = False) -> Floats:
    """The best value at ``x`` (B,) on B polylines through the points ``xs``, ``ys`` (P, B).

    A polyline need not be a function of x: composition may fall again along a baseline. Where
    several segments cross ``x`` the best of them counts, which favours the baseline. Beyond a
    polyline's range nothing is claimed: nan.
    """
    x0, x1, y0, y1 = xs[:-1], xs[1:], ys[:-1], ys[1:]
    crosses = (x0 - x) * (x1 - x) <= 0
    flat = x0 == x1
    along = (x - x0) / np.where(flat, 1.0, x1 - x0)
    # This form gives the points themselves exactly: a row compared with itself differs by zero.
    value = (1 - along) * y0 + along * y1
    best = np.minimum if lower_is_better else np.maximum
    value = np.where(flat, best(y0, y1), value)
    worst = np.inf if lower_is_better else -np.inf
    found = best.reduce(np.where(crosses, value, worst), axis=0)
    return np.where(np.isfinite(found), found, np.nan)


class Bootstrap:
    """One seeded set of resamples of scenes, shared by every row, so that differences are paired.

    ``objects`` (N,): objects per scene; a row with others was measured on other scenes and is
    refused with a ValueError. ``references``: the Gaussian of real pictures' features per target
    style; rows of a style without one have no Frechet distance.

    The distance needs an eigen-decomposition per row and resample, so only the first
    ``distance_resamples`` are used for it, the same for every row. It also grows with sampling
    noise, and a resample is noisier than its sample: the resamples lie above the figure itself by
    about its own upward bias, for small distances by so much that the figure falls out of a plain
    percentile interval. So their mean is moved onto the figure (the bootstrap's estimate of bias,
    Efron and Tibshirani 1993, chapter 10, taken off), not below 0. The figure is left as it is.
    """

    def __init__(
        self,
        objects: NDArray[np.int64],
        references: Mapping[str, Gaussian],
        resamples: int = 1000,
        distance_resamples: int = 500,
        seed: int = 0,
    ) -> None:
        self.objects, self.references = np.asarray(objects), dict(references)
        scenes = len(self.objects)
        drawn = np.random.default_rng(seed).integers(scenes, size=(resamples, scenes))
        counts = np.zeros((1 + resamples, scenes))
        np.add.at(counts, (np.arange(1, 1 + resamples)[:, None], drawn), 1.0)
        # The sample itself goes first, so that a figure and its resamples take the same path.
        counts[0] = 1.0
        self.counts, self.distances = counts, 1 + min(distance_resamples, resamples)
        self._known: dict[RowResult, Floats] = {}

    def values(self, row: RowResult, metric: str) -> Floats:
        """(1 + R,): ``metric`` of ``row`` on all scenes, then in every resample; nan if undefined.

        Object metrics are ratios of sums, image metrics means over the scenes that pose the
        question. Raises KeyError for a metric that the row does not have.
        """
        if not np.array_equal(row.objects, self.objects):
            raise ValueError(f"row '{row.method}' was measured on other scenes")
        if metric == DISTANCE:
            if row not in self._known:
                self._known[row] = self._distance_values(row)
            return self._known[row]
        if metric in OBJECT_METRICS:
            return (self.counts @ row.hits[metric]) / (self.counts @ self.objects)
        return self.means(row.pictures[metric])

    def means(self, values: Floats) -> Floats:
        """(1 + R,): mean of (N,) ``values`` over those that are not nan, on all, then resampled."""
        posed = ~np.isnan(values)
        total = self.counts @ posed
        sums = self.counts @ np.where(posed, values, 0.0)
        return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)

    def has(self, row: RowResult, metric: str) -> bool:
        """Whether ``row`` can say something about ``metric``."""
        if metric == DISTANCE:
            return row.target_style in self.references and len(self.objects) > 1
        if metric in OBJECT_METRICS:
            return metric in row.hits
        return metric in row.pictures and not np.isnan(row.pictures[metric]).all()

    def _distance_values(self, row: RowResult) -> Floats:
        counts, scenes = self.counts[: self.distances], len(self.objects)
        # Centred first: the covariance is then no small difference of large numbers.
        middle = row.features.mean(0)
        x = row.features - middle
        means = counts @ x / scenes
        squares = (counts @ (x[:, :, None] * x[:, None, :]).reshape(scenes, -1)).reshape(
            len(counts), x.shape[1], x.shape[1]
        )
        covariances = (squares - scenes * means[:, :, None] * means[:, None, :]) / (scenes - 1)
        reference = self.references[row.target_style]
        values = frechet_distances(means + middle, covariances, reference)
        values[1:] = (values[1:] - values[1:].mean() + values[0]).clip(0)
        return values

    def estimate(self, row: RowResult, metric: str) -> Estimate:
        """``metric`` of ``row`` with its interval."""
        return Estimate.of(self.values(row, metric))

    def difference(self, row: RowResult, other: RowResult, metric: str) -> Estimate:
        """``row`` minus ``other`` in ``metric``, paired."""
        return Estimate.of(self.values(row, metric) - self.values(other, metric))

    def ratio_values(self, row: RowResult, other: RowResult, metric: str) -> Floats:
        """(1 + R,): ``row`` over ``other`` in ``metric``, paired; nan where ``other`` is 0."""
        top, bottom = self.values(row, metric), self.values(other, metric)
        return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)

    def advantage_over_curve(
        self, row: RowResult, curve: Sequence[RowResult], metric: str
    ) -> Estimate:
        """How much better ``row`` is in ``metric`` than a baseline that gets as much right.

        ``curve``: rows in the order of their parameter. The polyline through them is drawn anew in
        every resample and read at the row's own ``right`` there (see ``interpolate``). Positive is
        better for the row: row minus curve for scores, curve minus row for the Frechet distance.
        nan with the share of covered resamples where the row lies beyond the curve's range.
        """
        mine = self.values(row, metric)
        size = len(mine)
        xs = np.stack([self.values(point, "right")[:size] for point in curve])
        ys = np.stack([self.values(point, metric) for point in curve])
        lower = metric in LOWER_IS_BETTER
        theirs = interpolate(self.values(row, "right")[:size], xs, ys, lower)
        return Estimate.of(theirs - mine if lower else mine - theirs)


@dataclass(frozen=True)
class Summary:
    """A row as the table shows it: metrics that it can say something about, costs, settings."""

    method: str
    scenes: int
    metrics: dict[str, Estimate]
    forwards_per_image: float
    backwards_per_image: float
    seconds_per_image: float
    target_style: str
    settings: dict[str, Any]


def summarise(bootstrap: Bootstrap, rows: Sequence[RowResult]) -> list[Summary]:
    """Every metric of every row with its interval, in the order of ``rows``."""
    return [
        Summary(
            row.method, len(row.objects),
            {m: bootstrap.estimate(row, m) for m in METRICS if bootstrap.has(row, m)},
            row.forwards_per_image, row.backwards_per_image, row.seconds_per_image,
            row.target_style, row.settings,
        )
        for row in rows
    ]  # fmt: skip
