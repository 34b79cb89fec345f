"""The quality table: ``python dev.py bench quality``.

Every row draws the same test scenes from the same noise; the oracle and the style judge say what
came of them. Rows are kept one by one in the working folder, so that a stopped run goes on, and
the same command started twice shares the rows between two processes. With ``--realism PATH`` and
its companions it runs on checkpoints of your own instead (see ``bench/checkpoints``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...balancer.errors import RealCompoError
from ...balancer.regions import LayoutBatch
from ...runner.cluster import Place
from ...runner.errors import RunnerError
from ...shapes.control import draw_hints
from ...shapes.host_models import weight_hashes
from ...shapes.oracle import judge_scenes
from ...shapes.style import features, reference_features, style_probability
from ...shapes.world import Scene, make_scenes
from ..checkpoints import run as checkpoints
from ..dense_pictures import dense_guider
from ..figures import contact_sheet, trade_off
from ..kept import claimed, write_arrays
from ..pictures import STEPS, Asked, Drawn, Studio, layout_of
from ..report import claims, commit, markdown_table, write_json, write_whole
from ..rows import CONTROL_SHEET, CONTROLS, QUICK_ROWS, QUICK_STEPS, SHEET, Row, known_rows, table
from ..schedule import Schedule, ScheduledGuider, mean_schedule
from ..statistics import Bootstrap, Gaussian, RowResult, summarise
from ..tuned import file_hash, lora_file, needed_file
from ..workers import HOST_ARGUMENTS, add_arguments, place_of
from .workers import drawn_by_workers

ROOT = Path(__file__).resolve().parents[2]
TEST_SEED, TUNING_SEED = 20_261_122, 777
SCENES, SCHEDULE_SCENES = 256, 48
SHOWN = 12
# What the pictures of every row depend on, beside the realism model of its style.
SHARED_WEIGHTS = ("spatial", "grounding", "text", "codec")
REFERENCE = 2048
RESAMPLES = 1000
QUICK_SCENES = 16


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
        self._known: dict[Any, tuple[Studio, list[Asked]]] = {}
        self._schedules: dict[str, Schedule] = {}

    def of(self, row: Row) -> tuple[Studio, list[Asked]]:
        """The pair of a row, and what is asked of it."""
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
            asked = studio.ask(scenes, TUNING_SEED)
            drawn = studio.draw(asked, row.schedule_of, steps=self.job.steps)
            runs, start = [], 0
            for trace in drawn.traces:
                some = asked[start : start + len(trace.steps[0].mix)]
                regions = LayoutBatch.of([a.layout for a in some], [a.tokens for a in some])
                runs.append((trace, regions))
                start += len(some)
            self._schedules[name] = mean_schedule(runs)
        return self._schedules[name]

    def draw(self, row: Row) -> Drawn:
        """The row's pictures."""
        studio, asked = self.of(row)
        if row.dense is not None:
            make = dense_guider(studio.realism, studio.clip, row.dense, row.beside)
            return studio.draw(asked, row.settings, make, steps=self.job.steps)
        if row.schedule_of is None:
            return studio.draw(asked, row.settings, steps=self.job.steps)
        return studio.draw(
            asked, row.settings, ScheduledGuider, steps=self.job.steps, schedule=self.schedule(row)
        )


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
    return Drawn(torch.tensor(pictures).float() / 255, *(costs[name] for name in COSTS))


def save_drawn(path: Path, drawn: Drawn) -> None:
    """Pictures and costs; never half a file."""
    costs = {name: np.array(value) for name, value in costs_of(drawn).items()}
    write_arrays(path, pictures=as_bytes(drawn), **costs)


def load_drawn(path: Path) -> Drawn:
    """Inverse of ``save_drawn``."""
    with np.load(path) as stored:
        return from_bytes(stored["pictures"], {name: float(stored[name]) for name in COSTS})


