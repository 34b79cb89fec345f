"""The page's sources: types, unit tests, and what random editing makes, read by the server."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from live_server import ROOT
from realcompo.balancer.layouts.editor_json import edited_layout
from realcompo.balancer.layouts.layout import Layout

NODE = shutil.which("node")
TSC = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
needs_node = pytest.mark.skipif(NODE is None, reason="no Node.js: install Node.js 20 or newer")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@needs_node
@pytest.mark.skipif(not TSC.is_file(), reason="no TypeScript: run `python dev.py page`")
def test_the_types_fit() -> None:
    result = _run(str(NODE), str(TSC), "-p", "tsconfig.json")
    assert result.returncode == 0, result.stdout + result.stderr


@needs_node
def test_state_and_geometry() -> None:
    result = _run(str(NODE), "--test", "--test-reporter=spec", "tests/js")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "pass 0" not in result.stdout and "fail 0" in result.stdout


@needs_node
def test_whatever_is_drawn_is_a_layout() -> None:
    result = _run(str(NODE), "tests/js/random_layouts.js", "20")
    assert result.returncode == 0, result.stderr
    texts = result.stdout.splitlines()
    layouts = [Layout.from_json(text) for text in texts]
    assert len(layouts) == 200
    assert sum(len(layout.regions) for layout in layouts) > 300
    assert any(region.mask is not None for layout in layouts for region in layout.regions)
    for text, layout in zip(texts, layouts, strict=True):
        assert edited_layout(text, "a prompt", 512, 512).regions == layout.regions
        # The editor's box of a painted region is the one that the mask gives here.
        for drawn, region in zip(_values(text), layout.regions, strict=True):
            assert drawn["box"] == pytest.approx(region.box, abs=1e-6)


def _values(text: str) -> list[dict[str, Any]]:
    return json.loads(text)["regions"]
