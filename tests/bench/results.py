"""The committed results, and the README's tables that quote them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


def committed(name: str) -> dict[str, Any]:
    """What ``bench/results/<name>.json`` says."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def committed_rows(name: str) -> dict[str, dict[str, Any]]:
    """Its rows by method."""
    return {row["method"]: row for row in committed(name)["rows"]}


def quoted(names: Iterable[str]) -> dict[str, list[str]]:
    """Cells of the README's table rows that begin with one of ``names``, behind that name."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0]: cells[1:] for cells in rows if cells[0] in names}


def check_rows(found: dict[str, dict[str, Any]], rows: Iterable[Any], scenes: int) -> None:
    """Fail unless ``found`` are results of these ``rows`` with these settings on all scenes."""
    wanted = list(rows)
    assert list(found) == [row.method for row in wanted]
    for row in wanted:
        assert found[row.method]["scenes"] == scenes
        assert found[row.method]["settings"] == json.loads(json.dumps(row.recipe())), row.method
