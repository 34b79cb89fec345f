"""The quality table: ``python dev.py bench quality``.

Every row draws the same test scenes from the same noise; the oracle and the style judge say what
came of them. Rows are kept one by one in the working folder, so that a stopped run goes on, and
the same command started twice shares the rows between two processes. With ``--realism PATH`` and
its companions it runs on checkpoints of your own instead (see ``bench/checkpoints``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...balancer.errors import RealCompoError
from ...runner.errors import RunnerError
from ...shapes.control import draw_hints
from ...shapes.host_models import weight_hashes
from ...shapes.style import reference_features
from ..arguments import chosen_rows, table_parser
from ..checkpoints import run as checkpoints
from ..figures import contact_sheet, trade_off
from ..kept import claimed
from ..pictures import STEPS, TEST_SEED, layout_of
from ..report import as_document, markdown_table, write_document, write_whole
from ..rows import (
    CONTROL_SHEET,
    CONTROLS,
    GROUPS,
    QUICK_ROWS,
    QUICK_STEPS,
    SHEET,
    Row,
    known_rows,
    table,
)
from ..statistics import Bootstrap, Gaussian, summarise
from ..tuned import lora_file
from ..workers import Crew, add_arguments
from .claims import claims
from .job import Job, Studios, job_of, load_drawn, save_drawn
from .scores import print_row, scored
from .workers import make_rows_on

SCENES, SCHEDULE_SCENES = 256, 48
SHOWN = 12
REFERENCE = 2048
RESAMPLES = 1000
QUICK_SCENES = 16


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
    decided, summaries = claims(bootstrap, results), summarise(bootstrap, results)
    write_document(out / "quality.json", as_document(summaries, decided, command))
    shown = markdown_table(summaries, decided, GROUPS)
    text = f"# Quality table\n\nMade by `{command}`.\n\n{shown}"
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
    parser = table_parser("quality", __doc__, "folder of finished rows")
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
        crew = Crew.wanted(choice)
        if crew is None:
            return make_rows(job, rows)
        try:
            make_rows_on(job, rows, crew)
        except RunnerError as error:
            parser.error(str(error))

    rows = [row for row in table(steps) if not choice.quick or row.method in QUICK_ROWS]
    if choice.rows:
        chosen = chosen_rows(parser, known_rows(steps), choice.rows)
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
