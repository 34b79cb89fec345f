"""Sheets of maps: the right map in the right cell, regions outlined, shares readable."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.attention.report import Column, Reading, SiteMap, columns_of, parse_levels
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.pictures.attention import cell_size, draw_reading, phrase_masks
from realcompo.balancer.pictures.layout import paint_region
from realcompo.balancer.pictures.mix import draw_mix
from realcompo.balancer.pictures.overlay import GAP, Cell, coloured, draw_sheet, heat_over
from realcompo.balancer.pictures.palette import PALETTE
from realcompo.balancer.realcompo.trace import StepRecord, Trace

LAYOUT = Layout((Region("a star", (0.0, 0.0, 0.5, 0.5)), Region("a cube", (0.5, 0.5, 1, 1))))


def reading(samples: int = 2) -> Reading:
    maps = torch.zeros(samples, 2, 8, 8)
    maps[:, 0, :4, :4] = 0.02  # all of it in place
    maps[:, 1, :4, :4] = 0.01  # none
    columns = columns_of(
        (SiteMap("input 7", 0, maps), SiteMap("middle", 0, maps)), "blocks", LAYOUT
    )
    return Reading((0.2, 0.8), (5.0, 0.5), (columns, columns))


def test_shares_and_their_summary() -> None:
    made = reading()
    assert made.columns[0][0].shares.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    summary = made.summary(LAYOUT, 1)
    assert summary["levels"][1]["sites"]["middle"] == [  # type: ignore[index]
        {"phrase": "a star", "share": 1.0}, {"phrase": "a cube", "share": 0.0},
    ]  # fmt: skip


def test_a_sheet_has_a_row_per_phrase_and_a_column_per_look_and_site() -> None:
    sheets = draw_reading(reading(), LAYOUT, (128, 96))
    width, height = cell_size(4, 128, 96)
    assert (width, height) == (384, 288)
    assert sheets.shape[0] == 2 and sheets.shape[2] == 4 * width + 5 * GAP
    line = (sheets.shape[1] - 2 * height - 3 * GAP) // 2
    first = sheets[0, GAP + line : GAP + line + height, GAP : GAP + width]
    inner = first[20 : height // 2 - 20, 20 : width // 2 - 20].mean()
    assert float(inner) > float(first[height // 2 + 20 :, width // 2 + 20 :].mean()) + 0.2


def test_the_heat_is_where_the_map_is_and_the_rim_is_the_regions() -> None:
    values = torch.zeros(4, 4)
    values[3, 0] = 1e-5
    picture = heat_over(torch.full((64, 64, 3), 0.5), values)
    assert float(picture[60, 4].sum()) > float(picture[4, 60].sum()) + 0.5
    canvas = torch.zeros(64, 64, 3)
    paint_region(canvas, LAYOUT.regions[1], 1)
    colour = torch.tensor(PALETTE[1]) / 255.0
    for row, column in ((32, 40), (63, 40), (40, 32), (40, 63)):
        assert torch.equal(canvas[row, column], colour)
    assert float(canvas[48, 48].sum()) == 0.0 and float(canvas[30, 40].sum()) == 0.0


def test_phrase_masks_have_their_peak_at_one() -> None:
    masks = phrase_masks(reading(3), 40, 24)
    assert masks.shape == (6, 24, 40)
    assert masks.amax(dim=(-2, -1)).tolist() == pytest.approx([1.0] * 6)
    assert float(masks[0, 18:, 30:].max()) == 0.0


def test_levels_in_words() -> None:
    assert parse_levels("0.2, .5;1 0") == (0.2, 0.5, 1.0, 0.0)
    for text in ("", "a", "0.2 1.5", "-0.1", "nan"):
        with pytest.raises(RealCompoError, match="noise_levels"):
            parse_levels(text)
    with pytest.raises(RealCompoError, match="17 noise levels"):
        parse_levels("0.5 " * 17)


def test_grouping_is_by_block() -> None:
    sites = [SiteMap("input 4", n, torch.full((1, 2, 4, 4), float(n))) for n in range(3)]
    (block,) = columns_of(sites, "blocks", LAYOUT)
    assert isinstance(block, Column) and block.name == "input 4"
    assert float(block.maps.mean()) == 1.0
    names = [column.name for column in columns_of(sites, "layers", LAYOUT)]
    assert names == ["input 4.0", "input 4.1", "input 4.2"]


def trace(steps: int = 6) -> Trace:
    made = Trace()
    for step in range(steps):
        mix = torch.full((2, 1, 8, 16), step / (steps - 1))
        mix[1] = 1.0 - mix[1]
        made.steps.append(StepRecord(step, 9.0 - step, "mix", mix))
    return made


def test_a_chosen_step_of_a_chosen_sample() -> None:
    low, high = coloured(torch.zeros(1, 1), 1, 1, "cividis"), coloured(
        torch.ones(1, 1), 1, 1, "cividis"
    )  # fmt: skip
    for step, sample, colour in ((1, 0, low), (6, 0, high), (1, 1, high)):
        picture = draw_mix(trace(), step=step, side=128, sample=sample)[0]
        assert torch.allclose(picture[-GAP - 20, GAP + 40], colour[0, 0], atol=2 / 255)


def test_several_steps_are_spread_over_the_run() -> None:
    sheet = draw_mix(trace(30), maps=6, columns=3, side=128)
    assert sheet.shape[2] == 3 * 128 + 4 * GAP
    one = draw_mix(trace(30), maps=100, columns=100, side=64)
    assert one.shape[2] == 30 * 64 + 31 * GAP


def test_over_a_picture_with_regions() -> None:
    image = torch.rand(2, 48, 96, 3)
    plain = draw_mix(trace(), step=3, side=96, image=image)
    marked = draw_mix(trace(), step=3, side=96, image=image, layout=LAYOUT)
    assert plain.shape == marked.shape and not torch.equal(plain, marked)
    assert not torch.equal(plain, draw_mix(trace(), step=3, side=96, image=1 - image))


def test_steps_and_samples_that_are_not_there() -> None:
    with pytest.raises(RealCompoError, match="no step 7. Use 1 to 6, or 0"):
        draw_mix(trace(), step=7)
    with pytest.raises(RealCompoError, match="no sample 2"):
        draw_mix(trace(), sample=2)
    with pytest.raises(RealCompoError, match="nothing was sampled yet"):
        draw_mix(Trace())
    with pytest.raises(RealCompoError, match="backdrop has the shape"):
        draw_mix(trace(), image=torch.zeros(3))


def test_captions_are_cut_to_their_cells() -> None:
    cell = Cell(torch.zeros(32, 64, 3), "a very long caption " * 20, (255, 0, 0))
    sheet = draw_sheet([cell, cell], 2, "title " * 40)
    assert sheet.shape[2] == 2 * 64 + 3 * GAP
    assert float(sheet[0, :, -GAP:].min()) == 1.0
