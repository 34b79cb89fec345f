"""The chain of all four methods, run in small by the bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="the bench draws with ComfyUI's modules")
pytest.importorskip("pyarrow", reason="the runner's results table needs pyarrow")

import torch  # noqa: E402
from realcompo.bench.chain import main as chain  # noqa: E402
from realcompo.bench.chain.graph import fingerprint, forwards_of, saved_by  # noqa: E402
from realcompo.bench.chain.report import BEFORE, STAGES, markdown  # noqa: E402
from realcompo.shapes.pairs import training_pairs  # noqa: E402
from realcompo.shapes.world import COLOURS, SHAPES  # noqa: E402


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bench on two scenes, two steps each; its folder and document."""
    folder = tmp_path_factory.mktemp("chain")
    arguments = ["--out", str(folder), "--work", str(folder / "work")]
    assert chain.main([*arguments, "--scenes", "2", "--steps", "2"]) == 0
    return folder, json.loads((folder / "chain.json").read_text(encoding="utf-8"))


def test_every_stage_of_the_workflow_is_drawn_and_judged(
    small: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = small
    assert [row["stage"] for row in document["rows"]] == list(STAGES)
    assert {(d["stage"], d["against"]) for d in document["differences"]} == {
        (stage, other) for stage, others in BEFORE.items() for other in others
    }
    assert (folder / "chain.md").read_text(encoding="utf-8") == markdown(document)
    assert (folder / "chain_sheet.png").stat().st_size > 1000


def test_a_stage_costs_what_it_needs(small: tuple[Path, dict[str, Any]]) -> None:
    forwards = {row["stage"]: row["forwards"] for row in small[1]["rows"]}
    assert forwards["plain"] == forwards["sepen"] == 2 * 2
    assert forwards["realcompo"] == forwards["candidates"] > forwards["plain"]
    assert forwards["best"] == 4 * forwards["candidates"]
    assert forwards["chain"] == forwards["fine"] > forwards["best"]


def test_stages_start_from_the_same_noise_and_the_chain_keeps_one_of_two(
    small: tuple[Path, dict[str, Any]],
) -> None:
    from realcompo.runner.best import read_results

    (run,) = (small[0] / "work").glob("run-*")
    graph = json.loads((small[0] / "work" / "workflow_api.json").read_text(encoding="utf-8"))
    for record in read_results(run):
        found = chain.pictures_of(run, record, graph)
        assert {name: len(found[name]) for name in STAGES} == {
            **dict.fromkeys(STAGES, 1), "candidates": 4,
        }  # fmt: skip
        assert any(torch.equal(found["best"][0], one) for one in found["candidates"])
        assert any(torch.equal(found["chain"], found[name]) for name in ("best", "fine"))
    with pytest.raises(StopIteration):
        forwards_of(graph, [], "nothing")
    assert set(STAGES) <= set(saved_by(graph).values())


def test_no_scene_has_a_pair_that_finetuning_saw() -> None:
    known = {frozenset(pair) for pair in training_pairs()}
    scenes = chain.scenes_of(chain.SCENES)
    assert len(scenes) == chain.SCENES
    for scene in scenes:
        pair = frozenset((thing.colour, thing.shape) for thing in scene.objects)
        assert pair not in known
        assert all(colour in COLOURS and shape in SHAPES for colour, shape in pair)
    rows = chain.table_of(scenes)
    assert len({row["seed"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_a_fingerprint_is_of_values_not_of_places() -> None:
    workflow = json.loads(chain.WORKFLOW.read_text(encoding="utf-8"))
    known = fingerprint(workflow)
    workflow["nodes"][0]["pos"] = [7, 7]
    assert fingerprint(workflow) == known
    workflow["nodes"][0]["widgets_values"][0] = "neon"
    assert fingerprint(workflow) != known
