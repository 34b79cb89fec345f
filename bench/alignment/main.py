"""The alignment table: ``python dev.py bench alignment``.

Realism models draw pairs of objects that no finetuning saw, as they were and after each method; the
oracle says which objects are there in which colours, the style judge whether the look is kept. Rows
are kept stage by stage in the working folder, so that a stopped run goes on. Rows whose finetuned
model is not there are named below the table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...runner.errors import RunnerError
from ..arguments import chosen_rows, table_parser
from ..figures import contact_sheet
from ..pictures import STEPS, layout_of
from ..report import as_document, markdown_table, write_document, write_whole
from ..statistics import METRICS, Bootstrap, RowResult, summarise
from ..workers import Crew, add_arguments
from .draw import PROMPTS, SCENES, BusyError, Job
from .report import ABOUT, GROUPS, claims, notes
from .rows import SHEET, SHEETS_OF_STYLES, STYLES, Row, known_rows, rows
from .workers import make_stages_on

REFERENCE, RESAMPLES = 2048, 1000
SHOWN = 12
COMMAND = "python dev.py bench alignment"


def make_rows(job: Job, chosen: Sequence[Row]) -> None:
    """Draw and judge every row that is not there yet; those that another process is at are waited
    for."""
    left = list(chosen)
    while left:
        busy = []
        for row in left:
            try:
                print_row(job.scored(row))
            except BusyError:
                busy.append(row)
        if busy == left:
            time.sleep(2)
        left = busy


def print_row(result: RowResult) -> None:
    """One line of progress."""
    means = [f"{name} {float(np.nanmean(values)):.3f}" for name, values in _means(result).items()]
    print(f"{result.method:26} {' '.join(means)} {result.seconds_per_image:.2f} s", flush=True)


def _means(result: RowResult) -> dict[str, np.ndarray]:
    hits = {name: values / result.objects for name, values in result.hits.items()}
    every = {**hits, **result.pictures}
    return {name: every[name] for name in METRICS if name in every}


def write_report(
    job: Job, chosen: Sequence[Row], missing: dict[str, str], out: Path, reference: int
) -> None:
    """JSON, Markdown and the contact sheet of finished rows."""
    results = [job.scored(row) for row in chosen]
    styles = sorted({row.style for row in chosen})
    bootstrap = Bootstrap(
        results[0].objects, {style: job.reference(style, reference) for style in styles},
        RESAMPLES, distance_resamples=RESAMPLES // 2,
    )  # fmt: skip
    decided, summaries = claims(bootstrap, results), summarise(bootstrap, results)
    document = as_document(summaries, decided, COMMAND)
    document["prompts_for_diversity"] = len(job.groups)
    document["missing"] = [{"method": name, "reason": why} for name, why in missing.items()]
    write_document(out / "alignment.json", document)
    table = markdown_table(summaries, decided, GROUPS)
    text = f"# Alignment table\n\nMade by `{COMMAND}`. {ABOUT}\n\n{table}{notes(missing)}"
    write_whole(out / "alignment.md", text)
    _sheet(job, chosen, out / "alignment_sheet.png")


def _sheet(job: Job, chosen: Sequence[Row], path: Path) -> None:
    """The first scenes before and after; the other styles as pairs of rows below."""
    named = {row.method: row for row in chosen}
    shown = [name for name in SHEET if name in named]
    for style in SHEETS_OF_STYLES:
        pair = [name + STYLES[style] for name in SHEET[:2]]
        shown += pair if all(name in named for name in pair) else []
    if shown:
        first = job.scenes[:SHOWN]
        pictures = [(name, job.make(named[name]).pictures[: len(first)]) for name in shown]
        prompts = [layout_of(scene).prompt for scene in first]
        contact_sheet(pictures, prompts, None, path)


def main(argv: list[str]) -> int:
    """Make or finish the table; 0 when it is written."""
    parser = table_parser("alignment", __doc__, "folder of finished stages")
    parser.add_argument("--tuned", type=Path, nargs="+", default=[],
                        help="folders of LoRA files, before the pack's own")  # fmt: skip
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--reference", type=int, default=REFERENCE,
                        help="drawings that the Frechet distance is measured to")  # fmt: skip
    parser.add_argument("--rows", nargs="+", help="these methods only, no report is written")
    parser.add_argument("--threads", type=int, default=1)
    add_arguments(parser, "stages, such as one candidate of best-of-4,")
    choice = parser.parse_args(argv)
    torch.set_num_threads(choice.threads)
    # one progress bar or loading notice per batch is noise here
    logging.getLogger().setLevel(logging.WARNING)
    job = Job(choice.work, choice.scenes, min(PROMPTS, choice.scenes), steps=choice.steps,
              tuned=choice.tuned)  # fmt: skip
    chosen = chosen_rows(parser, known_rows(), choice.rows) if choice.rows else rows()
    missing = {row.method: why for row in chosen if (why := job.missing(row)) is not None}
    for method, why in missing.items():
        print(f"{method:26} left out: {why}", flush=True)
    chosen = [row for row in chosen if row.method not in missing]
    if (crew := Crew.wanted(choice)) is not None:
        try:
            make_stages_on(job, chosen, crew)
        except RunnerError as error:
            parser.error(str(error))
    make_rows(job, chosen)
    if choice.rows:
        return 1 if missing else 0
    write_report(job, chosen, missing, choice.out, choice.reference)
    print(f"Table, JSON and contact sheet are in {choice.out}")
    return 0
