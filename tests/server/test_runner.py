"""The runner on a live ComfyUI: the pictures of one process, failures in the server's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostpack
import pytest
from live_server import LiveServer

pytest.importorskip("pyarrow", reason="the results table needs pyarrow")

import pyarrow.parquet as parquet  # noqa: E402
from realcompo.bench.runner.rows import SAMPLER, bench_rows, demo_graph  # noqa: E402
from realcompo.runner.local import InProcess  # noqa: E402
from realcompo.runner.run import run  # noqa: E402
from realcompo.runner.servers import Servers  # noqa: E402


def table(out: Path) -> dict[str, dict[str, Any]]:
    rows = parquet.read_table(out / "results.parquet").to_pylist()
    return {row["id"]: row for row in rows}


def test_rows_on_a_server_are_those_of_one_process(server: LiveServer, tmp_path: Path) -> None:
    rows = bench_rows(3, ["realistic"])
    broken = {**rows[0], "id": "broken", "RealCompo Layout From Boxes.prompt": "a yacht"}
    wrong = {**rows[0], "id": "wrong", f"{SAMPLER}.sampler_name": "none"}
    for row in (*rows, broken):
        row[f"{SAMPLER}.sampler_name"] = "euler"
    with InProcess(hostpack.host_path(), metrics=["oracle"]) as local:
        graph = demo_graph(local, "realcompo", 2)
        run(rows, graph, local, tmp_path / "local", progress=False)
    with Servers([server.url], ["oracle"]) as servers:
        assert demo_graph(servers, "realcompo", 2) == graph
        summary = run([*rows, broken, wrong], graph, servers, tmp_path / "server", progress=False)
    assert (summary.done, summary.failed) == (3, 2)
    here, there = table(tmp_path / "local"), table(tmp_path / "server")
    assert "node 19 (RealCompoDualSampler): RealCompo Dual Sampler" in there["broken"]["error"]
    assert "'none' is not one of" in there["wrong"]["error"]
    for name, row in here.items():
        assert there[name]["pixels_sha256"] == row["pixels_sha256"]
        assert there[name]["metric.iou"] == row["metric.iou"]
        one, other = (tmp_path / place / row["images"][0] for place in ("local", "server"))
        assert one.read_bytes() == other.read_bytes()
