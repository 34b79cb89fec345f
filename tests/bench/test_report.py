"""Claims by known answers, the JSON field by field, the Markdown and the figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.pictures.palette import PALETTE
from realcompo.bench.figures import GAP, LABEL_WIDTH, contact_sheet, trade_off
from realcompo.bench.quality.claims import claims
from realcompo.bench.report import (
    Claim,
    as_document,
    commit,
    grouped,
    markdown_table,
    write_document,
)
from realcompo.bench.rows import GROUPS
from realcompo.bench.statistics import (
    DISTANCE,
    Bootstrap,
    Estimate,
    Gaussian,
    RowResult,
    summarise,
)

SCENES = 24
OBJECTS = np.random.default_rng(2).integers(1, 5, SCENES)
SPREAD = np.random.default_rng(3).normal(size=(SCENES, 2))
REFERENCES = {name: Gaussian(np.zeros(2), np.eye(2)) for name in ("realistic", "sketch", "neon")}


def row(
    method: str, right: float, style: float, shift: float = 1.0, count: float = 0.5,
    forwards: float = 60.0, target_style: str = "realistic",
) -> RowResult:  # fmt: skip
    """Scores that are the same in every scene, so that every figure is known exactly."""
    even = {name: np.full(SCENES, value) for name, value in (("style", style), ("count", count))}
    return RowResult(
        method, OBJECTS, {"right": right * OBJECTS, "colour": right * OBJECTS}, even,
        SPREAD + (shift, 0.0), forwards, 8.0, 0.25, target_style, {"rate": 0.123456789},
    )  # fmt: skip


def table() -> list[RowResult]:
    """At right .75 the fixed mixes have style .55 and the switches .45; ours has .66."""
    return [
        row("realism", 0.0, 0.8, 1.0), row("spatial", 1.0, 0.4, 9.0),
        row("fixed-0.50", 0.5, 0.7, 6.0, forwards=120), row("switch-0.20", 0.5, 0.5, 5.0),
        row("realcompo-equilibrium", 0.75, 0.66, 2.0, 0.95, 110),
        row("control", 0.70, 0.65, 2.0, 0.80, 120),
        row("realism-sketch", 0.0, 0.90, target_style="sketch"),
        row("style-sketch", 0.7, 0.90 * 0.97, target_style="sketch"),
        row("realism-neon", 0.0, 0.80, target_style="neon"),
        row("style-neon", 0.7, 0.80 * 0.96, target_style="neon"),
    ]  # fmt: skip


def told(rows: list[RowResult]) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims(Bootstrap(OBJECTS, REFERENCES, 40), rows)}


def test_claims_have_the_values_that_the_rows_were_made_for() -> None:
    found = told(table())
    known = {
        "equilibrium_over_switch": (0.66 - 0.45, 0.10, ">=", True),
        "equilibrium_over_fixed": (0.66 - 0.55, 0.08, ">=", True),
        "gradient_worth": (0.05, 0.06, ">=", False),
        "gradient_worth_count": (0.15, 0.10, ">=", True),
        "style_kept": (0.96, 0.95, ">=", True),
        "equilibrium_forwards": (-10.0, 0.0, "<=", True),
        "as_right_as_spatial": (-0.25, -0.03, ">=", False),
    }
    for name, (value, bar, direction, met) in known.items():
        claim = found[name]
        assert (claim.value, claim.bar, claim.direction, claim.met) == (
            pytest.approx(value), bar, direction, met)  # fmt: skip
        assert claim.low == claim.high == claim.value, "nothing varies between these scenes"
    # All rows have one cloud, moved: the distances' differences are those of the squared shifts,
    # up to the cross term of the cloud's own mean.
    mean = SPREAD.mean(0)[0]

    def distance(shift: float) -> float:
        return (shift + mean) ** 2

    for family, shift in (("switch", 5.0), ("fixed", 6.0)):
        claim = found[f"equilibrium_over_{family}_distance"]
        value = (distance(shift) + distance(9.0)) / 2 - distance(2.0)
        assert claim.value == pytest.approx(value, abs=1e-3)
        assert claim.bar == 0.0 and claim.met and claim.extra["metric"] == DISTANCE
    real = found["as_real_as_realism"]
    assert real.value == pytest.approx(distance(2.0) - distance(1.0), abs=1e-3) and not real.met
    distances = {f"equilibrium_over_{family}_distance" for family in ("switch", "fixed")}
    assert set(found) == {*known, *distances, "as_real_as_realism"}
    assert found["style_kept"].extra["ratios"]["sketch"]["mean"] == pytest.approx(0.97)
    for name in ("gradient_worth", "gradient_worth_count"):
        assert "either suffices" in found[name].extra["note"]
        assert found[name].extra["style_difference"]["mean"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("control", {"gradient_worth", "gradient_worth_count"}),
        ("switch-0.20", {"equilibrium_over_switch", "equilibrium_over_switch_distance"}),
        ("fixed-0.50", {"equilibrium_over_fixed", "equilibrium_over_fixed_distance",
                        "equilibrium_forwards"}),
        ("realism-neon", {"style_kept"}),
        ("realcompo-equilibrium", {
            "equilibrium_over_fixed", "equilibrium_over_fixed_distance", "equilibrium_forwards",
            "equilibrium_over_switch", "equilibrium_over_switch_distance", "gradient_worth",
            "gradient_worth_count", "as_right_as_spatial", "as_real_as_realism"}),
        ("style-neon", set()),
    ],
)  # fmt: skip
def test_a_claim_without_its_rows_is_left_out(missing: str, gone: set[str]) -> None:
    rows = [r for r in table() if r.method != missing]
    assert set(told(table())) - set(told(rows)) == gone


def test_the_worst_style_speaks_for_all() -> None:
    rows = [r for r in table() if r.method != "style-neon"]
    rows.append(row("style-neon", 0.7, 0.80 * 0.90, target_style="neon"))
    claim = told(rows)["style_kept"]
    assert claim.value == pytest.approx(0.90) and not claim.met


def test_beyond_the_curve_a_claim_is_told_as_undefined() -> None:
    rows = [r for r in table() if r.method != "spatial"]
    rows.append(row("spatial", 0.6, 0.4, 9.0))
    claim = told(rows)["equilibrium_over_switch"]
    assert (claim.value, claim.low, claim.high, claim.met) == (None, None, None, False)
    assert claim.extra["covered"] == 0.0


@pytest.mark.parametrize(
    ("estimate", "direction", "rule", "met"),
    [
        (Estimate(0.10, 0.01, 0.2), ">=", "interval", True),
        (Estimate(0.0999, 0.05, 0.2), ">=", "interval", False),
        (Estimate(0.30, -0.01, 0.5), ">=", "interval", False),
        (Estimate(0.30, 0.0, 0.5), ">=", "interval", False),
        (Estimate(0.30, -0.01, 0.5), ">=", "point", True),
        (Estimate(-0.30, -0.5, -0.1), "<=", "interval", True),
        (Estimate(-0.30, -0.5, 0.1), "<=", "interval", False),
        (Estimate(0.05, -0.5, 0.1), "<=", "point", True),
        (Estimate(0.11, -0.5, 0.2), "<=", "point", False),
        (Estimate(0.30, 0.1, 0.5, 0.97), ">=", "interval", False),
        (Estimate(0.30, 0.1, 0.5, 0.98), ">=", "interval", True),
        (Estimate(float("nan"), float("nan"), float("nan"), 0.0), ">=", "point", False),
        # judged as printed: this is 0.1 in the file
        (Estimate(0.09996, 0.05, 0.2), ">=", "interval", True),
        (Estimate(0.2, 0.00004, 0.3), ">=", "interval", False),
    ],
)
def test_when_a_claim_is_met(estimate: Estimate, direction: str, rule: str, met: bool) -> None:
    assert Claim.judged("x", estimate, 0.10, direction, rule).met is met


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        Claim.judged("x", Estimate(1, 1, 1), 0.0, ">")


def _floats(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [f for key, v in value.items() if key != "settings" for f in _floats(v)]
    if isinstance(value, list):
        return [f for v in value for f in _floats(v)]
    return [value] if isinstance(value, float) else []


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[RowResult], dict[str, Any]]:
    """The table's file, the rows in it, and what it says."""
    rows = table()
    rng = np.random.default_rng(0)
    rows[0].pictures["relation"] = np.where(np.arange(SCENES) % 2, rng.random(SCENES), np.nan)
    rows[1].pictures["relation"] = np.full(SCENES, np.nan)
    path = tmp_path / "results" / "quality.json"
    write(rows, path)
    return path, rows, json.loads(path.read_text(encoding="utf-8"))


