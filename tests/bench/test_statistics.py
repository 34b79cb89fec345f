"""The table's statistics against slow loops, known answers and their own promises."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.bench.statistics import (
    DISTANCE,
    Bootstrap,
    Estimate,
    Gaussian,
    RowResult,
    curve_of,
    frechet_distance,
    interpolate,
    parameter_of,
    summarise,
)

SCENES, WIDTH = 40, 6
OBJECTS = np.random.default_rng(5).integers(1, 5, SCENES)
REFERENCE = {"realistic": Gaussian(np.zeros(WIDTH), np.eye(WIDTH))}


def row(method: str, seed: int = 0, **changes: Any) -> RowResult:
    """Random but valid scores, with a relation in every third scene."""
    rng = np.random.default_rng(seed)
    pictures = {name: rng.random(SCENES) for name in ("count", "binding", "relation", "style")}
    pictures["relation"][np.arange(SCENES) % 3 != 0] = np.nan
    values: dict[str, Any] = {
        "hits": {m: rng.binomial(OBJECTS, 0.6).astype(float) for m in ("right", "colour", "place")},
        "pictures": pictures,
        "features": rng.normal(size=(SCENES, WIDTH)) + seed,
        **changes,
    }
    return RowResult(method, OBJECTS, forwards_per_image=60.0, backwards_per_image=0.0,
                     seconds_per_image=0.5, **values)  # fmt: skip


def level(method: str, right: float, style: float, distance: float = 1.0) -> RowResult:
    """A row whose figures are the same in every scene, so that answers are known exactly.

    All pictures share one feature vector, the square root of ``distance`` from the reference.
    """
    features = np.zeros((SCENES, WIDTH))
    features[:, 0] = np.sqrt(distance)
    return row(method, hits={"right": right * OBJECTS},
               pictures={"style": np.full(SCENES, style), "count": np.full(SCENES, right)},
               features=features)  # fmt: skip


def small(resamples: int = 50, **options: Any) -> Bootstrap:
    return Bootstrap(OBJECTS, REFERENCE, resamples, **options)


def drawn(resamples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(SCENES, size=(resamples, SCENES))


def test_rates_and_means_are_those_of_a_loop_over_resampled_scenes() -> None:
    one, bootstrap = row("x"), small()
    resamples = [np.arange(SCENES), *drawn(50)]
    for metric in ("right", "place"):
        slow = [sum(one.hits[metric][i] for i in r) / sum(OBJECTS[i] for i in r) for r in resamples]
        assert np.allclose(bootstrap.values(one, metric), slow)
    for metric in ("style", "relation"):
        slow = [np.nanmean([one.pictures[metric][i] for i in r]) for r in resamples]
        assert np.allclose(bootstrap.values(one, metric), slow)
    estimate = bootstrap.estimate(one, "right")
    ordered = np.sort(bootstrap.values(one, "right")[1:])
    # the 2.5th percentile of 50 ordered values lies at 0.025 * 49 = 1.225 of their index
    low = ordered[1] + 0.225 * (ordered[2] - ordered[1])
    assert estimate.low == pytest.approx(low)
    assert estimate.mean == pytest.approx(one.hits["right"].sum() / OBJECTS.sum())


def test_an_interval_has_the_width_that_theory_gives() -> None:
    rng = np.random.default_rng(1)
    objects = np.ones(2000, dtype=int)
    hits = {"right": (rng.random(2000) < 0.3).astype(float)}
    one = RowResult("x", objects, hits, {}, np.zeros((2000, 1)), 1, 0, 1)
    estimate = Bootstrap(objects, {}).estimate(one, "right")
    p = estimate.mean
    assert estimate.high - estimate.low == pytest.approx(
        2 * 1.96 * np.sqrt(p * (1 - p) / 2000), rel=0.1
    )


def test_a_scene_is_drawn_as_a_whole() -> None:
    """Objects of one picture fail together; taking them apart would halve this interval."""
    objects = np.full(400, 4)
    hits = {"right": 4.0 * (np.arange(400) % 2)}
    one = RowResult("x", objects, hits, {}, np.zeros((400, 1)), 1, 0, 1)
    estimate = Bootstrap(objects, {}).estimate(one, "right")
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.12)


def test_a_scene_without_the_question_does_not_count() -> None:
    relation = np.full(SCENES, np.nan)
    relation[7] = 1.0
    one = row("x", pictures={"relation": relation})
    values = small(200).values(one, "relation")
    absent = ~(drawn(200) == 7).any(1)
    assert 0 < absent.sum() < 200
    assert np.array_equal(np.isnan(values[1:]), absent)
    estimate = small(200).estimate(one, "relation")
    assert (estimate.mean, estimate.low, estimate.high) == (1.0, 1.0, 1.0)
    assert estimate.covered == pytest.approx(1 - absent.mean())
    assert not small().has(row("x", pictures={"relation": np.full(SCENES, np.nan)}), "relation")


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_of_gaussians_with_one_set_of_axes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    a, b = rng.random(WIDTH) * 3, rng.random(WIDTH) * 3
    a[0] = 0.0
    means = rng.normal(size=(2, WIDTH))
    one, other = (Gaussian(m, axes * v @ axes.T) for m, v in zip(means, (a, b), strict=True))
    known = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(one, other) == pytest.approx(known, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(known, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-6)


def test_frechet_distance_of_any_gaussians_against_the_general_root() -> None:
    """The trace of (S R)^(1/2) is the sum of the roots of S R's own eigenvalues."""
    rng = np.random.default_rng(0)
    one, other = (Gaussian.fit(rng.normal(size=(30, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH)))
                  for _ in range(2))  # fmt: skip
    roots = np.sqrt(np.linalg.eigvals(one.covariance @ other.covariance).astype(complex))
    known = np.square(one.mean - other.mean).sum() + np.trace(one.covariance + other.covariance)
    assert frechet_distance(one, other) == pytest.approx(known - 2 * roots.sum().real)


