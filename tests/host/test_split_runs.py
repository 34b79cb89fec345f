"""Runs over a part of the noise schedule do what the whole run does there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings, preset
from torch import Tensor

from . import pair, tiny

STEPS, CUT = 10, 5
FIXED = plain_settings(
    mode="fixed", initial_mix=0.5, region_prior=3.0, prior_until=0.45, spatial_only=0.2,
    realism_only=0.4,
)  # fmt: skip
BALANCED = preset("equilibrium")


@pytest.fixture(scope="module")
def models() -> Any:
    pair = tiny.tiny_unet(1, levels=3), tiny.tiny_unet(2, levels=3)
    for model in pair:
        # between two runs the host divides by it and multiplies again, which rounds
        model.model.latent_format.scale_factor = 1.0
    return pair


@pytest.fixture(scope="module")
def flux() -> Any:
    return tiny.tiny_flux(1)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return tiny.latent_noise(5)


def schedule(model: Any, name: str = "normal", steps: int = STEPS) -> Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), name, steps
    )  # fmt: skip


def sampled(guider: Any, noise: Tensor, latent: Tensor, sigmas: Tensor, sampler: str) -> Tensor:
    """As SamplerCustomAdvanced does it."""
    import comfy.samplers

    with torch.inference_mode():
        return guider.sample(
            noise, latent, comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True,
            seed=1,
        )  # fmt: skip


def both(
    models: Any, settings: BalancerSettings, noise: Tensor, sampler: str, **options: Any
) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Latents and phases of a whole run, and of two runs over the parts of SplitSigmas."""
    sigmas, empty = schedule(models[0], **options), torch.zeros_like(noise)
    guider = pair.guider(*models, settings)
    whole = sampled(guider, noise, empty, sigmas, sampler)
    expected = [step.phase for step in guider.trace.steps]
    first = sampled(guider, noise, empty, sigmas[: CUT + 1], sampler)
    phases = [step.phase for step in guider.trace.steps]
    # DisableNoise
    second = sampled(guider, empty, first, sigmas[CUT:], sampler)
    return whole, second, expected, phases + [step.phase for step in guider.trace.steps]


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("euler", "normal"), ("euler", "karras"), ("heun", "simple"), ("dpm_2", "normal")],
)  # fmt: skip
def test_a_fixed_mix_is_the_whole_runs(models, noise, sampler, scheduler) -> None:
    whole, split, expected, phases = both(models, FIXED, noise, sampler, name=scheduler)
    assert {*expected} == {"spatial", "mix", "realism"}
    assert phases == expected
    assert torch.equal(split, whole)


def test_the_default_preset(models, noise) -> None:
    whole, split, expected, phases = both(models, BALANCED, noise, "euler")
    assert expected == ["balance", "mix"] * 3 + ["realism"] * 4
    # the second run balances at its first step, and has no mix to hold before
    assert phases == [*expected[:5], "balance", *expected[6:]]
    assert not torch.equal(split, whole)
    assert float((split - whole).abs().max()) < 0.03 * float(whole.std())


def test_balanced_at_every_step_from_the_base(models, noise) -> None:
    """Without memory a balanced step depends on nothing before it."""
    settings = replace(BALANCED, every=1, memory=0.0, preset="custom")
    whole, split, expected, phases = both(models, settings, noise, "euler")
    assert phases == expected
    assert torch.equal(split, whole)


@pytest.mark.parametrize("scheduler", ["normal", "simple", "sgm_uniform", "ddim_uniform"])
@pytest.mark.parametrize("steps", [10, 20, 30, 50])
@pytest.mark.parametrize("flow", [False, True])
def test_shares_of_even_schedules_are_shares_of_the_steps(
    models, scheduler, steps, flow, flux
) -> None:
    """So the paper's t0 of 20 in 50 steps is a share of .4, whichever of them is chosen."""
    from realcompo.balancer.comfy.host.schedule import NoiseSchedule
    from realcompo.balancer.comfy.realcompo.clock import StepClock
    from realcompo.balancer.realcompo.balancer import Balancer

    if flow and scheduler == "ddim_uniform":
        pytest.skip("other levels for a flow")
    model = flux if flow else models[0]
    levels = NoiseSchedule(model.get_model_object("model_sampling"))
    if flow and levels.sigma(0.5) == 0.5:
        pytest.skip("shares of this ComfyUI's flows leave their shift out")
    settings = replace(FIXED, spatial_only=0.4, realism_only=0.4)
    clock = StepClock(schedule(model, scheduler, steps).tolist())
    # ddim_uniform may give one step more than it was asked for
    assert 0 <= clock.steps - steps <= 1
    balancer = Balancer(
        settings, 1, torch.zeros(1, 1, 2, 2), alone=(levels.sigma(0.4), levels.sigma(0.6))
    )
    phases = [balancer.phase(step, clock.level(clock.begins(step))).value for step in range(steps)]
    assert phases == ["spatial"] * (2 * steps // 5) + ["mix"] * (steps // 5) + ["realism"] * (
        2 * steps // 5
    )


def test_a_part_is_found_from_its_noise_level(models) -> None:
    from realcompo.balancer.comfy.host.schedule import NoiseSchedule

    levels = NoiseSchedule(models[0].get_model_object("model_sampling"))
    parts = [n / 37 for n in range(1, 37)]
    found = levels.parts([levels.sigma(part) for part in parts])
    assert found == pytest.approx(parts, abs=1e-3)
    assert levels.parts([1e9, 0.0]) == [0.0, 1.0]


def test_img2img_begins_in_the_middle(models, noise) -> None:
    """As the host's start_percent: a run from half the noise has none of the first phases."""
    guider = pair.guider(*models, FIXED)
    pair.run(guider, noise, steps=5, latent=torch.ones_like(noise), denoise=0.5)
    assert [step.phase for step in guider.trace.steps] == ["mix"] * 1 + ["realism"] * 4


def test_rates_are_those_of_the_whole_run(models, noise, monkeypatch) -> None:
    from realcompo.balancer.realcompo.balancer import Balancer

    settings = replace(
        preset("paper", spatial_only=0.0), rate=8.0, rate_end=2.0, normalize_rate=True,
        preset="custom",
    )  # fmt: skip
    seen: list[float] = []
    update = Balancer.update

    def watched(self: Any, gradient: Tensor, remaining: Tensor, part: float) -> None:
        seen.append(part)
        update(self, gradient, remaining, part)

    monkeypatch.setattr(Balancer, "update", watched)
    both(models, settings, noise, "euler")
    whole, split = seen[:STEPS], seen[STEPS:]
    assert split == whole == pytest.approx([n / 9 for n in range(STEPS)], abs=2e-3)
