"""The pair against each model alone, and every sampler of the host."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings, preset

from . import pair, tiny

pytestmark = pytest.mark.older_hosts


def fixed(mix: float) -> BalancerSettings:
    return plain_settings(mode="fixed", initial_mix=mix, region_prior=0.0)


@pytest.mark.parametrize("mode", ["fixed", "dynamic"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "euler_cfg_pp"])
def test_one_model_alone_is_that_models_own_result(models, noise, mode, sampler) -> None:
    settings = [
        plain_settings(mode=mode, initial_mix=mix, region_prior=0.0, end=1.0, every=1)
        for mix in (1.0, 0.0)
    ]
    for model, setting in zip(models, settings, strict=True):
        alone = pair.run_alone(model, noise, sampler=sampler)
        mixed = pair.run(pair.guider(*models, setting), noise, sampler=sampler)
        assert torch.equal(alone, mixed)


def test_spatial_only_for_all_steps_is_the_spatial_model(models, noise) -> None:
    settings = preset("paper", spatial_only=1.0)
    assert torch.equal(
        pair.run(pair.guider(*models, settings), noise), pair.run_alone(models[1], noise)
    )


def test_half_and_half_is_the_mean_of_the_predictions(models) -> None:
    """One step to sigma 0 returns the denoised prediction itself."""
    noise = tiny.latent_noise(5)
    alone = [pair.run_alone(model, noise, steps=1) for model in models]
    mixed = pair.run(pair.guider(*models, fixed(0.5)), noise, steps=1)
    torch.testing.assert_close(mixed, (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.0])
def test_the_background_is_matched_before_the_mix(models, share) -> None:
    noise = tiny.latent_noise(5, batch=2)
    settings = plain_settings(
        mode="fixed", initial_mix=share, region_prior=0.0, match_background=0.8
    )
    realism, spatial = (pair.run_alone(model, noise, steps=1) for model in models)
    bare = torch.ones(noise.shape[-2:])
    for x0, y0, x1, y1 in pair.BOXES:
        high, wide = noise.shape[-2:]
        bare[round(y0 * high) : round(y1 * high), round(x0 * wide) : round(x1 * wide)] = 0.0
    where = bare.bool()
    gap = (realism - spatial)[..., where].mean(-1)
    matched = spatial.clone()
    matched[..., where] += 0.8 * gap[..., None]
    mixed = pair.run(pair.guider(*models, settings), noise, steps=1)
    expected = share * realism + (1 - share) * matched
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-4)
    assert (mixed - (share * realism + (1 - share) * spatial)).abs().max() > 0.01


def test_rate_zero_is_fixed(models, noise) -> None:
    settings = preset("paper", rate=0.0, rate_end=0.0, spatial_only=0.0)
    still = pair.run(pair.guider(*models, settings), noise)
    assert torch.equal(still, pair.run(pair.guider(*models, fixed(0.5)), noise))


def test_balancing_changes_the_picture(models, noise) -> None:
    settings = preset("paper", rate=1e5, rate_end=1e5, spatial_only=0.0)
    balanced = pair.run(pair.guider(*models, settings), noise)
    still = pair.run(pair.guider(*models, fixed(0.5)), noise)
    assert (balanced - still).abs().max() > 0.1 * still.std()


def test_queued_twice_is_identical(models, noise) -> None:
    one = pair.guider(*models, preset("equilibrium"))
    first, second = pair.run(one, noise), pair.run(one, noise)
    third = pair.run(pair.guider(*models, preset("equilibrium")), noise)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert len(one.trace.steps) == 6


def test_the_global_random_state_is_left_alone(models, noise) -> None:
    settings = preset("official")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pair.run(pair.guider(*models, settings), noise, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def sampler_names() -> list[str]:
    try:
        import comfy.samplers
    except ImportError:
        return ["none"]
    return list(comfy.samplers.KSampler.SAMPLERS)


@pytest.mark.parametrize("sampler", sampler_names())
def test_every_sampler_balances_once_per_step(models, sampler) -> None:
    settings = preset("equilibrium", end=1.0, every=1, realism_only=0.0)
    guider = pair.guider(*models, settings)
    noise = tiny.latent_noise(6, height=8, width=8)
    latent = pair.run(guider, noise, steps=10, sampler=sampler)
    assert torch.isfinite(latent).all()
    steps = [record.step for record in guider.trace.steps]
    assert steps == sorted(set(steps))
    assert max(steps) <= 9
    balanced = [record for record in guider.trace.steps if record.phase == "balance"]
    own_grid = sampler in ("dpm_fast", "dpm_adaptive")
    assert len(balanced) >= (3 if own_grid else 9)
    assert guider.trace.partial_forwards == 2 * len(balanced)


def test_eps_with_v_prediction(noise) -> None:
    """The two predictions meet as denoised latents; a wrong conversion would blow up."""
    eps, v = tiny.tiny_unet(1), tiny.tiny_unet(2, model_type="v")
    settings = plain_settings(initial_mix=0.0, region_prior=0.0, end=1.0)
    assert torch.equal(pair.run(pair.guider(eps, v, settings), noise), pair.run_alone(v, noise))
    balanced = pair.guider(eps, v, preset("equilibrium", end=1.0, realism_only=0.0))
    assert torch.isfinite(pair.run(balanced, noise)).all()
    assert all(0 < float(r.mix.mean()) < 1 for r in balanced.trace.steps)


def test_same_model_on_both_inputs(models, noise) -> None:
    one = models[0]
    alone = pair.run_alone(one, noise)
    both = pair.run(pair.guider(one, one, preset("equilibrium")), noise)
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-3)


def test_single_guidance_scale_needs_no_negative(models, noise) -> None:
    settings = plain_settings(initial_mix=1.0, region_prior=0.0)
    guider = pair.guider(*models, settings, cfg=1.0)
    assert torch.equal(pair.run(guider, noise), pair.run_alone(models[0], noise, cfg=1.0))
    assert guider.trace.forwards == 12


@pytest.mark.parametrize("size", [(16, 24), (9, 13), (7, 16)])
def test_sizes_that_halve_unevenly(size) -> None:
    models = tiny.tiny_unet(1, levels=3), tiny.tiny_unet(2, levels=3)
    noise = tiny.latent_noise(5, height=size[0], width=size[1])
    for level in ("1", "2", "4"):
        guider = pair.guider(*models, preset("equilibrium", map_level=level))
        assert torch.isfinite(pair.run(guider, noise, steps=2)).all()
        assert guider.trace.backwards > 0