def test_resampled_distances_are_those_of_resampled_features_moved_onto_the_figure() -> None:
    one = row("x", features=np.random.default_rng(3).normal(2.0, 1.5, (SCENES, WIDTH)) + 1000)
    reference = {"realistic": Gaussian(np.full(WIDTH, 1000.0), np.eye(WIDTH))}
    values = Bootstrap(OBJECTS, reference, 50, distance_resamples=20).values(one, DISTANCE)
    slow = [
        frechet_distance(Gaussian(one.features[r].mean(0), _covariance(one.features[r])),
                         reference["realistic"])
        for r in drawn(50)[:20]
    ]  # fmt: skip
    whole = frechet_distance(Gaussian.fit(one.features), reference["realistic"])
    assert values.shape == (21,)
    assert values[0] == pytest.approx(whole, rel=1e-9)
    assert np.allclose(values[1:], np.array(slow) - np.mean(slow) + whole)


def _covariance(features: np.ndarray) -> np.ndarray:
    middle = features.mean(0)
    total = np.zeros((features.shape[1],) * 2)
    for vector in features:
        total += np.outer(vector - middle, vector - middle)
    return total / (len(features) - 1)


def test_a_small_distance_lies_in_its_own_interval() -> None:
    """Resamples are noisier than their sample; taken as they are they lie above the figure."""
    one = row("x", features=np.random.default_rng(3).normal(size=(SCENES, WIDTH)))
    resampled = [frechet_distance(Gaussian.fit(one.features[r]), REFERENCE["realistic"])
                 for r in drawn(200)]  # fmt: skip
    estimate = small(200).estimate(one, DISTANCE)
    assert np.percentile(resampled, 2.5) > estimate.mean
    assert 0 <= estimate.low < estimate.mean < estimate.high


