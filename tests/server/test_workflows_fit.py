"""Every example fits the node classes of the host: known classes, widgets in order, outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workflow_fit import misfits

from .examples import LOADERS, TRAINER, WORKFLOWS, older_trainer


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_fits_the_hosts_classes(path: Path, object_info: dict[str, Any]) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    found = misfits(workflow, object_info, LOADERS)
    if older_trainer(workflow, object_info):
        assert found and all(f"({TRAINER})" in line for line in found)
        notes = [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote"]
        assert any("Made for ComfyUI 0.33." in text for text in notes)
        pytest.skip(f"MADE FOR THE {TRAINER} OF COMFYUI 0.33, AS ITS NOTE SAYS: {found[0]}")
    assert found == []
