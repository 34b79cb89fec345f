"""The committed alignment table is of the present rows, and the README quotes it rightly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="the table's rows need ComfyUI's modules")

from realcompo.bench.alignment.draw import SCENES  # noqa: E402
from realcompo.bench.alignment.rows import rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
QUOTED = {
    "realism model as it was": "realism",
    "Separate-and-Enhance, queries trained": "sepen",
    "Separate-and-Enhance, keys trained as in the paper": "sepen-to-k",
    "its losses at test time instead, no training": "sepen-test-time",
    "ReFL, by the captioner's likelihood": "realign-refl",
    "fine stage from the same noise": "realign-fine-noise",
    "fine stage from the coarse latent": "realign-fine",
    "best of 4 by the caption reward": "realign-best-of-4",
    "the same, then the fine stage from the latent": "realign-best-of-4+fine",
    "the same with less noise": "realign-best-of-4+fine-light",
    "best of 4 by the likelihood, then the fine stage with less noise": (
        "realign-best-of-4-likelihood+fine-light"
    ),
}
COLUMNS = {"both": 2, "binding": 2, "style": 2, "realism_distance": 1}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Any]]:
    document = json.loads((ROOT / "bench" / "results" / "alignment.json").read_text("utf-8"))
    assert not document["missing"]
    return {row["method"]: row for row in document["rows"]}


def test_the_table_is_whole_and_of_the_present_rows(table: dict[str, dict[str, Any]]) -> None:
    wanted = rows()
    assert list(table) == [row.method for row in wanted]
    for row in wanted:
        assert table[row.method]["scenes"] == SCENES
        assert table[row.method]["settings"] == json.loads(json.dumps(row.recipe())), row.method


def test_the_readme_quotes_the_table(table: dict[str, dict[str, Any]]) -> None:
    told = {}
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        name, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if name in QUOTED:
            told[name] = cells
    assert told.keys() == QUOTED.keys()
    for name, cells in told.items():
        for (metric, digits), cell in zip(COLUMNS.items(), cells, strict=True):
            mean = table[QUOTED[name]]["metrics"][metric]["mean"]
            assert f"{mean:.{digits}f}".removeprefix("0") == cell, (name, metric)
