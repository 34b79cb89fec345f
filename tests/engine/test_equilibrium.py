"""The balancer's algebra: closed form, composition, schedule, phases, update rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.balancer import (
    Balancer,
    Phase,
    logit_gradient,
    probe_latent,
    smooth,
)
from realcompo.balancer.realcompo.settings import (
    DEFAULT_PRESET,
    PRESETS,
    BalancerSettings,
    plain_settings,
    preset,
)
from torch import Tensor

PLAIN = {
    "normalize_rate": False, "memory": 1.0, "smoothing": 0, "initial_mix": 0.5,
    "region_prior": 0.0, "end": 1.0, "every": 1,
}  # fmt: skip


def balancer(batch: int = 2, size: int = 6, **changes) -> Balancer:
    chosen = plain_settings(**{**PLAIN, **changes})
    return Balancer(chosen, batch, torch.zeros(1, 1, size, size))


def loss_of(latent: Tensor) -> Tensor:
    """Some smooth function with a different gradient everywhere."""
    weights = torch.linspace(-1, 1, latent[0].numel(), dtype=latent.dtype).view_as(latent[0])
    return (torch.sin(latent) * weights + 0.1 * latent**2).flatten(1).sum(1)


def two_map_gradient(
    coe: tuple[Tensor, Tensor], x: Tensor, realism: Tensor, spatial: Tensor, sigma: float,
    sigma_next: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Eq. 2, 3, 12 and autograd through all of it, with two coefficient maps."""
    maps = [c.clone().requires_grad_(True) for c in coe]
    share = torch.softmax(torch.stack(maps), dim=0)
    eps = share[0] * (x - realism) / sigma + share[1] * (x - spatial) / sigma
    latent = x + (sigma_next - sigma) * eps
    first, second = torch.autograd.grad(loss_of(latent).sum(), maps)
    return first, second


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    sigma=st.floats(0.05, 15.0),
    part=st.floats(0.0, 0.99),
    spread=st.floats(0.0, 6.0),
)
def test_closed_form_is_autograds_and_antisymmetric(seed, sigma, part, spread) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, realism, spatial = (draw(2, 4, 5, 6) for _ in range(3))
    coe = spread * draw(2, 1, 5, 6), spread * draw(2, 1, 5, 6)
    to_text, to_spatial = two_map_gradient(coe, x, realism, spatial, sigma, part * sigma)
    mix = torch.sigmoid(coe[0] - coe[1])
    latent = probe_latent(x, mix * realism + (1 - mix) * spatial, sigma, part * sigma)
    latent = latent.requires_grad_(True)
    (outer,) = torch.autograd.grad(loss_of(latent).sum(), latent)
    closed = logit_gradient(outer, realism, spatial, mix, sigma, part * sigma)
    torch.testing.assert_close(closed, to_text, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(closed, -to_spatial, rtol=1e-9, atol=1e-12)


def test_closed_form_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    x, realism, spatial = (
        torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    logits = torch.randn(1, 1, 4, 4, generator=generator, dtype=torch.float64)

    def loss(d: Tensor) -> Tensor:
        mix = torch.sigmoid(d)
        return loss_of(probe_latent(x, mix * realism + (1 - mix) * spatial, 2.0, 1.5)).sum()

    mix = torch.sigmoid(logits)
    latent = probe_latent(x, mix * realism + (1 - mix) * spatial, 2.0, 1.5).requires_grad_(True)
    (outer,) = torch.autograd.grad(loss_of(latent).sum(), latent)
    closed = logit_gradient(outer, realism, spatial, mix, 2.0, 1.5)
    for row in range(4):
        step = torch.zeros_like(logits)
        step[0, 0, row, 1] = 1e-5
        slope = (loss(logits + step) - loss(logits - step)) / 2e-5
        assert float(slope) == pytest.approx(float(closed[0, 0, row, 1]), rel=1e-6)


def test_probe_step_is_ddim() -> None:
    """z' = sqrt(abar') x0 + sqrt(1 - abar') eps in the variance-preserving form."""
    sigma, sigma_next = 3.0, 2.0
    x, denoised = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    abar, after = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
    z, eps = x * math.sqrt(abar), (x - denoised) / sigma
    clean = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    expected = math.sqrt(after) * clean + math.sqrt(1 - after) * eps
    probe = probe_latent(x, denoised, sigma, sigma_next)
    torch.testing.assert_close(probe * math.sqrt(after), expected)


def test_step_factor_of_the_sd_schedule() -> None:
    """k_t of Stable Diffusion at 50 steps: -0.123 at t=981, -0.049 at t=381, -0.012 at t=1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    for time, before, expected in ((981, 961, -0.123), (381, 361, -0.049), (1, 0, -0.012)):
        now, after = float(abar[time]), float(abar[before])
        sigma, sigma_next = math.sqrt(1 / now - 1), math.sqrt(1 / after - 1)
        assert math.sqrt(after) * (sigma_next - sigma) == pytest.approx(expected, abs=6e-4)


def test_mixing_commutes_with_guidance() -> None:
    a, b, c, d = torch.randn(4, 1, 4, 5, 5).unbind()
    mix, scale = torch.rand(1, 1, 5, 5), 7.5

    def guide(positive: Tensor, negative: Tensor) -> Tensor:
        return negative + scale * (positive - negative)

    first = mix * guide(a, b) + (1 - mix) * guide(c, d)
    second = guide(mix * a + (1 - mix) * c, mix * b + (1 - mix) * d)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_logits_at_the_ends_and_in_the_middle() -> None:
    assert torch.equal(balancer().mix(1.0), torch.full((2, 1, 6, 6), 0.5))
    assert torch.equal(balancer(initial_mix=1.0).mix(1.0), torch.ones(2, 1, 6, 6))
    assert torch.equal(balancer(initial_mix=0.0).mix(1.0), torch.zeros(2, 1, 6, 6))
    torch.testing.assert_close(balancer(initial_mix=0.88).mix(1.0), torch.full((2, 1, 6, 6), 0.88))


def test_paper_update_accumulates_twice_the_rate() -> None:
    one = balancer(rate=3.0, rate_end=3.0)
    gradient = torch.randn(2, 1, 6, 6)
    for count in (1, 2):
        one.restart(1.0)
        one.update(gradient, torch.ones(2), part=0.0)
        torch.testing.assert_close(one.logits(1.0), -2 * 3.0 * count * gradient)


def test_no_memory_starts_afresh() -> None:
    one = balancer(rate=3.0, rate_end=3.0, memory=0.0)
    first, second = torch.randn(2, 2, 1, 6, 6).unbind()
    one.update(first, torch.ones(2), part=0.0)
    torch.testing.assert_close(one.restart(1.0), torch.zeros(2, 1, 6, 6))
    one.update(second, torch.ones(2), part=0.0)
    torch.testing.assert_close(one.logits(1.0), -6.0 * second)


def test_normalised_step_has_the_size_of_the_rate_and_of_what_is_left() -> None:
    one = balancer(rate=4.0, rate_end=4.0, normalize_rate=True)
    gradient = torch.randn(2, 1, 6, 6) * torch.tensor([1e-7, 1e3]).view(2, 1, 1, 1)
    one.update(gradient, torch.tensor([0.5, 0.25]), part=0.0)
    size = one.logits(1.0).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(size, torch.tensor([2.0, 1.0]))
    assert (one.logits(1.0) * gradient).sum() < 0


def test_a_gradient_of_zero_moves_nothing() -> None:
    one = balancer(rate=4.0, rate_end=4.0, normalize_rate=True)
    one.update(torch.zeros(2, 1, 6, 6), torch.ones(2), part=0.0)
    assert torch.equal(one.logits(1.0), torch.zeros(2, 1, 6, 6))


def test_samples_do_not_see_each_other() -> None:
    gradient = torch.randn(3, 1, 6, 6)
    batch = balancer(batch=3, rate=2.0, normalize_rate=True, smoothing=3)
    batch.update(gradient, torch.tensor([1.0, 0.5, 0.2]), part=0.0)
    for index, left in enumerate((1.0, 0.5, 0.2)):
        alone = balancer(batch=1, rate=2.0, normalize_rate=True, smoothing=3)
        alone.update(gradient[index : index + 1], torch.tensor([left]), part=0.0)
        torch.testing.assert_close(alone.logits(1.0), batch.logits(1.0)[index : index + 1])


def test_phases() -> None:
    one = Balancer(
        plain_settings(**{**PLAIN, "spatial_only": 0.2, "every": 2}), 1,
        torch.zeros(1, 1, 4, 4), window=(8.0, 3.0), alone=(8.7, 0.0),
    )  # fmt: skip
    sigmas = [10.0, 9.0, 8.5, 8.0, 7.0, 6.0, 5.0, 3.0, 2.0, 1.0]
    s, b, m = Phase.SPATIAL, Phase.BALANCE, Phase.MIX
    found = [one.phase(step, sigma) for step, sigma in enumerate(sigmas)]
    assert found == [s, s, m, b, m, b, m, b, m, m]


def test_the_realism_model_ends_alone() -> None:
    chosen = plain_settings(**{**PLAIN, "spatial_only": 0.3, "realism_only": 0.5})
    spatial, both, realism = [Phase.SPATIAL] * 3, [Phase.BALANCE] * 2, [Phase.REALISM] * 5
    sigmas = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]

    def phases(sigmas: list[float]) -> list[Phase]:
        one = Balancer(chosen, 1, torch.zeros(1, 1, 4, 4), alone=(7.0, 5.0))
        return [one.phase(step, sigma) for step, sigma in enumerate(sigmas)]

    assert phases(sigmas) == spatial + both + realism
    # wherever a run is cut, its parts do what the whole does there
    for cut in range(1, 10):
        assert phases(sigmas[:cut]) + phases(sigmas[cut:]) == spatial + both + realism
    # noise levels come through logarithms: a border is not missed by a rounding
    assert phases([s * (1.0 + 1e-6) for s in sigmas]) == spatial + both + realism
    with pytest.raises(RealCompoError, match="realism_only"):
        plain_settings(spatial_only=0.6, realism_only=0.5)


def test_no_share_is_no_step() -> None:
    one = Balancer(plain_settings(**PLAIN), 1, torch.zeros(1, 1, 4, 4))
    assert one.phase(0, 1e-6) is Phase.BALANCE
    assert one.phase(1, 0.0) is Phase.MIX


def test_fixed_never_balances_but_keeps_the_prior() -> None:
    coverage = torch.zeros(1, 1, 4, 4)
    coverage[..., :2] = 1.0
    chosen = plain_settings(mode="fixed", initial_mix=0.5, region_prior=3.0, prior_until=0.3)
    one = Balancer(chosen, 1, coverage, prior_sigma=2.0)
    assert {one.phase(step, 5.0) for step in range(10)} == {Phase.MIX}
    assert one.constant_mix(5.0) is None
    assert one.constant_mix(2.0) == 0.5
    low = 1 / (1 + math.exp(3.0))
    torch.testing.assert_close(one.mix(5.0)[0, 0, 0], torch.tensor([low, low, 0.5, 0.5]))


def test_rates_fall_as_the_released_code_has_them() -> None:
    official = PRESETS["official"]
    expected = 1e6 * torch.linspace(1.0, 0.5, 50, dtype=torch.float64).sqrt()
    rates = torch.tensor([official.rate_at(n / 49) for n in range(50)], dtype=torch.float64)
    torch.testing.assert_close(rates, expected)
    assert PRESETS["paper"].rate_at(0.35) == 1e6


def test_starting_noise_is_seeded_and_one_for_the_batch() -> None:
    first, second = (balancer(batch=2, initial_noise=1.0).logits(1.0) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[1])
    assert first.std() > 0.3
    assert not torch.equal(first, balancer(initial_noise=1.0, noise_seed=32).logits(1.0))


def test_smoothing_is_a_mean_that_keeps_a_constant() -> None:
    gradient = torch.full((1, 1, 7, 9), 2.5)
    torch.testing.assert_close(smooth(gradient, 5), gradient)
    peak = torch.zeros(1, 1, 7, 7)
    peak[..., 3, 3] = 9.0
    assert smooth(peak, 3)[0, 0, 2:5, 2:5].eq(1.0).all()
    assert torch.equal(smooth(peak, 1), peak)
    assert smooth(peak, 4).shape == peak.shape


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"initial_mix": 1.5}, "initial_mix"),
        ({"rate": math.nan}, "rate"),
        ({"memory": -0.1}, "memory"),
        ({"every": 0}, "every"),
        ({"start": 0.8, "end": 0.2}, "start"),
        ({"mode": "magic"}, "mode"),
        ({"map_level": "3"}, "map_level"),
        ({"smoothing": 1000}, "smoothing"),
        ({"rate": 1.1e9}, "rate"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, where) -> None:
    with pytest.raises(RealCompoError) as caught:
        plain_settings(**changes)
    assert caught.value.where == where


def test_presets() -> None:
    assert set(PRESETS) == {"equilibrium", "paper", "official"}
    assert all(chosen.preset == name for name, chosen in PRESETS.items())
    assert preset("paper", every=3).every == 3
    assert preset(DEFAULT_PRESET, preset="custom") == BalancerSettings()
    with pytest.raises(RealCompoError, match="'none' is unknown"):
        preset("none")