def write(rows: list[RowResult], path: Path) -> None:
    bootstrap = Bootstrap(OBJECTS, REFERENCES, 40)
    figures = summarise(bootstrap, rows)
    decided = claims(bootstrap, rows)
    write_document(path, as_document(figures, decided, "python dev.py bench quality"))


def test_the_json_has_every_promised_field_of_rows(written) -> None:
    _, rows, document = written
    assert set(document) == {"command", "commit", "rows", "claims"}
    assert document["command"] == "python dev.py bench quality"
    assert document["commit"] == commit()
    assert [r["method"] for r in document["rows"]] == [r.method for r in rows]
    for given, source in zip(document["rows"], rows, strict=True):
        assert {"method", "scenes", "metrics", "forwards_per_image"} <= set(given)
        assert given["scenes"] == SCENES
        assert given["forwards_per_image"] == source.forwards_per_image
        assert given["settings"] == {"rate": 0.123456789}
        for value in given["metrics"].values():
            assert set(value) == {"mean", "low", "high"}
            assert all(isinstance(v, float) for v in value.values())
            assert value["low"] <= value["mean"] <= value["high"]
        assert given["metrics"]["right"]["mean"] == pytest.approx(
            source.hits["right"].sum() / OBJECTS.sum(), abs=5e-5)  # fmt: skip
    metrics = [set(r["metrics"]) for r in document["rows"]]
    assert metrics[0] == {"right", "colour", "count", "relation", DISTANCE, "style"}
    assert metrics[1] == metrics[0] - {"relation"}


