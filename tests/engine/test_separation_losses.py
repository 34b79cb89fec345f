"""Separate and Enhance losses against loops written from the formulas."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from realcompo.balancer.attention.losses import enhance_loss, peak_of, separate_loss, smooth
from realcompo.balancer.attention.maps import HeadMaps, token_weights
from torch import Tensor


def some_maps(
    batch: int = 2, heads: int = 3, count: int = 2, side: int = 5, seed: int = 0
) -> Tensor:
    """Maps of one softmax over more tokens than objects."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(batch, heads, count + 4, side, side, generator=generator).double()
    return scores.softmax(dim=2)[:, :, :count]


def slow_separate(maps: Tensor, form: str) -> list[float]:
    """max over heads and positions of prod / sum, or its mean over pairs, position by position."""
    result = []
    for sample in maps:
        heads, count, height, width = sample.shape
        groups = list(combinations(range(count), 2)) if form == "pairwise" else [range(count)]
        peaks = []
        for group in groups:
            best = 0.0
            for h in range(heads):
                for y in range(height):
                    for x in range(width):
                        values = [float(sample[h, k, y, x]) for k in group]
                        best = max(best, math.prod(values) / sum(values))
            peaks.append(best)
        result.append(sum(peaks) / len(peaks))
    return result


def slow_enhance(maps: Tensor) -> list[float]:
    """1 - min over objects of the peak of the smoothed map; kernel exp(-(x / (2 * 0.5))^2)."""
    kernel = [
        [math.exp(-((x / 1.0) ** 2) - (y / 1.0) ** 2) for x in (-1, 0, 1)] for y in (-1, 0, 1)
    ]
    total = sum(map(sum, kernel))
    result = []
    for sample in maps:
        heads, count, height, width = sample.shape
        peaks = []
        for k in range(count):
            best = 0.0
            for h in range(heads):
                for y in range(height):
                    for x in range(width):
                        value = 0.0
                        for dy in (-1, 0, 1):
                            for dx in (-1, 0, 1):
                                # reflection without repeating the edge
                                row = abs(y + dy) if y + dy < height else 2 * height - 2 - y - dy
                                column = abs(x + dx) if x + dx < width else 2 * width - 2 - x - dx
                                weight = kernel[dy + 1][dx + 1] / total
                                value += weight * float(sample[h, k, row, column])
                        best = max(best, value)
            peaks.append(best)
        result.append(1.0 - min(peaks))
    return result


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("form", ["pairwise", "product"])
def test_separate_is_the_formula(count: int, form: str) -> None:
    maps = some_maps(count=count)
    assert separate_loss(maps, form).tolist() == pytest.approx(slow_separate(maps, form), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_enhance_is_the_formula(count: int) -> None:
    maps = some_maps(count=count)
    assert enhance_loss(maps).tolist() == pytest.approx(slow_enhance(maps), rel=1e-5)


def test_kernel_is_the_released_one() -> None:
    impulse = torch.zeros(5, 5)
    impulse[2, 2] = 1.0
    expected = [[0.045, 0.122, 0.045], [0.122, 0.332, 0.122], [0.045, 0.122, 0.045]]
    torch.testing.assert_close(
        smooth(impulse)[1:4, 1:4], torch.tensor(expected), atol=5e-4, rtol=0.0
    )


def test_bounds_are_reached() -> None:
    half = torch.full((1, 1, 2, 3, 3), 0.5)
    assert separate_loss(half).item() == pytest.approx(0.25)
    apart = torch.zeros(1, 1, 2, 4, 4)
    apart[0, 0, 0, 0, 0] = apart[0, 0, 1, 3, 3] = 1.0
    assert separate_loss(apart).item() == 0.0
    assert enhance_loss(torch.ones(1, 1, 2, 3, 3)).item() == pytest.approx(0.0, abs=1e-6)
    assert enhance_loss(torch.zeros(1, 1, 2, 3, 3)).item() == 1.0


def test_maps_that_vanish_give_numbers_and_gradients() -> None:
    for dtype in (torch.float16, torch.float32):
        maps = torch.zeros(1, 2, 2, 4, 4, dtype=dtype, requires_grad=True)
        loss = separate_loss(maps).sum() + enhance_loss(maps).sum()
        (gradient,) = torch.autograd.grad(loss, maps)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_one_object_has_nothing_to_be_separated_from() -> None:
    maps = some_maps(count=1).requires_grad_(True)
    loss = separate_loss(maps)
    assert loss.tolist() == [0.0, 0.0]
    torch.autograd.grad(loss.sum(), maps)


def test_hard_peak_gives_one_position_of_one_head_the_gradient() -> None:
    maps = some_maps(batch=1, count=2).float().requires_grad_(True)
    (gradient,) = torch.autograd.grad(separate_loss(maps).sum(), maps)
    assert (gradient[0, :, 0] != 0).sum() == 1 and (gradient[0, :, 1] != 0).sum() == 1
    (gradient,) = torch.autograd.grad(separate_loss(maps, peak="soft").sum(), maps)
    assert (gradient[0, :, 0] != 0).sum() > 1


def test_soft_peak_lies_below_the_hard_one_and_near_it() -> None:
    values = some_maps(count=2).movedim(2, 1)
    hard, soft = peak_of(values, "max"), peak_of(values, "soft")
    assert (soft <= hard + 1e-9).all()
    assert (soft > 0.6 * hard).all()


@pytest.mark.parametrize("loss, name", [("form", "all"), ("peak", "top")])
def test_unknown_names_are_refused(loss: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        separate_loss(some_maps(), **{loss: name})


def test_head_maps_keep_heads_apart_and_average_sites() -> None:
    generator = torch.Generator().manual_seed(2)
    sites = [torch.randn(2, 3, 12, 7, generator=generator).softmax(-1) for _ in range(2)]
    tokens = [((1, 2), (4,)), ((3,), (5, 6))]
    weights = torch.stack([token_weights(spans, 7) for spans in tokens])
    maps = HeadMaps(weights)
    for site in sites:
        maps.add(site, 3, 4)
    assert maps.total is not None and maps.total.shape == (2, 3, 2, 3, 4)
    for sample, spans in enumerate(tokens):
        for region, span in enumerate(spans):
            expected = sum(site[sample][..., list(span)].mean(-1) for site in sites)
            assert isinstance(expected, Tensor)
            torch.testing.assert_close(
                maps.total[sample, :, region].flatten(1), expected, atol=1e-6, rtol=1e-5
            )
