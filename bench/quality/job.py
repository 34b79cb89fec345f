"""A run of the quality table: its scenes, the files of its rows, and the models that draw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...balancer.attention.regions import LayoutBatch
from ...shapes.host_models import weight_hashes
from ...shapes.world import Scene, make_scenes
from ..dense_pictures import dense_guider
from ..kept import write_arrays
from ..pictures import TEST_SEED, Drawn, PromptedScene, Studio
from ..rows import Row
from ..schedule import Schedule, ScheduledGuider, mean_schedule
from ..tuned import file_hash, needed_file

TUNING_SEED = 777
# What the pictures of every row depend on, beside the realism model of its style.
SHARED_WEIGHTS = ("spatial", "grounding", "text", "codec")


@dataclass
class Job:
    """A run's scenes and where its results go."""

    scenes: list[Scene]
    folder: Path
    steps: int
    schedule_scenes: int

    def key(self, row: Row) -> str:
        """Name of the row's files: its method, and a hash of all that its pictures depend on."""
        hashes = weight_hashes()
        parts = "realism" if row.style == "realistic" else row.style
        needed = [parts, *SHARED_WEIGHTS, *([row.control] if row.control else [])]
        used = [hashes[f"{part}.safetensors"] for part in needed]
        if row.lora is not None:
            used.append(file_hash(needed_file(row.lora)))
        about = [row.recipe(), len(self.scenes), self.steps, TEST_SEED, used]
        if row.schedule_of is not None:
            about.append(self.schedule_scenes)
        text = json.dumps(about, sort_keys=True)
        return f"{row.method}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def drawn(self, row: Row) -> Path:
        """File of the row's pictures and what they cost."""
        return self.folder / f"{self.key(row)}.drawn.npz"

    def scored(self, row: Row) -> Path:
        """File of the row's scores by the present judges."""
        judge = weight_hashes()["style.safetensors"][:8]
        return self.folder / f"{self.key(row)}-{judge}.scored.npz"


class Studios:
    """Pairs by style and kind of control, loaded once, with the test scenes' prompts."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._known: dict[Any, tuple[Studio, list[PromptedScene]]] = {}
        self._schedules: dict[str, Schedule] = {}

    def of(self, row: Row) -> tuple[Studio, list[PromptedScene]]:
        """The pair of a row, and its prompts."""
        pair = row.style, row.control, row.regions, row.lora, row.until
        if pair not in self._known:
            lora = None if row.lora is None else needed_file(row.lora)
            studio = Studio(row.style, row.control, row.regions, lora, row.until)
            self._known[pair] = studio, studio.ask(self.job.scenes, TEST_SEED)
        return self._known[pair]

    def schedule(self, row: Row) -> Schedule:
        """Mean shares of the row's balancer, on scenes that are not the test's."""
        assert row.schedule_of is not None
        name = repr((row.style, row.schedule_of))
        if name not in self._schedules:
            studio, _ = self.of(row)
            generator = torch.Generator().manual_seed(TUNING_SEED)
            scenes = make_scenes(self.job.schedule_scenes, generator)
            prompts = studio.ask(scenes, TUNING_SEED)
            drawn = studio.draw(prompts, row.schedule_of, steps=self.job.steps)
            runs, start = [], 0
            for trace in drawn.traces:
                some = prompts[start : start + len(trace.steps[0].mix)]
                regions = LayoutBatch.of([a.layout for a in some], [a.tokens for a in some])
                runs.append((trace, regions))
                start += len(some)
            self._schedules[name] = mean_schedule(runs)
        return self._schedules[name]

    def draw(self, row: Row) -> Drawn:
        """The row's pictures."""
        studio, prompts = self.of(row)
        if row.dense is not None:
            make = dense_guider(studio.realism, studio.clip, row.dense, row.beside)
            return studio.draw(prompts, row.settings, make, steps=self.job.steps)
        if row.schedule_of is None:
            return studio.draw(prompts, row.settings, steps=self.job.steps)
        return studio.draw(
            prompts, row.settings, ScheduledGuider, steps=self.job.steps,
            schedule=self.schedule(row),
        )  # fmt: skip


COSTS = ("forwards", "partial_forwards", "backwards", "seconds")


def job_of(scenes: int, steps: int, schedule_scenes: int, folder: Path | None = None) -> Job:
    """The job on the first ``scenes`` test scenes."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    return Job(make_scenes(scenes, generator), folder or Path(), steps, schedule_scenes)


def as_bytes(drawn: Drawn) -> np.ndarray:
    """Pictures as a user's files have them."""
    return (drawn.pictures * 255).round().byte().numpy()


def costs_of(drawn: Drawn) -> dict[str, float]:
    """What the pictures cost, by name."""
    return {name: float(getattr(drawn, name)) for name in COSTS}


def from_bytes(pictures: np.ndarray, costs: Mapping[str, float]) -> Drawn:
    """Inverse of ``as_bytes`` and ``costs_of``."""
    forwards, partial, backwards, seconds = (costs[name] for name in COSTS)
    return Drawn(torch.tensor(pictures).float() / 255, forwards, partial, backwards, seconds)


def save_drawn(path: Path, drawn: Drawn) -> None:
    """Pictures and costs; never half a file."""
    costs = {name: np.array(value) for name, value in costs_of(drawn).items()}
    write_arrays(path, pictures=as_bytes(drawn), **costs)


def load_drawn(path: Path) -> Drawn:
    """Inverse of ``save_drawn``."""
    with np.load(path) as stored:
        return from_bytes(stored["pictures"], {name: float(stored[name]) for name in COSTS})
