"""What the quality table claims, and the table: as JSON for machines, as Markdown to read."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .statistics import (
    DISTANCE,
    METRICS,
    Bootstrap,
    Estimate,
    RowResult,
    Summary,
    curve_of,
    parameter_of,
)

ROOT = Path(__file__).resolve().parents[1]
DIGITS = 4
OURS, CONTROL, EVEN_MIX = "realcompo-equilibrium", "control", "fixed-0.50"
DENSE = "dense"
SWAP, ALONE, ABLATION = "style-", "realism-", "ablation-"
CONTROLLED = ("segmentation-", "keypoints-")
TUNED = ("sepen+", "refl+")
"""``style-<name>`` is our row with that style's realism model, ``realism-<name>`` that model alone;
``realism`` without a name is the model of the target style of every other row. ``ablation-<name>``
is our row with one of its numbers changed."""

GROUPS = {
    "Models alone": lambda m: m in ("realism", "spatial") or m.startswith(ALONE),
    "Fixed mixes": lambda m: m.startswith("fixed-"),
    "Time switches": lambda m: m.startswith("switch-"),
    "Time switches inside the regions": lambda m: m.startswith("mask-switch-"),
    "The same with the background matched": lambda m: m.startswith("matched-"),
    "RealCompo": lambda m: m.startswith("realcompo") or m == CONTROL,
    "Other realism models": lambda m: m.startswith(SWAP),
    "A ControlNet instead of boxes": lambda m: m.startswith(CONTROLLED),
    "DenseDiffusion": lambda m: m.startswith(DENSE),
    "A finetuned realism model": lambda m: m.startswith(TUNED),
    "One number of the equilibrium changed": lambda m: m.startswith(ABLATION),
    "Other methods": lambda m: True,
}
"""Headings of the Markdown table; a row goes below the first that takes its name."""


@dataclass(frozen=True)
class Claim:
    """A figure that the project promises, with its bar.

    ``met`` follows one of two rules, named in ``rule``:

    - ``interval``: the value reaches the bar AND its 95 % interval lies wholly on the bar's side of
      zero (above it for ``>=``, below it for ``<=``), so the effect is there beyond chance;
    - ``point``: the value reaches the bar; for ratios, whose zero means nothing, and for counts,
      which have no sampling error. The interval is told all the same.

    A claim whose value is not defined (a row beyond a curve's range) is not met, and neither is one
    that is undefined in more than 2.5 % of the resamples, where the interval would be told from the
    friendly ones only. Figures are judged as they are printed, with four decimals, so that the file
    agrees with itself.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    bar: float
    direction: str
    met: bool
    rule: str
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def judged(
        cls, name: str, estimate: Estimate, bar: float, direction: str, rule: str = "interval",
        **extra: Any,
    ) -> Claim:  # fmt: skip
        """Hold ``estimate`` against ``bar``; ``direction`` is '>=' or '<='."""
        if direction not in (">=", "<=") or rule not in ("interval", "point"):
            raise ValueError(f"claim '{name}': direction {direction!r} or rule {rule!r} is unknown")
        value, low, high = (rounded(v) for v in (estimate.mean, estimate.low, estimate.high))
        if estimate.covered < 1:
            extra["covered"] = rounded(estimate.covered)
        met = False
        if value is not None and low is not None and high is not None:
            reached = value >= bar if direction == ">=" else value <= bar
            clear = low > 0 if direction == ">=" else high < 0
            met = reached and (rule == "point" or clear) and estimate.covered >= 0.975
        return cls(name, value, low, high, bar, direction, met, rule, extra)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, the promised keys first."""
        keys = ("name", "value", "low", "high", "bar", "direction", "met", "rule")
        return {**{key: getattr(self, key) for key in keys}, **self.extra}


def rounded(value: float) -> float | None:
    """Four decimals, no minus zero; None for what is not a number (JSON has no nan)."""
    return round(float(value), DIGITS) + 0.0 if math.isfinite(value) else None


def estimate_dict(estimate: Estimate) -> dict[str, float | None]:
    """``mean``, ``low`` and ``high`` of an estimate, rounded."""
    return {key: rounded(getattr(estimate, key)) for key in ("mean", "low", "high")}


def claims(bootstrap: Bootstrap, rows: Sequence[RowResult]) -> list[Claim]:
    """The claims of the balancer that ``rows`` can decide; one that lacks a row is left out."""
    named = {row.method: row for row in rows}
    ours, control, even = (named.get(name) for name in (OURS, CONTROL, EVEN_MIX))
    told: list[Claim] = []
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
                    told.append(Claim.judged(
                        name, advantage, bar, ">=", metric=metric, at="equal right",
                        curve=[row.method for row in curve],
                    ))  # fmt: skip
    if ours is not None and control is not None:
        told += _gradient_worth(bootstrap, ours, control)
    told += _both_at_once(bootstrap, named)
    told += _style_kept(bootstrap, named)
    told += _masks_over_boxes(bootstrap, named)
    told += _dense(bootstrap, named)
    if ours is not None and even is not None:
        difference = ours.forwards_per_image - even.forwards_per_image
        told.append(Claim.judged(
            "equilibrium_forwards", Estimate(difference, difference, difference), 0.0, "<=",
            "point", ours=ours.forwards_per_image, other=even.forwards_per_image,
            backwards=ours.backwards_per_image,
        ))  # fmt: skip
    return told


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
    told: list[Claim] = []
    for kind in CONTROLLED:
        masks, boxes = named.get(f"{kind}masks"), named.get(f"{kind}boxes")
        if masks is None or boxes is None or not _have(bootstrap, (masks, boxes), "right", "style"):
            continue
        style, right = (bootstrap.difference(masks, boxes, name) for name in ("style", "right"))
        told.append(Claim.judged(
            f"{kind}masks_over_boxes".replace("-", "_"), style, 0.0, ">=", metric="style",
            right_difference=estimate_dict(right),
        ))  # fmt: skip
    return told


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


def as_document(
    rows: Sequence[Summary], told: Sequence[Claim], command: str, commit: str
) -> dict[str, Any]:
    """The table as plain JSON values; figures rounded to four decimals, settings as given."""
    return {
        "command": command,
        "commit": commit,
        "rows": [
            {
                "method": row.method,
                "scenes": row.scenes,
                "metrics": {name: estimate_dict(value) for name, value in row.metrics.items()},
                "forwards_per_image": rounded(row.forwards_per_image),
                "backwards_per_image": rounded(row.backwards_per_image),
                "seconds_per_image": rounded(row.seconds_per_image),
                "target_style": row.target_style,
                "settings": row.settings,
            }
            for row in rows
        ],
        "claims": [claim.as_dict() for claim in told],
    }


def write_json(
    rows: Sequence[Summary], told: Sequence[Claim], command: str, commit: str, path: Path
) -> None:
    """Write the table; the same figures give the same bytes, and a stopped write changes nothing.

    ``command`` is what a reader types to make the file again, ``commit`` the revision it ran on.
    """
    text = json.dumps(as_document(rows, told, command, commit), indent=1, allow_nan=False)
    write_whole(path, text + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def commit() -> str:
    """The pack's revision, '+' behind it if files differ from it; 'unknown' outside a clone."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--short") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def grouped(
    rows: Sequence[Summary], groups: Mapping[str, Callable[[str], bool]] = GROUPS
) -> dict[str, list[Summary]]:
    """Rows below their headings, in the given order, baselines by parameter; no empty heading."""
    found: dict[str, list[Summary]] = {name: [] for name in groups}
    for row in rows:
        found[next(name for name, takes in groups.items() if takes(row.method))].append(row)
    for members in found.values():
        members.sort(key=lambda row: (parameter_of(row.method) or ("", 0.0))[1])
    return {name: members for name, members in found.items() if members}


