"""The quality table on checkpoints and layouts of the user's own: arguments, rows, report.

There is no oracle for real pictures. What is reported instead: how much of each model's attention
to a phrase falls into the phrase's region, and, with models that the user has, how well a picture
fits its prompt (CLIP) and its boxes (a detector). Pictures are kept one by one, so that a stopped
run goes on. They are known by their layout, seed and settings and by the name, size and time of
change of the model files; the files' contents are not read for that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ...balancer.attention.regions import LayoutBatch
from ...balancer.errors import RealCompoError
from ...balancer.realcompo.settings import BalancerSettings
from ..dense_pictures import dense_guider
from ..report import write_whole
from ..rows import Row, table
from ..schedule import Schedule, ScheduledGuider, mean_schedule
from .judges import Judge, find_judges
from .plan import Plan, add_arguments, plan_of, wanted
from .report import (
    DURING,
    LOOKED,
    mean_of,
    recipe_of,
    score_key,
    write_report,
)
from .studio import CheckpointStudio, Prompted, Shot

__all__ = ["Album", "add_arguments", "run", "wanted"]

Say = Callable[[str], object]


class Album:
    """The pictures of a run with what was measured on them, made where they are not there yet."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self._say = plan, say
        self._keys: dict[tuple[Row, int, int], str] = {}
        plan.work.mkdir(parents=True, exist_ok=True)
        paths = (plan.files.realism, plan.files.spatial, plan.files.gligen, plan.files.vae)
        self._models = [
            [p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths if p is not None
        ]

    @cached_property
    def _loaded(self) -> tuple[CheckpointStudio, list[Prompted]]:
        """The models with all prompts, so that a layout they refuse is named before sampling."""
        self._say("Loading the models")
        studio = CheckpointStudio(self.plan.files)
        prompts = [studio.ask(layout) for layout in self.plan.layouts]
        for one in prompts:
            # building a guider holds the models and the prompt against each other
            studio.guider(one, BalancerSettings(), self.plan.cfg)
        return studio, prompts

    def key(self, row: Row, number: int, seed: int) -> str:
        """Name of a picture's files: a hash of all that the picture depends on."""
        known = self._keys.get((row, number, seed))
        if known is not None:
            return known
        plan = self.plan
        recipe: list[Any] = [
            recipe_of(row), plan.layouts[number].to_dict(), seed, plan.size, plan.steps, plan.cfg,
            self._models,
        ]  # fmt: skip
        if row.schedule_of is not None:
            recipe.append([self.key(*other) for other in self._teachers(row, number)])
        digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
        key = self._keys[row, number, seed] = f"{row.method}-{seed}-{digest}"
        return key

    def picture(self, row: Row, number: int, seed: int) -> Path:
        """File of a picture; it is there once ``entry`` has returned."""
        return self.plan.work / f"{self.key(row, number, seed)}.png"

    def entry(self, row: Row, number: int, seed: int) -> dict[str, Any]:
        """What was measured on a picture, after drawing it if need be."""
        picture = self.picture(row, number, seed)
        path = picture.with_suffix(".json")
        if path.exists() and picture.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        studio, prompts = self._loaded
        one, plan = prompts[number], self.plan
        more: dict[str, Any] = {}
        if row.schedule_of is not None:
            teachers = [self.entry(*other) for other in self._teachers(row, number)]
            more = {"make": ScheduledGuider, "schedule": taught(teachers)}
        if row.dense is not None:
            more = {"make": dense_guider(studio.realism, studio.clip, row.dense, row.beside)}
        shot = studio.draw(one, seed, row.settings, plan.size, plan.steps, plan.cfg, **more)
        found = measured(one, shot, studio.shares(one, shot.latent))
        _save_png(shot.pixels, picture)
        write_whole(path, json.dumps(found, allow_nan=False))
        self._say(
            f"{row.method:32} layout {number + 1}/{len(plan.layouts)} seed {seed}: attention "
            f"{mean_of(found['attention_realism']):.3f} {mean_of(found['attention_spatial']):.3f}, "
            f"{shot.seconds:.1f} s"
        )
        return found

    def _teachers(self, row: Row, number: int) -> list[tuple[Row, int, int]]:
        """Pictures whose shares a schedule for layout ``number`` may be made of: of other layouts
        only, or the schedule would have seen the very picture that it is tested on."""
        source = next(
            other for other in table(self.plan.steps)
            if other.settings == row.schedule_of and other.schedule_of is None
        )  # fmt: skip
        return [(source, n, seed) for n, seed in self.plan.pictures if n != number]

    def judge(self, judges: Sequence[Judge]) -> None:
        """Score every picture that a judge has not seen yet."""
        new = [
            (judge, row, *which)
            for judge in judges
            for row in self.plan.rows
            for which in self.plan.pictures
            if score_key(judge) not in self.scores(row, *which)
        ]
        if not new:
            return
        from PIL import Image

        self._say(f"Judging {len(new)} times")
        comfy.model_management.unload_all_models()
        for judge in dict.fromkeys(judge for judge, *_ in new):
            judge.to(comfy.model_management.get_torch_device())
        for judge, row, number, seed in new:
            path = self.picture(row, number, seed)
            with Image.open(path) as opened:
                score = judge.score(opened.convert("RGB"), self.plan.layouts[number])
            scores = {**self.scores(row, number, seed), score_key(judge): score}
            write_whole(path.with_suffix(".scores"), json.dumps(scores, allow_nan=False))

    def scores(self, row: Row, number: int, seed: int) -> dict[str, float]:
        """The judges' scores of a picture by ``score_key``."""
        path = self.picture(row, number, seed).with_suffix(".scores")
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def measured(one: Prompted, shot: Shot, looked: Sequence[Tensor | None]) -> dict[str, Any]:
    """A picture's figures as JSON values: attention per region, mean shares per step, costs."""
    schedule = mean_schedule([(shot.trace, LayoutBatch.of(one.layout, one.tokens))])
    found: dict[str, Any] = {
        name: None if shares is None else shares.tolist()
        for name, shares in zip(LOOKED, looked, strict=True)
    }
    for name, field in zip(DURING, ("shares_realism", "shares_spatial"), strict=True):
        seen = [getattr(step, field) for step in shot.trace.steps]
        seen = [shares[0] for shares in seen if shares is not None]
        found[name] = torch.stack(seen).mean(0).tolist() if seen else None
    found["inside"], found["outside"] = (
        [value if math.isfinite(value) else None for value in part]
        for part in (schedule.inside, schedule.outside)
    )
    # a pass that stops half-way is counted as a whole one
    found["forwards"] = shot.trace.forwards + shot.trace.partial_forwards
    found["backwards"] = shot.trace.backwards
    found["seconds"] = shot.seconds
    return found


def taught(entries: Sequence[dict[str, Any]]) -> Schedule:
    """The mean of pictures' shares per step, every picture alike.

    A picture without an inside or an outside has no say there; where none has, the other side's
    shares stand in, the only ones that were ever seen.
    """
    sides = [
        np.array([[np.nan if v is None else v for v in entry[side]] for entry in entries])
        for side in ("inside", "outside")
    ]
    known = [~np.isnan(values) for values in sides]
    inside, outside = (
        np.divide(np.where(k, v, 0.0).sum(0), k.sum(0), where=k.any(0),
                  out=np.full(v.shape[1], np.nan))
        for k, v in zip(known, sides, strict=True)
    )  # fmt: skip
    return Schedule(
        tuple(np.where(np.isnan(inside), outside, inside).tolist()),
        tuple(np.where(np.isnan(outside), inside, outside).tolist()),
    )


def _save_png(pixels: Tensor, path: Path) -> None:
    from PIL import Image

    tile = (pixels * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    part = path.with_suffix(".part")
    Image.fromarray(tile).save(part, format="PNG")
    os.replace(part, path)


def run(choice: argparse.Namespace, say: Say = print) -> int:
    """Make or finish the table; 0 when it is written.

    Raises RealCompoError for arguments, files and layouts that cannot be meant, before any model
    is loaded, and for models that do not fit together, before anything is sampled.
    """
    plan = plan_of(choice)
    judges, notices = find_judges(choice.clip_model, choice.detector)
    if len(plan.layouts) < 2 and any(row.schedule_of is not None for row in plan.rows):
        notices.append(
            "control is left out: its schedule is measured on other layouts, and there is one only."
        )
        plan = replace(plan, rows=tuple(row for row in plan.rows if row.schedule_of is None))
        if not plan.rows:
            raise RealCompoError("--rows", notices[-1].rstrip("."), "Give a second layout")
    if len(plan.pictures) < 2:
        notices.append("One picture a row: there are no intervals. Raise --seeds or add layouts.")
    for notice in notices:
        say(notice)
    album = Album(plan, say)
    for row in plan.rows:
        for which in plan.pictures:
            album.entry(row, *which)
    album.judge(judges)
    write_report(album, judges, notices)
    say(f"Table, JSON and pictures are in {plan.out}")
    return 0