def test_the_json_has_every_promised_field_of_claims(written) -> None:
    claimed = written[2]["claims"]
    assert len(claimed) == 10
    for claim in claimed:
        assert {"name", "value", "low", "high", "bar", "direction", "met"} <= set(claim)
        assert claim["direction"] in (">=", "<=") and isinstance(claim["met"], bool)
        reached = (claim["value"] - claim["bar"]) * (1 if claim["direction"] == ">=" else -1) >= 0
        assert reached or not claim["met"]


def test_the_same_figures_give_the_same_bytes_rounded_to_four_decimals(written) -> None:
    path, rows, document = written
    assert all(value == round(value, 4) for value in _floats(document))
    first = path.read_bytes()
    assert first.endswith(b"\n") and b"NaN" not in first and b"\r" not in first
    write(rows, path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["quality.json"]


def test_markdown_groups_rows_and_tells_intervals() -> None:
    rows = table()
    rows.insert(0, row("fixed-0.20", 0.8, 0.5))
    rows += [row("mask-switch-0.30", 0.6, 0.8), row("sepen", 0.5, 0.7), row("dense", 0.5, 0.7),
             row("ablation-no-prior", 0.6, 0.7)]  # fmt: skip
    bootstrap = Bootstrap(OBJECTS, REFERENCES, 40)
    figures, decided = summarise(bootstrap, rows), claims(bootstrap, rows)
    groups = grouped(figures, GROUPS)
    assert {name: [r.method for r in members] for name, members in groups.items()} == {
        "Models alone": ["realism", "spatial", "realism-sketch", "realism-neon"],
        "Fixed mixes": ["fixed-0.20", "fixed-0.50"],
        "Time switches": ["switch-0.20"],
        "Time switches inside the regions": ["mask-switch-0.30"],
        "RealCompo": ["realcompo-equilibrium", "control"],
        "Other realism models": ["style-sketch", "style-neon"],
        "One number of the equilibrium changed": ["ablation-no-prior"],
        "DenseDiffusion": ["dense"],
        "Other methods": ["sepen"],
    }
    text = markdown_table(figures, decided, GROUPS)
    assert text == markdown_table(figures, decided, GROUPS) and text.endswith("|\n")
    widths = {len(line.split("|")) for line in text.split("\n\n")[0].splitlines()}
    assert len(widths) == 1, "every line has the same number of cells"
    methods = re.findall(r"^\| `(\S+)` \|.* \d+ \| 8 \|$", text, re.MULTILINE)
    assert methods == [r.method for members in groups.values() for r in members]
    assert "| `realcompo-equilibrium` | 0.75 <sub>0.75-0.75</sub> |" in text
    assert "place" not in text, "a column that no row fills"
    assert "| `gradient_worth` | 0.050 | - | >= 0.06 | **no** |" in text
    varying = row("dense", 0.5, 0.7)
    varying.pictures["style"][: SCENES // 2] = 0.3
    varied = summarise(bootstrap, [varying])[0].metrics["style"]
    assert varied.low < 0.5 < varied.high
    assert f"0.50 <sub>{varied.low:.2f}-{varied.high:.2f}</sub>" in markdown_table(
        summarise(bootstrap, [varying]), [], GROUPS
    )


def test_a_contact_sheet_shows_every_picture_in_its_place(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [(name, torch.rand(3, 3, 128, 128, generator=generator)) for name in ("realism", "x")]
    box = (0.25, 0.25, 0.75, 0.75)
    layouts = [Layout((Region("a red star", box),)), Layout(()), Layout((Region("b", box),))]
    captions = ["a red star", "a caption that is so long that it must be broken twice", "b"]
    contact_sheet(rows, captions, layouts, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    top = sheet.shape[0] - 3 * (128 + GAP)
    assert sheet.shape[1] == LABEL_WIDTH + 3 * (128 + GAP) and top > 3 * 12
    for number, (_, pictures) in enumerate(rows, 1):
        for column in range(3):
            y, x = top + number * (128 + GAP), LABEL_WIDTH + column * (128 + GAP)
            shown = sheet[y : y + 128, x : x + 128]
            wanted = (pictures[column].movedim(0, -1) * 255).round().numpy()
            assert np.array_equal(shown, wanted)
    for column, drawn in enumerate((True, False, True)):
        corner = sheet[top + 32, LABEL_WIDTH + column * (128 + GAP) + 32]
        assert (tuple(corner) == PALETTE[0]) is drawn
    for number in range(3):
        label = sheet[top + number * (128 + GAP) : top + number * (128 + GAP) + 128, :LABEL_WIDTH]
        assert label.min() < 60, "the label is there, and dark"
    assert (sheet[-GAP:] == 255).all() and (sheet[:, -GAP:] == 255).all()


def test_a_contact_sheet_of_other_scenes_is_refused(tmp_path: Path) -> None:
    one = ("a", torch.zeros(2, 3, 64, 64))
    path = tmp_path / "sheet.png"
    with pytest.raises(ValueError, match="row 'b'"):
        contact_sheet([one, ("b", torch.zeros(3, 3, 64, 64))], ["x", "y"], [Layout(())] * 2, path)
    with pytest.raises(ValueError, match="1 layouts for 2 captions"):
        contact_sheet([one], ["x", "y"], [Layout(())], path)
    assert not path.exists()


def test_the_trade_off_shows_rows_of_one_style_and_their_intervals(tmp_path: Path) -> None:
    bootstrap = Bootstrap(OBJECTS, REFERENCES, 40)

    def drawn(name: str, rows: list[RowResult]) -> np.ndarray:
        trade_off(summarise(bootstrap, rows), tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            return np.asarray(image.convert("RGB")).astype(int)

    rows = table()
    whole = drawn("all", rows)
    assert whole.shape[1] >= 1200 and (whole[0] == 255).all()
    realistic = [r for r in rows if r.target_style == "realistic"]
    assert np.array_equal(whole, drawn("realistic", realistic)), "other styles have other scales"
    fewer = [r for r in rows if r.method != "realcompo-equilibrium"]
    assert not np.array_equal(whole, drawn("fewer", fewer))
    unsure = [r for r in rows if r.method != "control"]
    noisy = row("control", 0.70, 0.65, 2.0, 0.80, 120)
    # same mean, but scenes that differ: only the bars can tell
    noisy.pictures["style"][::2] += 0.2
    noisy.pictures["style"][1::2] -= 0.2
    assert not np.array_equal(whole, drawn("noisy", [*unsure[:5], noisy, *unsure[5:]]))
