"""What the quality table claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..report import Claim, estimate_dict
from ..rows import ALONE, CONTROL, CONTROLLED, DENSE, EVEN_MIX, OURS, SWAP
from ..statistics import DISTANCE, Bootstrap, Estimate, RowResult, curve_of


def claims(bootstrap: Bootstrap, rows: Sequence[RowResult]) -> list[Claim]:
    """The claims of the balancer that ``rows`` can decide; one that lacks a row is left out."""
    named = {row.method: row for row in rows}
    ours, control, even = (named.get(name) for name in (OURS, CONTROL, EVEN_MIX))
    found: list[Claim] = []
    if ours is not None:
        for metric, suffix, bars in (
            ("style", "", {"switch": 0.10, "fixed": 0.08}),
            (DISTANCE, "_distance", {"switch": 0.0, "fixed": 0.0}),
        ):
            for family, bar in bars.items():
                curve = curve_of(rows, family)
                if curve and _have(bootstrap, (ours, *curve), "right", metric):
                    advantage = bootstrap.advantage_over_curve(ours, curve, metric)
                    name = f"equilibrium_over_{family}{suffix}"
                    found.append(Claim.judged(
                        name, advantage, bar, ">=", metric=metric, at="equal right",
                        curve=[row.method for row in curve],
                    ))  # fmt: skip
    if ours is not None and control is not None:
        found += _gradient_worth(bootstrap, ours, control)
    found += _both_at_once(bootstrap, named)
    found += _style_kept(bootstrap, named)
    found += _masks_over_boxes(bootstrap, named)
    found += _dense(bootstrap, named)
    if ours is not None and even is not None:
        difference = ours.forwards_per_image - even.forwards_per_image
        found.append(Claim.judged(
            "equilibrium_forwards", Estimate(difference, difference, difference), 0.0, "<=",
            "point", ours=ours.forwards_per_image, other=even.forwards_per_image,
            backwards=ours.backwards_per_image,
        ))  # fmt: skip
    return found


def _have(bootstrap: Bootstrap, rows: Sequence[RowResult], *metrics: str) -> bool:
    return all(bootstrap.has(row, metric) for row in rows for metric in metrics)


def _gradient_worth(bootstrap: Bootstrap, ours: RowResult, control: RowResult) -> list[Claim]:
    """What the gradient adds to its own schedule of mean shares; either claim suffices."""
    if not _have(bootstrap, (ours, control), "right", "count", "style"):
        return []
    style = estimate_dict(bootstrap.difference(ours, control, "style"))
    return [
        Claim.judged(
            name, bootstrap.difference(ours, control, metric), bar, ">=", metric=metric,
            note=f"{name} or {other}: either suffices", style_difference=style,
        )
        for name, metric, bar, other in (
            ("gradient_worth", "right", 0.06, "gradient_worth_count"),
            ("gradient_worth_count", "count", 0.10, "gradient_worth"),
        )
    ]  # fmt: skip


def _both_at_once(bootstrap: Bootstrap, named: Mapping[str, RowResult]) -> list[Claim]:
    """The spatial model's composition, up to three points, at the realism model's own realism."""
    rows = [named.get(name) for name in (OURS, "spatial", "realism")]
    if any(row is None for row in rows):
        return []
    ours, spatial, realism = (row for row in rows if row is not None)
    if not _have(bootstrap, (ours, spatial, realism), "right", DISTANCE):
        return []
    right = bootstrap.difference(ours, spatial, "right")
    distance = bootstrap.difference(ours, realism, DISTANCE)
    return [
        Claim.judged("as_right_as_spatial", right, -0.03, ">=", "point", metric="right"),
        Claim.judged("as_real_as_realism", distance, 0.0, "<=", "point", metric=DISTANCE),
    ]


def _style_kept(bootstrap: Bootstrap, named: Mapping[str, RowResult]) -> list[Claim]:
    """The smallest share of its style score that any swapped realism model keeps.

    Left out unless every ``style-`` row has its ``realism-`` row: the smallest of some would be a
    friendlier claim than the smallest of all.
    """
    swaps = {m.removeprefix(SWAP): row for m, row in named.items() if m.startswith(SWAP)}
    if not swaps or any(ALONE + name not in named for name in swaps):
        return []
    if not _have(bootstrap, [named[p + n] for n in swaps for p in (SWAP, ALONE)], "style"):
        return []
    ratios = {
        name: bootstrap.ratio_values(row, named[ALONE + name], "style")
        for name, row in swaps.items()
    }
    smallest = Estimate.of(np.min(list(ratios.values()), axis=0))
    each = {name: estimate_dict(Estimate.of(values)) for name, values in ratios.items()}
    return [Claim.judged("style_kept", smallest, 0.95, ">=", "point", ratios=each)]


def _masks_over_boxes(bootstrap: Bootstrap, named: Mapping[str, RowResult]) -> list[Claim]:
    """What true masks of the objects give over their boxes, with a ControlNet as spatial branch."""
    found: list[Claim] = []
    for kind in CONTROLLED:
        masks, boxes = named.get(f"{kind}masks"), named.get(f"{kind}boxes")
        if masks is None or boxes is None or not _have(bootstrap, (masks, boxes), "right", "style"):
            continue
        style, right = (bootstrap.difference(masks, boxes, name) for name in ("style", "right"))
        found.append(Claim.judged(
            f"{kind}masks_over_boxes".replace("-", "_"), style, 0.0, ">=", metric="style",
            right_difference=estimate_dict(right),
        ))  # fmt: skip
    return found


def _dense(bootstrap: Bootstrap, named: Mapping[str, RowResult]) -> list[Claim]:
    """What modulation puts right in the realism model's pictures, and what it costs their look."""
    dense, realism = named.get(DENSE), named.get("realism")
    if dense is None or realism is None:
        return []
    if not _have(bootstrap, (dense, realism), "right", "place", "style"):
        return []
    kept = Estimate.of(bootstrap.ratio_values(dense, realism, "style"))
    return [
        *(
            Claim.judged(
                f"dense_{metric}_gain", bootstrap.difference(dense, realism, metric), bar, ">=",
                metric=metric,
            )
            for metric, bar in (("right", 0.15), ("place", 0.05))
        ),
        Claim.judged("dense_style_kept", kept, 0.90, ">=", "point", metric="style"),
    ]  # fmt: skip
