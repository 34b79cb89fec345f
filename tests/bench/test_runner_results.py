"""The committed demonstration of the runner shows what its guide says, with the guide's figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .results import committed

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("in_process", "two_servers", "two_ray_workers", "killed_server", "killed_ray_worker",
         "killed_driver")  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return committed("runner")


@pytest.mark.parametrize("stage", WHOLE)
def test_every_row_is_there_once_with_the_same_picture(
    stage: str, document: dict[str, Any]
) -> None:
    found = document["figures"][stage]
    assert found["rows"] == document["rows"] == 200
    keys = ("missing", "twice", "failed", "pictures_missing", "pictures_beyond")
    assert [found[key] for key in keys] == [0] * 5
    assert found["same_pictures"]


def test_the_killed_were_killed_in_the_middle(document: dict[str, Any]) -> None:
    figures = document["figures"]
    assert 0 < figures["killed_driver"]["recorded_when_killed"] < 200
    assert figures["killed_driver"]["pictures_drawn_again"] <= 1
    assert figures["killed_driver"]["exit_code_of_second_start"] == 0
    assert len(figures["killed_server"]["rows_per_worker"]) == 2
    # both workers, and the one that took the place of the killed one
    assert len(figures["killed_ray_worker"]["rows_per_worker"]) in (2, 3)
    assert 0 < figures["full_disk"]["recorded_when_full"] < figures["full_disk"]["rows"]


def test_overhead_is_within_its_bar(document: dict[str, Any]) -> None:
    assert document["figures"]["overhead_in_process"]["overhead"] < 0.05


def test_the_guide_quotes_the_figures(document: dict[str, Any]) -> None:
    guide = (ROOT / "docs" / "runner.md").read_text(encoding="utf-8")
    figures = document["figures"]
    overhead = figures["overhead_in_process"]
    servers, ray = figures["scaling_servers"], figures["scaling_ray"]
    expected = {
        "overhead": f"{100 * overhead['overhead']:.1f} %",
        "ratio_servers": f"{servers['ratio']:.2f}",
        "ratio_ray": f"{ray['ratio']:.2f}",
        "cpu_servers": " / ".join(
            f"{1000 * servers['worker_cpu_seconds_per_row'][key]:.0f}" for key in "12"
        ),
        "cpu_ray": " / ".join(
            f"{1000 * ray['worker_cpu_seconds_per_row'][key]:.0f}" for key in "12"
        ),
        "driver_servers": f"{1000 * servers['driver_cpu_seconds_per_row']:.0f} ms",
        "driver_ray": f"{1000 * ray['driver_cpu_seconds_per_row']:.0f} ms",
    }
    flat = re.sub(r"\s+", " ", guide)
    missing = {name: text for name, text in expected.items() if text not in flat}
    assert not missing
