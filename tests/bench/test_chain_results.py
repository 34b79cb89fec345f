"""The committed figures of the chain: of the present workflow, in its table and in the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy", reason="the bench draws with ComfyUI's modules")

from realcompo.bench.chain import main as chain  # noqa: E402
from realcompo.bench.chain.graph import fingerprint  # noqa: E402
from realcompo.bench.chain.report import SHOWN, STAGES, markdown  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads((RESULTS / "chain.json").read_text(encoding="utf-8"))


def test_the_committed_figures_are_of_the_present_workflow(document: dict[str, Any]) -> None:
    workflow = json.loads(chain.WORKFLOW.read_text(encoding="utf-8"))
    assert document["workflow"] == fingerprint(workflow)
    assert document["scenes"] == chain.SCENES
    assert [row["stage"] for row in document["rows"]] == list(STAGES)


def test_the_committed_table_is_the_committed_figures(document: dict[str, Any]) -> None:
    assert (RESULTS / "chain.md").read_text(encoding="utf-8") == markdown(document)


def test_the_readme_quotes_the_table(document: dict[str, Any]) -> None:
    told: dict[str, list[str]] = {}
    whats = {row["what"]: row for row in document["rows"]}
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) == len(SHOWN) + 1 and cells[0] in whats:
            told[cells[0]] = cells[1:]
    assert list(told) == list(whats)
    for what, cells in told.items():
        metrics = whats[what]["metrics"]
        kept = [name for name in SHOWN if name != "present"]
        expected = [re.sub(r"^0\.", ".", f"{metrics[name]['mean']:.2f}") for name in kept]
        assert cells == [*expected, f"{whats[what]['forwards']:.0f}"], what
