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

from . import ROOT
from .statistics import (
    DISTANCE,
    METRICS,
    Estimate,
    Summary,
    parameter_of,
)

DIGITS = 4


@dataclass(frozen=True)
class Claim:
    """A figure that the project promises, with its bar.

    ``met`` follows one of two rules, named in ``rule``:

    - ``interval``: the value reaches the bar AND its 95 % interval lies wholly on the bar's side of
      zero (above it for ``>=``, below it for ``<=``), so the effect is there beyond chance;
    - ``point``: the value reaches the bar; for ratios, whose zero means nothing, and for counts,
      which have no sampling error. The interval is given all the same.

    A claim whose value is not defined (a row beyond a curve's range) is not met, and neither is one
    that is undefined in more than 2.5 % of the resamples, where the interval would be made from the
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


def as_document(
    rows: Sequence[Summary], claims: Sequence[Claim], command: str
) -> dict[str, Any]:
    """The table as plain JSON values; figures rounded to four decimals, settings as given.

    ``command`` is what a reader types to make the table again.
    """
    return {
        "command": command,
        "commit": commit(),
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
        "claims": [claim.as_dict() for claim in claims],
    }


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON; the same figures give the same bytes, and a stopped write changes nothing.

    Raises ``ValueError`` for a figure that JSON does not have (nan).
    """
    write_whole(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def print_claims(claims: Sequence[Claim]) -> None:
    """A line per claim: its value with the interval, and whether it is met."""
    for claim in claims:
        print(f"{claim.name:24} {claim.value} ({claim.low} to {claim.high}), met: {claim.met}")


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
    rows: Sequence[Summary], groups: Mapping[str, Callable[[str], bool]]
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
    claims: Sequence[Claim],
    groups: Mapping[str, Callable[[str], bool]],
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
    return text + "\n" + markdown_table_of_claims(claims) if claims else text


def markdown_table_of_claims(claims: Sequence[Claim]) -> str:
    """Claims with their bars in GitHub's Markdown; ends with a newline."""
    lines = ["| claim | value | 95 % interval | bar | met |", "|---|---:|---:|---:|---|"]
    for claim in claims:
        value = "not defined" if claim.value is None else f"{claim.value:.3f}"
        interval = "-"
        if claim.low is not None and claim.high is not None and claim.low != claim.high:
            interval = f"{claim.low:.3f} to {claim.high:.3f}"
        met = "yes" if claim.met else "**no**"
        bar = f"{claim.direction} {claim.bar:g}"
        lines.append(f"| `{claim.name}` | {value} | {interval} | {bar} | {met} |")
    return "\n".join(lines) + "\n"
