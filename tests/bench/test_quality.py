"""The quick table, end to end: drawn, judged, reported, and its ordering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

# Fewer scenes and drawings than the bench's own quick run: what is asserted has room to spare.
SCENES = 6
QUICK = ["--quick", "--scenes", str(SCENES), "--reference", "128"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished quick run."""
    pytest.importorskip("comfy.samplers")
    from realcompo.bench.quality.main import main

    folder = tmp_path_factory.mktemp("quality")
    threads = torch.get_num_threads()
    assert main([*QUICK, "--work", str(folder), "--out", str(folder / "out")]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of its JSON by method."""
    report = json.loads((folder / "out" / "quality.json").read_text(encoding="utf-8"))
    return {row["method"]: row for row in report["rows"]}


def mean(rows: dict[str, Any], method: str, metric: str) -> float:
    return rows[method]["metrics"][metric]["mean"]


def test_each_model_knows_its_own_half(rows) -> None:
    assert mean(rows, "spatial", "right") >= mean(rows, "realism", "right") + 0.5
    assert mean(rows, "realism", "right") <= 0.2
    assert mean(rows, "realism", "style") >= mean(rows, "spatial", "style") + 0.4
    assert mean(rows, "realism", "realism_distance") < mean(rows, "spatial", "realism_distance") / 3


def test_the_mix_keeps_both(rows) -> None:
    ours = "realcompo-equilibrium"
    assert mean(rows, ours, "right") >= mean(rows, "realism", "right") + 0.4
    assert mean(rows, ours, "style") >= mean(rows, "spatial", "style") + 0.3
    assert mean(rows, ours, "style") >= mean(rows, "fixed-0.50", "style") + 0.05
    assert mean(rows, ours, "realism_distance") < mean(rows, "fixed-0.50", "realism_distance")


def test_cost_is_counted(rows) -> None:
    steps = 15
    assert rows["realism"]["forwards_per_image"] == 2 * steps
    assert rows["fixed-0.50"]["forwards_per_image"] == 4 * steps
    # the spatial model for a fifth of the steps, the realism model for the others
    assert rows["switch-0.20"]["forwards_per_image"] == 2 * steps
    ours = rows["realcompo-equilibrium"]
    assert ours["forwards_per_image"] <= rows["fixed-0.50"]["forwards_per_image"]
    assert ours["backwards_per_image"] > 0
    assert rows["control"]["backwards_per_image"] == 0


def test_the_control_has_our_shares_and_no_gradient(folder, rows) -> None:
    from realcompo.bench.pictures import TEST_SEED
    from realcompo.bench.quality.job import Job, Studios
    from realcompo.bench.rows import QUICK_STEPS, table
    from realcompo.shapes.world import make_scenes

    scenes = make_scenes(2, torch.Generator().manual_seed(TEST_SEED))
    job = Job(scenes, folder, QUICK_STEPS, SCENES)
    (row,) = (row for row in table(QUICK_STEPS) if row.method == "control")
    schedule = Studios(job).schedule(row)
    assert len(schedule.inside) == len(schedule.outside) == QUICK_STEPS
    # the spatial model has its say inside the regions, early
    assert schedule.inside[0] < schedule.outside[0]
    assert schedule.inside[0] < schedule.inside[-1]


def test_a_second_run_draws_nothing(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from realcompo.bench.quality import main as quality

    def refuse(*_: Any) -> None:
        raise AssertionError("drew a row that was there")

    monkeypatch.setattr(quality.Studios, "draw", refuse)
    before = (folder / "out" / "quality.json").read_bytes()
    quality.main([*QUICK, "--work", str(folder), "--out", str(folder / "out")])
    assert (folder / "out" / "quality.json").read_bytes() == before


def test_pictures_and_table_are_there(folder) -> None:
    for name in ("quality.md", "quality_sheet.png", "quality_trade_off.png"):
        assert (folder / "out" / name).stat().st_size > 1000
    assert not list(folder.glob("*.lock"))


def test_other_weights_or_settings_are_other_rows(tmp_path: Path) -> None:
    pytest.importorskip("comfy.samplers")
    from dataclasses import replace

    from realcompo.bench.quality.job import Job
    from realcompo.bench.rows import table

    job = Job([], tmp_path, 30, 4)
    rows = table(30)
    assert len({row.method for row in rows}) == len(rows)
    assert len({job.key(row) for row in rows}) == len(rows)
    ours = next(row for row in rows if row.method == "realcompo-equilibrium")
    other = replace(ours, settings=replace(ours.settings, rate=ours.settings.rate + 1))
    assert job.key(other) != job.key(ours)
    assert job.key(ours) == job.key(replace(ours))


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("comfy.samplers")
    from realcompo.bench.quality.main import main

    with pytest.raises(SystemExit):
        main(["--work", str(tmp_path), "--rows", "nothing"])
