"""The committed table is of the present methods and settings, and the README quotes it rightly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="the table's rows need ComfyUI's modules")

from realcompo.bench.pictures import STEPS  # noqa: E402
from realcompo.bench.quality.main import SCENES  # noqa: E402
from realcompo.bench.rows import table  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
QUOTED = {
    "realism model alone": "realism",
    "spatial model alone": "spatial",
    "fixed mix, 40 % realism": "fixed-0.40",
    "spatial model for 30 % of the steps, then realism": "switch-0.30",
    "preset `paper`": "realcompo-paper",
    "preset `equilibrium`": "realcompo-equilibrium",
    "its mean shares per step, without a gradient": "control",
    "spatial model for 60 % of the steps, background matched": "matched-switch-0.60",
    "preset `equilibrium`, mode `lagged`": "realcompo-lagged",
    "segmentation ControlNet alone": "segmentation-alone",
    "segmentation, even mix": "segmentation-fixed-0.50",
    "segmentation, `equilibrium` by boxes": "segmentation-boxes",
    "segmentation, `equilibrium` by masks": "segmentation-masks",
    "keypoint ControlNet alone": "keypoints-alone",
    "keypoints, even mix": "keypoints-fixed-0.50",
    "keypoints, `equilibrium` by boxes": "keypoints-boxes",
    "keypoints, `equilibrium` by masks": "keypoints-masks",
}
DIGITS = {"right": 2, "count": 2, "style": 2, "realism_distance": 1}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    document = json.loads((ROOT / "bench" / "results" / "quality.json").read_text("utf-8"))
    return {row["method"]: row for row in document["rows"]}


def test_the_table_is_whole_and_of_the_present_settings(rows: dict[str, dict[str, Any]]) -> None:
    wanted = table(STEPS)
    assert list(rows) == [row.method for row in wanted]
    for row in wanted:
        assert rows[row.method]["scenes"] == SCENES
        assert rows[row.method]["settings"] == json.loads(json.dumps(row.recipe())), row.method


def test_the_readme_quotes_the_table(rows: dict[str, dict[str, Any]]) -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    told = {}
    for line in lines:
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells[0] in QUOTED:
            told[QUOTED[cells[0]]] = cells[1:]
    assert set(told) == set(QUOTED.values())
    for method, cells in told.items():
        figures = rows[method]["metrics"]
        expected = [
            re.sub(r"^0\.", ".", f"{figures[name]['mean']:.{digits}f}")
            for name, digits in DIGITS.items()
        ]
        assert cells == [*expected, f"{rows[method]['forwards_per_image']:.0f}"], method
