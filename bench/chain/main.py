"""All four methods one after the other: ``python dev.py bench chain``.

The runner draws the workflow ``realcompo_all_four`` for scenes of pairs that no finetuning saw,
every scene with its own prompt, layout and seed; the pictures of every stage are judged by the
oracle and the style judge. A stopped run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...runner.best import read_results
from ...runner.host import files_of
from ...runner.job import Backend, Graph
from ...runner.local import InProcess
from ...runner.run import run
from ...shapes.oracle import judge_scenes
from ...shapes.pairs import held_out_pairs, pair_scenes
from ...shapes.style import features, style_probability
from ...shapes.world import Scene
from .. import ROOT
from ..alignment.metrics import alignment_scores
from ..arguments import table_parser
from ..figures import contact_sheet
from ..pictures import TEST_SEED, layout_of
from ..report import commit, write_document, write_whole
from ..statistics import Bootstrap, RowResult
from .graph import files_used, fingerprint, forwards_of, saved_by
from .report import SHEET, STAGES, document_of, markdown

WORKFLOW = ROOT / "workflows" / "realcompo_all_four.json"
SCENES, SHOWN, RESAMPLES = 96, 10, 1000
LAYOUT = "Layout"
COMMAND = "python dev.py bench chain"


def scenes_of(count: int) -> list[Scene]:
    """The first test scenes of the alignment table, with the boxes that it does not use."""
    return pair_scenes(held_out_pairs(), count, TEST_SEED)


def table_of(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """A row for the runner per scene; the plain realism model's noise is the alignment table's."""
    rows = []
    for number, scene in enumerate(scenes):
        layout = layout_of(scene)
        lines = [
            f"{region.phrase}: " + " ".join(f"{edge:.4f}" for edge in region.box)
            for region in layout.regions
        ]
        rows.append({
            "id": f"scene-{number:03}", f"{LAYOUT}.phrases": "\n".join(lines),
            f"{LAYOUT}.prompt": layout.prompt, "seed": TEST_SEED + number,
        })  # fmt: skip
    return rows


def graph_of(backend: Backend, steps: int | None = None) -> Graph:
    """The workflow as Export (API) writes it; ``steps`` instead of its own number."""
    from workflow import classes_of, to_api

    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph = to_api(workflow, backend.describe(classes_of(workflow)))
    for node in graph.values():
        if steps is not None and "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    return graph


def pictures_of(out: Path, record: Mapping[str, Any], graph: Graph) -> dict[str, Tensor]:
    """Pictures (K, 3, 128, 128) in 0..1 of every stage of one row of the runner's results."""
    from PIL import Image

    names = saved_by(graph)
    found: dict[str, list[Tensor]] = {}
    shown = files_of(json.loads(record["shown"]))
    for (node, _), file in zip(shown, record["images"], strict=True):
        with Image.open(out / file) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
        found.setdefault(names[node], []).append(pixels.movedim(-1, 0).float() / 255)
    return {name: torch.stack(found[name]) for name in STAGES}


def judged(stage: str, scenes: Sequence[Scene], pictures: Tensor, forwards: float) -> RowResult:
    """The scores of a stage's pictures (N, 3, H, W), one of every scene."""
    scores = alignment_scores(pictures, scenes)
    verdicts = judge_scenes(pictures, scenes)

    def summed(name: str) -> np.ndarray:
        return np.array([sum(float(getattr(o, name)) for o in v.objects) for v in verdicts])

    return RowResult(
        method=stage,
        objects=np.array([len(scene.objects) for scene in scenes]),
        hits={"present": scores["present"], "right": summed("right"), "place": summed("iou")},
        pictures={
            **{name: scores[name] for name in ("both", "count", "binding")},
            "style": style_probability(pictures, "realistic").double().numpy(),
        },
        features=features(pictures).double().numpy(),
        forwards_per_image=forwards,
        backwards_per_image=0.0,
        seconds_per_image=0.0,
    )  # fmt: skip


def draw(
    scenes: Sequence[Scene], work: Path, steps: int | None
) -> tuple[Graph, Path, list[Mapping[str, Any]]]:
    """Every scene by the runner: the workflow, the run's folder below ``work``, and its results in
    the scenes' order.

    The table and the workflow are left in ``work`` for ``dev.py run``. Raises ``RuntimeError`` if a
    row failed.
    """
    rows = table_of(scenes)
    with InProcess() as backend:
        graph = graph_of(backend, steps)
        # the runner knows rows by their workflow; pictures of other weights must not count as done
        about = json.dumps([graph, files_used(graph)], sort_keys=True)
        out = work / f"run-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
        write_whole(work / "workflow_api.json", json.dumps(graph, indent=1))
        write_whole(work / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        summary = run(rows, graph, backend, out, retry_failed=True, tell=print)
    known = {record["id"]: record for record in read_results(out)}
    records = [known[row["id"]] for row in rows if row["id"] in known]
    if summary.done < len(rows):
        problems = [record["error"] for record in records if record["status"] != "done"]
        raise RuntimeError(f"{summary.done} of {len(rows)} rows are done: {problems[:1]}")
    return graph, out, records


def main(argv: list[str]) -> int:
    """Draw, judge, and write JSON, Markdown and the contact sheet."""
    parser = table_parser("chain", __doc__, "the runner's folder")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--steps", type=int, help="instead of the workflow's own number")
    choice = parser.parse_args(argv)
    # one loading notice per row is noise here
    logging.getLogger().setLevel(logging.WARNING)
    scenes = scenes_of(choice.scenes)
    graph, run_folder, records = draw(scenes, choice.work, choice.steps)
    every = [pictures_of(run_folder, record, graph) for record in records]
    # of several candidates the first counts: it has the other stages' noise
    pictures = {name: torch.stack([row[name][0] for row in every]) for name in STAGES}
    results = [
        judged(name, scenes, pictures[name], forwards_of(graph, records, name)) for name in STAGES
    ]
    bootstrap = Bootstrap(results[0].objects, {}, RESAMPLES)
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    document = document_of(bootstrap, results, {
        "command": COMMAND, "commit": commit(), "scenes": len(scenes),
        "workflow": fingerprint(workflow), "files": files_used(graph),
        "seconds_per_scene": float(np.median([record["seconds"] for record in records])),
    })  # fmt: skip
    write_document(choice.out / "chain.json", document)
    write_whole(choice.out / "chain.md", markdown(document))
    shown = [(label, pictures[name][:SHOWN]) for name, label in SHEET.items()]
    layouts = [layout_of(scene) for scene in scenes[:SHOWN]]
    contact_sheet(shown, [one.prompt for one in layouts], layouts, choice.out / "chain_sheet.png")
    print(f"Table, JSON and contact sheet are in {choice.out}")
    return 0
