"""The committed table is of the present methods and settings, and the README quotes it rightly."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("comfy", reason="the table's rows need ComfyUI's modules")

from realcompo.bench.pictures import STEPS  # noqa: E402
from realcompo.bench.quality.main import SCENES  # noqa: E402
from realcompo.bench.rows import table  # noqa: E402

from .results import check_rows, committed_rows, quoted  # noqa: E402

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


def test_the_table_is_whole_and_of_the_present_settings() -> None:
    check_rows(committed_rows("quality"), table(STEPS), SCENES)


def test_the_readme_quotes_the_table() -> None:
    rows, shown = committed_rows("quality"), quoted(QUOTED)
    assert shown.keys() == QUOTED.keys()
    for name, cells in shown.items():
        method = QUOTED[name]
        figures = rows[method]["metrics"]
        expected = [
            re.sub(r"^0\.", ".", f"{figures[name]['mean']:.{digits}f}")
            for name, digits in DIGITS.items()
        ]
        assert cells == [*expected, f"{rows[method]['forwards_per_image']:.0f}"], method