def _slow_curve(x: float, xs: np.ndarray, ys: np.ndarray, lower: bool) -> float:
    found = []
    points = list(zip(xs, ys, strict=True))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 == x1 == x:
            found += [y0, y1]
        elif min(x0, x1) <= x <= max(x0, x1) and x0 != x1:
            found.append(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return (min if lower else max)(found) if found else float("nan")


@pytest.mark.parametrize("lower", [False, True])
def test_curves_against_a_loop_over_segments(lower: bool) -> None:
    rng = np.random.default_rng(8)
    # few distinct values, so that flat pieces, corners and crossings at x itself all occur
    xs, ys = rng.integers(0, 5, (6, 400)) / 4, rng.random((6, 400))
    x = rng.integers(-1, 7, 400) / 5
    x[:200] = rng.integers(0, 5, 200) / 4
    fast = interpolate(x, xs, ys, lower)
    slow = [_slow_curve(x[i], xs[:, i], ys[:, i], lower) for i in range(400)]
    assert np.allclose(fast, slow, equal_nan=True)
    assert 0 < np.isnan(fast).sum() < 400


def test_a_curve_that_turns_back_counts_at_its_best() -> None:
    xs, ys = np.array([[0.0], [1.0], [0.4]]), np.array([[0.9], [0.1], [0.7]])
    at = np.array([0.7])
    # forth: .9 - .8 * .7 = .34; back: .1 + .6 * (.3 / .6) = .4
    assert interpolate(at, xs, ys)[0] == pytest.approx(0.4)
    assert interpolate(at, xs, ys, lower_is_better=True)[0] == pytest.approx(0.34)


def test_a_row_of_the_curve_has_no_advantage_over_it() -> None:
    """Exactly none: the same pictures in the same resamples."""
    rows = [level("realism", 0.0, 0.8), row("fixed-0.50", 1), level("spatial", 1.0, 0.01)]
    rows[1].pictures["style"][:] *= 0.4
    bootstrap = small()
    twin = row("realcompo-equilibrium", 1, pictures=rows[1].pictures)
    for metric in ("style", "right", "binding", DISTANCE):
        difference = bootstrap.difference(twin, rows[1], metric)
        assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    advantage = bootstrap.advantage_over_curve(twin, curve_of(rows, "fixed"), "style")
    assert (advantage.mean, advantage.low, advantage.high) == (0.0, 0.0, 0.0)
    assert advantage.covered == 1.0


def test_advantage_over_a_constructed_curve() -> None:
    rows = [
        level("realism", 0.0, 0.8, 4.0), level("spatial", 1.0, 0.4, 100.0),
        level("fixed-0.50", 0.5, 0.7, 25.0),
    ]  # fmt: skip
    ours = level("realcompo-equilibrium", 0.75, 0.65, 49.0)
    curve = curve_of(rows, "fixed")
    # at .75 the curve has the style (.7 + .4) / 2; all features of a row are equal, so its
    # distance is the squared shift plus the trace of the unit covariance
    advantage = small().advantage_over_curve(ours, curve, "style")
    assert (advantage.mean, advantage.low, advantage.high) == pytest.approx((0.10,) * 3)
    nearer = small().advantage_over_curve(ours, curve, DISTANCE)
    assert (nearer.mean, nearer.low, nearer.high) == pytest.approx(((25 + 100) / 2 - 49,) * 3)


def test_beyond_the_curve_nothing_is_claimed() -> None:
    rows = [level("realism", 0.1, 0.8), level("spatial", 0.9, 0.4), level("switch-0.20", 0.5, 0.7)]
    beyond = level("realcompo-equilibrium", 0.95, 0.65)
    estimate = small().advantage_over_curve(beyond, curve_of(rows, "switch"), "style")
    assert np.isnan([estimate.mean, estimate.low, estimate.high]).all()
    assert estimate.covered == 0.0
    rng = np.random.default_rng(0)
    edge = row("x", hits={"right": rng.binomial(OBJECTS, 0.87).astype(float)})
    estimate = small(400).advantage_over_curve(edge, curve_of(rows, "switch"), "style")
    inside = (small(400).values(edge, "right")[1:] <= 0.9).mean()
    assert 0 < inside < 1 and estimate.covered == pytest.approx(inside)


def test_differences_are_paired() -> None:
    one = row("a")
    lifted = row("b", pictures={**one.pictures, "style": one.pictures["style"] * 0.9 + 0.1})
    bootstrap = small(400)
    paired = bootstrap.difference(lifted, one, "style")
    slow = [(lifted.pictures["style"][r] - one.pictures["style"][r]).mean() for r in drawn(400)]
    assert (paired.low, paired.high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))))
    alone = bootstrap.estimate(one, "style")
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    others = RowResult("c", np.roll(OBJECTS, 1), {}, one.pictures, one.features, 1, 0, 1)
    with pytest.raises(ValueError, match="'c' was measured on other scenes"):
        bootstrap.difference(one, others, "style")


