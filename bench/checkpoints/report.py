"""The quality table on own checkpoints, written: figures with intervals, pictures, sheet."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..figures import contact_sheet
from ..report import as_document, grouped, write_document, write_whole
from ..rows import GROUPS, SHEET, Row
from ..statistics import Bootstrap, Estimate, Floats, Summary
from .judges import CLIP_SCORE, DETECTOR_IOU, DETECTOR_THRESHOLD, Judge, plain_text
from .plan import Plan

RESAMPLES = 1000
TILE = 192
COLUMNS = 12

LOOKED = ("attention_realism", "attention_spatial")
DURING = ("attention_run_realism", "attention_run_spatial")
METRICS = (*LOOKED, "attention", *DURING, CLIP_SCORE, DETECTOR_IOU)
"""Every metric in the order of the table, higher is better.

``attention_*``: mean over regions of the share of a phrase's attention that lies in its region,
0..1, by that model, at the FINISHED picture noised again to the middle of the noise schedule: the
same for every row. ``attention`` and ``attention_run_*``: the same during the run at its balanced
steps, mean of both models and each; rows that never balance have none.
"""


class Pictures(Protocol):
    """A finished run's pictures, as the report needs them."""

    plan: Plan

    def entry(self, row: Row, number: int, seed: int) -> dict[str, Any]:
        """What was measured on a picture."""
        ...

    def scores(self, row: Row, number: int, seed: int) -> dict[str, float]:
        """The judges' scores of a picture by ``score_key``."""
        ...

    def picture(self, row: Row, number: int, seed: int) -> Path:
        """File of a picture."""
        ...


def score_key(judge: Judge) -> str:
    """Name under which a judge's score is kept."""
    return f"{judge.metric}: {judge.name}"


def recipe_of(row: Row) -> dict[str, Any]:
    """A row's settings as JSON values, without the demo world's style."""
    return {key: value for key, value in row.recipe().items() if key != "style"}


def mean_of(values: Iterable[float] | None) -> float:
    """Mean of a picture's values per region; nan where it has none."""
    return float("nan") if values is None else float(np.mean(list(values)))


def summary(row: Row, album: Pictures, judges: Sequence[Judge], bootstrap: Bootstrap) -> Summary:
    """A row's means over its pictures (layout x seed), with intervals over resamples of them."""
    pictures = album.plan.pictures
    entries = [album.entry(row, *which) for which in pictures]
    columns = {name: [mean_of(e[name]) for e in entries] for name in (*LOOKED, *DURING)}
    columns["attention"] = np.mean([columns[name] for name in DURING], axis=0).tolist()
    for judge in judges:
        kept = [album.scores(row, *which) for which in pictures]
        columns[judge.metric] = [scores[score_key(judge)] for scores in kept]
    estimates = {name: estimated(np.array(columns[name]), bootstrap)
                 for name in METRICS if name in columns}  # fmt: skip
    forwards, backwards, seconds = (
        float(np.mean([e[name] for e in entries])) for name in ("forwards", "backwards", "seconds")
    )
    metrics = {name: value for name, value in estimates.items() if math.isfinite(value.mean)}
    return Summary(
        row.method, len(pictures), metrics, forwards, backwards, seconds, "", recipe_of(row)
    )


def estimated(values: Floats, bootstrap: Bootstrap) -> Estimate:
    """Mean and interval of (N,) values over the pictures that have one (nan: none)."""
    return Estimate.of(bootstrap.means(values))


def markdown(rows: Sequence[Summary], plan: Plan, notices: Sequence[str]) -> str:
    """The table in GitHub's Markdown, with what it was made of and what it lacks."""
    shown = [name for name in METRICS if any(name in row.metrics for row in rows)]
    heads = ["method", *(name.replace("_", " ") for name in shown), "forwards", "backwards", "s"]
    lines = [
        "# Quality table on own checkpoints", "", f"Made by `{plan.command}`.", "",
        f"{len(plan.layouts)} layouts x {plan.seeds} seeds, {plan.size[0]}x{plan.size[1]} pixels, "
        f"{plan.steps} steps, cfg {plan.cfg:g}. Small figures are 95 % intervals.", "",
        *(f"- {notice}" for notice in notices), *([""] if notices else []),
        f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1),
    ]  # fmt: skip
    for heading, members in grouped(rows, GROUPS).items():
        lines.append(f"| **{heading}** |" + " |" * (len(heads) - 1))
        for row in members:
            found = [row.metrics.get(name) for name in shown]
            cells = ["-" if e is None else f"{e.mean:.3f} <sub>{e.low:.3f}-{e.high:.3f}</sub>"
                     for e in found]  # fmt: skip
            cells += [f"{row.forwards_per_image:g}", f"{row.backwards_per_image:g}",
                      f"{row.seconds_per_image:.1f}"]  # fmt: skip
            lines.append(f"| {' | '.join([f'`{row.method}`', *cells])} |")
    return "\n".join(lines) + "\n"


def write_report(album: Pictures, judges: Sequence[Judge], notices: Sequence[str]) -> None:
    """JSON, Markdown, the pictures by row, and the contact sheet, into the plan's folder."""
    plan = album.plan
    bootstrap = Bootstrap(np.ones(len(plan.pictures), np.int64), {}, RESAMPLES)
    rows = [summary(row, album, judges, bootstrap) for row in plan.rows]
    document = as_document(rows, [], plan.command)
    for row in document["rows"]:
        del row["target_style"]
    about = {"seeds": plan.seeds, "size": plan.size, "steps": plan.steps, "cfg": plan.cfg,
             "judges": {judge.metric: judge.name for judge in judges},
             "detector_threshold": DETECTOR_THRESHOLD}  # fmt: skip
    document |= {
        "notices": list(notices), "about": about,
        "layouts": [layout.to_dict() for layout in plan.layouts],
    }  # fmt: skip
    write_document(plan.out / "quality.json", document)
    write_whole(plan.out / "quality.md", markdown(rows, plan, notices))
    for row in plan.rows:
        folder = plan.out / "pictures" / row.method
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in plan.pictures:
            name = f"layout-{number + 1:02}-seed-{seed}.png"
            shutil.copyfile(album.picture(row, number, seed), folder / name)
    layouts = plan.layouts[:COLUMNS]
    few = [row for row in plan.rows if row.method in SHEET]
    shown = few if len(plan.rows) > len(SHEET) else plan.rows
    sheet = [
        (row.method, torch.stack([_tile(album.picture(row, n, 0)) for n in range(len(layouts))]))
        for row in shown
    ]
    prompts = [plain_text(layout.prompt) for layout in layouts]
    contact_sheet(sheet, prompts, layouts, plan.out / "quality_sheet.png")


def _tile(path: Path) -> Tensor:
    """A picture (3, h, w) in 0..1, at most TILE pixels wide and high."""
    from PIL import Image

    with Image.open(path) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).movedim(-1, 0).float() / 255
    factor = min(1.0, TILE / max(pixels.shape[-2:]))
    if factor == 1.0:
        return pixels
    size = [max(1, round(side * factor)) for side in pixels.shape[-2:]]
    return functional.interpolate(pixels[None], size, mode="area")[0]