def _cell(estimate: Estimate | None, digits: int) -> str:
    if estimate is None or not math.isfinite(estimate.mean):
        return "-"
    mean, low, high = (
        f"{value:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high)
    )
    return f"{mean} <sub>{low}-{high}</sub>"


def markdown_table(
    rows: Sequence[Summary],
    told: Sequence[Claim] = (),
    groups: Mapping[str, Callable[[str], bool]] = GROUPS,
) -> str:
    """Both tables in GitHub's Markdown: methods by group, then claims; ends with a newline.

    A cell is the figure and, small, its 95 % interval; columns that no row fills are left out.
    """
    shown = [m for m in METRICS if any(m in row.metrics for row in rows)]
    heads = ["method", *(m.replace("_", " ") for m in shown), "forwards", "backwards"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for heading, members in grouped(rows, groups).items():
        lines.append(f"| **{heading}** |" + " |" * (len(heads) - 1))
        for row in members:
            cells = [_cell(row.metrics.get(m), 1 if m == DISTANCE else 2) for m in shown]
            costs = [f"{row.forwards_per_image:g}", f"{row.backwards_per_image:g}"]
            lines.append(f"| {' | '.join([f'`{row.method}`', *cells, *costs])} |")
    text = "\n".join(lines) + "\n"
    return text + "\n" + markdown_table_of_claims(told) if told else text


def markdown_table_of_claims(told: Sequence[Claim]) -> str:
    """Claims with their bars in GitHub's Markdown; ends with a newline."""
    lines = ["| claim | value | 95 % interval | bar | met |", "|---|---:|---:|---:|---|"]
    for claim in told:
        value = "not defined" if claim.value is None else f"{claim.value:.3f}"
        interval = "-"
        if claim.low is not None and claim.high is not None and claim.low != claim.high:
            interval = f"{claim.low:.3f} to {claim.high:.3f}"
        met = "yes" if claim.met else "**no**"
        bar = f"{claim.direction} {claim.bar:g}"
        lines.append(f"| `{claim.name}` | {value} | {interval} | {bar} | {met} |")
    return "\n".join(lines) + "\n"