def test_ratios_are_paired_and_undefined_over_zero() -> None:
    one = row("a")
    kept = row("b", pictures={"style": 0.9 * one.pictures["style"]})
    assert np.allclose(small().ratio_values(kept, one, "style"), 0.9)
    none = row("c", pictures={"style": np.zeros(SCENES)})
    assert np.isnan(small().ratio_values(kept, none, "style")).all()


def test_the_seed_decides_the_resamples() -> None:
    one = row("x")
    first = small().values(one, "right")
    assert np.array_equal(first, small().values(one, "right"))
    assert not np.array_equal(first, small(seed=1).values(one, "right"))


def test_curves_run_from_realism_to_spatial_by_their_parameter() -> None:
    names = ["fixed-0.50", "spatial", "switch-0.40", "fixed-0.80", "mask-switch-0.30", "realism",
             "switch-0.10", "control", "mask-switch-0.20"]  # fmt: skip
    rows = [level(name, 0.5, 0.5) for name in names]

    def curve(family: str) -> list[str]:
        return [r.method for r in curve_of(rows, family)]

    assert curve("fixed") == ["spatial", "fixed-0.50", "fixed-0.80", "realism"]
    assert curve("switch") == ["realism", "switch-0.10", "switch-0.40", "spatial"]
    assert curve("mask-switch") == ["realism", "mask-switch-0.20", "mask-switch-0.30"]
    assert curve_of([r for r in rows if r.method != "spatial"], "fixed") == []
    assert curve_of([r for r in rows if not r.method.startswith("fixed")], "fixed") == []
    assert parameter_of("fixed-0.50") == ("fixed", 0.5)
    assert [parameter_of(m) for m in ("fixed", "fixed-x", "a-fixed-0.5", "switch-0.2-b")] == [
        None] * 4  # fmt: skip


def test_a_row_survives_its_file(tmp_path: Path) -> None:
    one = row("dense+realcompo", 2, target_style="sketch", settings={"rate": 4.0, "deep": [1]})
    one.save(tmp_path / "row.npz")
    back = RowResult.load(tmp_path / "row.npz")
    for name in ("method", "forwards_per_image", "target_style", "settings"):
        assert getattr(back, name) == getattr(one, name)
    assert np.array_equal(back.objects, one.objects)
    assert np.array_equal(back.features, one.features) and back.features.dtype == np.float64
    for kind in ("hits", "pictures"):
        mine, theirs = getattr(one, kind), getattr(back, kind)
        assert list(mine) == list(theirs)
        assert all(np.array_equal(mine[k], theirs[k], equal_nan=True) for k in mine)
    assert [path.name for path in tmp_path.iterdir()] == ["row.npz"]


def test_a_file_that_is_no_row_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "other.npz", objects=OBJECTS)
    row("x").save(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "other", "cut"):
        with pytest.raises(RealCompoError, match="Delete it and measure again"):
            RowResult.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hits": {"right": OBJECTS + 1.0}}, "'right' leaves 0..objects"),
        ({"hits": {"right": np.full(SCENES, np.nan)}}, "'right' leaves 0..objects"),
        ({"hits": {"shape": OBJECTS * 1.0}}, "'shape' is not one of"),
        ({"hits": {"right": np.zeros(3)}}, "'right' has the shape"),
        ({"pictures": {"style": np.full(SCENES, 1.5)}}, "'style' leaves 0..1"),
        ({"features": np.zeros((3, WIDTH))}, "features"),
        ({"features": np.full((SCENES, WIDTH), np.inf)}, "finite"),
    ],
)
def test_scores_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row("x", **changes)


def test_a_summary_tells_what_a_row_has_and_no_more() -> None:
    rows = [row("full"), row("bare", hits={}, pictures={"count": np.ones(SCENES)},
                             target_style="neon")]  # fmt: skip
    full, bare = summarise(small(), rows)
    assert list(full.metrics) == ["right", "colour", "place", "count", "binding", "relation",
                                  DISTANCE, "style"]  # fmt: skip
    assert bare.metrics == {"count": Estimate(1.0, 1.0, 1.0)}
    assert full.scenes == SCENES and full.forwards_per_image == 60.0
