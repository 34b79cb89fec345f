"""The committed figures of the chain: of the present workflow, in its table and in the README."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("comfy", reason="the bench draws with ComfyUI's modules")

from realcompo.bench.chain import main as chain  # noqa: E402
from realcompo.bench.chain.graph import fingerprint  # noqa: E402
from realcompo.bench.chain.report import SHOWN, STAGES, markdown  # noqa: E402

from .results import RESULTS, committed, quoted  # noqa: E402


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return committed("chain")


def test_the_committed_figures_are_of_the_present_workflow(document: dict[str, Any]) -> None:
    workflow = json.loads(chain.WORKFLOW.read_text(encoding="utf-8"))
    assert document["workflow"] == fingerprint(workflow)
    assert document["scenes"] == chain.SCENES
    assert [row["stage"] for row in document["rows"]] == list(STAGES)


def test_the_committed_table_is_the_committed_figures(document: dict[str, Any]) -> None:
    assert (RESULTS / "chain.md").read_text(encoding="utf-8") == markdown(document)


def test_the_readme_quotes_the_table(document: dict[str, Any]) -> None:
    whats = {row["what"]: row for row in document["rows"]}
    shown = quoted(whats)
    assert list(shown) == list(whats)
    for what, cells in shown.items():
        metrics = whats[what]["metrics"]
        kept = [name for name in SHOWN if name != "present"]
        expected = [re.sub(r"^0\.", ".", f"{metrics[name]['mean']:.2f}") for name in kept]
        assert cells == [*expected, f"{whats[what]['forwards']:.0f}"], what
