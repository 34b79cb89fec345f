"""The spatial prediction in the realism model's colours, against loops written from the formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.background import match_background
from realcompo.balancer.realcompo.settings import BalancerSettings
from torch import Tensor


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(spatial: Tensor, realism: Tensor, outside: Tensor, amount: float) -> Tensor:
    result = spatial.clone()
    batch, channels, height, width = spatial.shape
    for b in range(batch):
        weights = outside[b if len(outside) > 1 else 0, 0]
        for c in range(channels):
            total = sum(float(weights[y, x]) for y in range(height) for x in range(width))
            gap = sum(
                float(weights[y, x] * (realism[b, c, y, x] - spatial[b, c, y, x]))
                for y in range(height)
                for x in range(width)
            )
            for y in range(height):
                for x in range(width):
                    result[b, c, y, x] += amount * float(weights[y, x]) * gap / total
    return result


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), each=st.booleans(), amount=st.floats(0.0, 1.0))
def test_it_is_the_formula(seed: int, each: bool, amount: float) -> None:
    spatial, realism = draw(seed, 2, 3, 4, 5), draw(seed + 1, 2, 3, 4, 5)
    outside = draw(seed + 2, 2 if each else 1, 1, 4, 5).sigmoid()
    found = match_background(spatial, realism, outside, amount)
    torch.testing.assert_close(found, literal(spatial, realism, outside, amount))


def test_means_outside_agree_and_regions_are_untouched() -> None:
    spatial, realism = draw(1, 2, 4, 6, 6), draw(2, 2, 4, 6, 6) + 3.0
    outside = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    outside[..., 1:4, 2:5] = 0.0
    found = match_background(spatial, realism, outside, 1.0)
    where = outside[0, 0].bool()
    torch.testing.assert_close(found[..., where].mean(-1), realism[..., where].mean(-1))
    assert torch.equal(found[..., ~where], spatial[..., ~where])
    # the same offset at all positions: what stands where is still the spatial model's
    offset = (found - spatial)[..., where]
    torch.testing.assert_close(offset, offset[..., :1].expand_as(offset))


def test_a_layout_that_covers_everything_changes_nothing() -> None:
    spatial, realism = draw(3, 1, 4, 6, 6).float(), draw(4, 1, 4, 6, 6).float()
    assert torch.equal(match_background(spatial, realism, torch.zeros(1, 1, 6, 6), 1.0), spatial)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_the_setting_is_a_share(amount: float) -> None:
    with pytest.raises(RealCompoError, match="match_background"):
        BalancerSettings(match_background=amount)
