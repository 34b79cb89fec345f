"""Layouts of a batch as tensors: one for all samples, or one for each."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.attention.maps import inside_share, token_weights
from realcompo.balancer.attention.regions import LayoutBatch
from realcompo.balancer.layouts.grid import region_grid
from realcompo.balancer.layouts.layout import Layout, Region

BOX = (0.25, 0.25, 0.75, 0.75)
ONE = Layout((Region("a cat", BOX, weight=2.0),))
TWO = Layout((Region("a dog", (0.0, 0.0, 0.5, 1.0)), Region("a bird", (0.5, 0.0, 1.0, 0.5))))
TOKENS = (((1, 2),), ((1,), (3, 4)))


def test_one_layout_has_no_batch_dimension() -> None:
    regions = LayoutBatch.of(TWO, TOKENS[1])
    assert torch.equal(regions.grid(4, 6), region_grid(TWO, 4, 6))
    assert torch.equal(regions.token_weights(7), token_weights(TOKENS[1], 7))
    assert regions.weights().tolist() == [1.0, 1.0]
    assert regions.coverage(4, 4).shape == (1, 1, 4, 4)


def test_several_layouts_are_filled_up_with_nothing() -> None:
    regions = LayoutBatch.of([ONE, TWO], TOKENS)
    assert regions.count == 2
    grid = regions.grid(4, 4)
    assert grid.shape == (2, 2, 4, 4)
    assert torch.equal(grid[0, :1], region_grid(ONE, 4, 4)) and not grid[0, 1].any()
    assert torch.equal(grid[1], region_grid(TWO, 4, 4))
    assert regions.weights().tolist() == [[2.0, 0.0], [1.0, 1.0]]
    words = regions.token_weights(6)
    assert words.shape == (2, 6, 2) and not words[0, :, 1].any()
    assert torch.equal(words[1], token_weights(TOKENS[1], 6))


def test_coverage_is_the_largest_share_of_any_region() -> None:
    cover = LayoutBatch.of([ONE, TWO], TOKENS).coverage(8, 8)
    assert cover.shape == (2, 1, 8, 8)
    for sample, layout in enumerate((ONE, TWO)):
        expected = region_grid(layout, 8, 8, soft=True).amax(0)
        assert torch.equal(cover[sample, 0], expected)
    assert not LayoutBatch.of(Layout(()), ()).coverage(4, 4).any()


def test_what_fills_up_takes_no_share() -> None:
    regions = LayoutBatch.of([ONE, TWO], TOKENS)
    attention = torch.rand(2, 16, 6)
    maps = (attention @ regions.token_weights(6)).transpose(1, 2).reshape(2, 2, 4, 4)
    shares = inside_share(maps, regions.grid(4, 4))
    assert shares[0, 1] == 0 and (shares[1] > 0).all()
    alone = LayoutBatch.of(ONE, TOKENS[0])
    maps = (attention[:1] @ alone.token_weights(6)).transpose(1, 2).reshape(1, 1, 4, 4)
    torch.testing.assert_close(inside_share(maps, alone.grid(4, 4))[0, 0], shares[0, 0])


def test_areas_show_a_part() -> None:
    part = LayoutBatch.of([ONE, TWO], TOKENS).grid(4, 2, (4, 2, 0, 2), full=(4, 4))
    assert torch.equal(part, LayoutBatch.of([ONE, TWO], TOKENS).grid(4, 4)[..., 2:])


@pytest.mark.parametrize(("layouts", "tokens"), [([], []), ([ONE, TWO], TOKENS[:1])])
def test_sequences_must_fit(layouts: list[Layout], tokens: list) -> None:
    with pytest.raises(ValueError, match="layouts"):
        LayoutBatch.of(layouts, tokens)