def score(row: Row, scenes: Sequence[Scene], drawn: Drawn) -> RowResult:
    """A row's pictures judged by the oracle and the style judge."""
    verdicts = judge_scenes(drawn.pictures, scenes)

    def summed(name: str) -> np.ndarray:
        return np.array([sum(float(getattr(o, name)) for o in v.objects) for v in verdicts])

    def told(name: str) -> np.ndarray:
        values = [getattr(v, name) for v in verdicts]
        return np.array([np.nan if value is None else float(value) for value in values])

    return RowResult(
        method=row.method,
        objects=np.array([len(scene.objects) for scene in scenes]),
        hits={"right": summed("right"), "colour": summed("colour"), "place": summed("iou")},
        pictures={
            **{name: told(name) for name in ("count", "binding", "relation")},
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


def make_rows(job: Job, rows: Sequence[Row]) -> None:
    """Draw every row that is not there yet and that no other process is at."""
    studios = Studios(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = job.drawn(row)
        if path.exists():
            continue
        with claimed(path) as ours:
            if ours:
                save_drawn(path, studios.draw(row))
        if ours:
            print_row(scored(job, row))


def make_rows_on(
    job: Job,
    rows: Sequence[Row],
    place: Place,
    threads: int,
    arguments: Sequence[str] = HOST_ARGUMENTS,
) -> None:
    """The same by Ray workers, with ``arguments`` for ComfyUI; see ``bench/quality/workers.py``."""
    job.folder.mkdir(parents=True, exist_ok=True)
    missing = [row for row in rows if not job.drawn(row).exists()]
    for row, drawn in drawn_by_workers(job, missing, place, threads, arguments):
        save_drawn(job.drawn(row), drawn)
        print_row(scored(job, row))


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


def wait_for(job: Job, rows: Sequence[Row]) -> None:
    """Return when another process has finished the rows it is at; make them if it died."""
    while any(not job.drawn(row).exists() for row in rows):
        make_rows(job, rows)
        time.sleep(2)


def references(job: Job, styles: Sequence[str], count: int) -> dict[str, Gaussian]:
    """Statistics of held-out renderings of every style; kept in the working folder."""
    found = {}
    hashes = weight_hashes()
    weights = hashes["style.safetensors"][:8] + hashes["codec.safetensors"][:8]
    for style in styles:
        path = job.folder / f"reference-{style}-{count}-{weights}.npy"
        if not path.exists():
            np.save(path, reference_features(style, count, TEST_SEED % 1_000_000).double().numpy())
        found[style] = Gaussian.fit(np.load(path))
    return found


def write_report(
    job: Job, rows: Sequence[Row], out: Path, command: str, reference: int, resamples: int
) -> None:
    """JSON, Markdown and figures of finished rows."""
    results = [scored(job, row) for row in rows]
    styles = sorted({row.style for row in rows})
    bootstrap = Bootstrap(
        results[0].objects, references(job, styles, reference), resamples,
        distance_resamples=min(resamples, 500),
    )  # fmt: skip
    told = claims(bootstrap, results)
    summaries = summarise(bootstrap, results)
    write_json(summaries, told, command, commit(), out / "quality.json")
    text = f"# Quality table\n\nMade by `{command}`.\n\n{markdown_table(summaries, told)}"
    write_whole(out / "quality.md", text)
    named = {row.method: row for row in rows}
    sheet = [
        (name, load_drawn(job.drawn(named[name])).pictures[:SHOWN])
        for name in SHEET
        if name in named
    ]
    layouts = [layout_of(scene) for scene in job.scenes[:SHOWN]]
    prompts = [layout.prompt for layout in layouts]
    contact_sheet(sheet, prompts, layouts, out / "quality_sheet.png")
    steered = _control_sheet(job, named)
    if steered:
        contact_sheet(steered, prompts, layouts, out / "control_sheet.png")
    trade_off(summaries, out / "quality_trade_off.png")


def _control_sheet(job: Job, named: dict[str, Row]) -> list[tuple[str, Tensor]]:
    """The first scenes by every ControlNet, each kind below its control pictures."""
    sheet: list[tuple[str, Tensor]] = []
    for kind in CONTROLS:
        rows = [f"{kind}-{name}" for name in CONTROL_SHEET if f"{kind}-{name}" in named]
        if rows:
            sheet.append((kind, draw_hints(job.scenes[:SHOWN], kind)))
            sheet += [(n, load_drawn(job.drawn(named[n])).pictures[:SHOWN]) for n in rows]
    return sheet


def main(argv: list[str]) -> int:
    """Make or finish the table; 0 when it is written."""
    parser = argparse.ArgumentParser(prog="bench quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench-quality",
                        help="folder of finished rows; goes on from what is there")  # fmt: skip
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--reference", type=int,
                        help="drawings that the realism distance is measured to")  # fmt: skip
    parser.add_argument("--rows", nargs="+", help="these methods only, no report is written")
    parser.add_argument("--quick", action="store_true",
                        help="six rows, 16 scenes, 15 steps; into --work")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    add_arguments(parser, "rows")
    checkpoints.add_arguments(parser)
    choice = parser.parse_args(argv)
    if checkpoints.wanted(choice):
        try:
            return checkpoints.run(choice)
        except RealCompoError as error:
            parser.error(str(error))
    torch.set_num_threads(choice.threads)
    # one progress bar or loading notice per batch is noise here
    logging.getLogger().setLevel(logging.WARNING)
    scenes, steps, others = choice.scenes, STEPS, SCHEDULE_SCENES
    if choice.quick:
        scenes = others = min(scenes, QUICK_SCENES)
        steps = QUICK_STEPS
        if choice.out == parser.get_default("out"):
            choice.out = choice.work / "quick"
    job = job_of(scenes, steps, others, choice.work)

    def make(rows: Sequence[Row]) -> None:
        place = place_of(choice)
        if place is None:
            return make_rows(job, rows)
        try:
            make_rows_on(job, rows, place, choice.threads)
        except RunnerError as error:
            parser.error(str(error))

    rows = [row for row in table(steps) if not choice.quick or row.method in QUICK_ROWS]
    if choice.rows:
        known = known_rows(steps)
        unknown = set(choice.rows) - {row.method for row in known}
        if unknown:
            parser.error(f"there is no row {', '.join(sorted(unknown))}")
        chosen = [row for row in known if row.method in choice.rows]
        absent = {row.lora for row in chosen if row.lora and lora_file(row.lora) is None}
        if absent:
            parser.error(f"there is no finetuned model {', '.join(sorted(absent))}")
        make(chosen)
        return 0
    make(rows)
    wait_for(job, rows)
    command = " ".join(["python dev.py bench quality", *(["--quick"] if choice.quick else [])])
    drawings = choice.reference or REFERENCE // (8 if choice.quick else 1)
    write_report(job, rows, choice.out, command, drawings, RESAMPLES)
    print(f"Table, JSON and figures are in {choice.out}")
    return 0
