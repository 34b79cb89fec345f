"""The committed alignment table is of the present rows, and the README quotes it rightly."""

from __future__ import annotations

import pytest

pytest.importorskip("comfy", reason="the table's rows need ComfyUI's modules")

from realcompo.bench.alignment.draw import SCENES  # noqa: E402
from realcompo.bench.alignment.rows import rows  # noqa: E402

from .results import check_rows, committed, committed_rows, quoted  # noqa: E402

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


def test_the_table_is_whole_and_of_the_present_rows() -> None:
    assert not committed("alignment")["missing"]
    check_rows(committed_rows("alignment"), rows(), SCENES)


def test_the_readme_quotes_the_table() -> None:
    table, shown = committed_rows("alignment"), quoted(QUOTED)
    assert shown.keys() == QUOTED.keys()
    for name, cells in shown.items():
        for (metric, digits), cell in zip(COLUMNS.items(), cells, strict=True):
            mean = table[QUOTED[name]]["metrics"][metric]["mean"]
            assert f"{mean:.{digits}f}".removeprefix("0") == cell, (name, metric)
