"""Maps, token averages, shares and the loss, against hand-made cases."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.attention.losses import realcompo_loss
from realcompo.balancer.attention.maps import (
    RegionMaps,
    attention_output,
    attention_probabilities,
    inside_share,
    token_weights,
)
from realcompo.balancer.layouts.grid import region_grid
from realcompo.balancer.layouts.layout import Layout, Region
from torch.nn import functional


def random_attention(dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 12, 16, generator=generator, dtype=dtype)
    key = torch.randn(2, 9, 16, generator=generator, dtype=dtype)
    value = torch.randn(2, 9, 16, generator=generator, dtype=dtype)
    return query, key, value


def test_maps_are_the_attention_that_torch_computes() -> None:
    query, key, value = random_attention()
    maps = attention_probabilities(query, key, heads=4)
    assert maps.shape == (2, 4, 12, 9)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 12))
    heads = [t.unflatten(-1, (4, 4)).transpose(1, 2) for t in (query, key, value)]
    expected = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention_output(maps, value), expected)


def test_half_precision_maps_come_out_in_float32() -> None:
    query, key, _ = random_attention()
    maps = attention_probabilities(query.half(), key.half(), heads=4)
    assert maps.dtype == torch.float32


def test_token_weights_average_each_phrase() -> None:
    weights = token_weights([[1, 3], [2]], 5)
    expected = torch.tensor([[0, 0], [0.5, 0], [0, 1], [0.5, 0], [0, 0]])
    assert torch.equal(weights, expected)


def test_mean_over_heads_and_sites_comes_before_the_ratio() -> None:
    """Two sites whose shares are 1 and 0 with masses 1 and 3: ratio of means 1/4, not 1/2."""
    maps = RegionMaps(token_weights([[0]], 2))
    first, second = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2)
    first[..., 0, 0], second[..., 3, 0] = 0.2, 0.6
    maps.add(first, 2, 2)
    maps.add(second, 2, 2)
    assert maps.sites == 2
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(inside_share(maps.mean(), mask), torch.tensor([[0.25]]))


def test_a_site_of_another_size_is_brought_to_the_firsts() -> None:
    maps = RegionMaps(token_weights([[0]], 1))
    maps.add(torch.ones(1, 1, 16, 1), 4, 4)
    maps.add(3 * torch.ones(1, 1, 4, 1), 2, 2)
    torch.testing.assert_close(maps.mean(), 2 * torch.ones(1, 1, 4, 4))


def test_tokens_that_another_pack_appends_name_no_region() -> None:
    maps = RegionMaps(token_weights([[1]], 2))
    probabilities = torch.rand(1, 2, 4, 5)
    maps.add(probabilities, 2, 2)
    expected = probabilities[..., 1].mean(dim=1).view(1, 1, 2, 2)
    torch.testing.assert_close(maps.mean(), expected)


def test_no_site_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no cross-attention"):
        RegionMaps(token_weights([[0]], 1)).mean()


def test_full_box_has_no_loss_and_no_gradient() -> None:
    maps = torch.rand(2, 1, 8, 8, requires_grad=True)
    masks = region_grid(Layout((Region("all", (0.0, 0.0, 1.0, 1.0)),)), 8, 8)
    loss = realcompo_loss(inside_share(maps, masks))
    torch.testing.assert_close(loss, torch.zeros(2), atol=1e-6, rtol=0)
    loss.sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() < 1e-6


def test_a_mask_of_zeros_has_loss_one_and_no_gradient() -> None:
    maps = torch.rand(1, 1, 8, 8, requires_grad=True)
    loss = realcompo_loss(inside_share(maps, torch.zeros(1, 8, 8)))
    assert loss.item() == 1.0
    loss.sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() == 0


def test_a_map_that_underflowed_is_no_division_by_zero() -> None:
    maps = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = realcompo_loss(inside_share(maps, torch.ones(1, 4, 4)))
    loss.sum().backward()
    assert loss.item() == 1.0
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.5, 0.25), (0.5, 0.25, 1.0, 0.75)])
def test_the_grid_does_not_change_the_share(box) -> None:
    """16 and 32 cells agree on a map that is the same picture (guards boxes on a wrong grid)."""
    layout = Layout((Region("thing", box),))
    coarse = torch.rand(1, 1, 16, 16)
    fine = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(
        inside_share(coarse, region_grid(layout, 16, 16)),
        inside_share(fine, region_grid(layout, 32, 32)),
    )


def test_loss_is_a_sum_over_regions_with_weights() -> None:
    shares = torch.tensor([[0.25, 1.0], [0.0, 0.5]])
    torch.testing.assert_close(realcompo_loss(shares), torch.tensor([0.75, 1.5]))
    weighted = realcompo_loss(shares, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(weighted, torch.tensor([1.5, 2.5]))
