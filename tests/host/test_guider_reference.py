"""The guider against an independent, literal implementation of the paper's Algorithm 1."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings

from . import pair, reference, tiny

pytestmark = pytest.mark.older_hosts

STEPS = 10
RATE = 3e3


def settings(**changes) -> BalancerSettings:
    numbers = {
        "rate": RATE, "rate_end": RATE, "normalize_rate": False, "memory": 1.0, "smoothing": 0,
        "initial_mix": 0.5, "region_prior": 0.0, "end": 1.0, "every": 1, "map_level": "2",
    }  # fmt: skip
    return plain_settings(**{**numbers, **changes})


def compare(chosen: BalancerSettings, models, noise, positive, negative, grounding=None, rho=None):
    """Run both; returns (guider, its latent, reference result), after checking them equal."""
    spatial_positive = positive
    if grounding is not None:
        spatial_positive = tiny.with_gligen(positive, *grounding)
    guider = pair.guider(
        *models, chosen, positive=positive, negative=negative, spatial_positive=spatial_positive
    )
    latent = pair.run(guider, noise, steps=STEPS)
    result = reference.reference_run(
        *models, positive[0][0], negative[0][0],
        boxes=pair.BOXES, tokens=list(pair.TOKENS), noise=noise,
        sigmas=pair.sigmas_for(models[0], STEPS), cfg=pair.CFG,
        rho=rho or [RATE] * STEPS, spatial_only_steps=round(chosen.spatial_only * STEPS),
        map_factor=int(chosen.map_level), probe_timestep=chosen.probe_timestep,
        gligen=grounding, accumulate=chosen.memory == 1.0,
    )  # fmt: skip
    scale = result.latent.std()
    assert (latent - result.latent).abs().max() < 1e-4 * scale
    return guider, latent, result


@pytest.fixture(scope="module")
def texts():
    return tiny.conditioning(3), tiny.conditioning(4)


@pytest.mark.parametrize(
    "changes",
    [
        {"spatial_only": 0.4},
        {"probe_timestep": "next"},
        {"memory": 0.0, "map_level": "1"},
    ],
    ids=["paper", "next", "restart"],
)
def test_ten_steps_equal_the_paper(models, texts, changes) -> None:
    chosen = settings(**changes)
    guider, _, result = compare(chosen, models, tiny.latent_noise(5), *texts)
    records = [record for record in guider.trace.steps if record.phase == "balance"]
    assert [record.step for record in records] == result.steps
    moved = 0.0
    for record, loss, mix, shares in zip(
        records, result.losses, result.mix, result.shares, strict=True
    ):
        torch.testing.assert_close(record.loss_realism + record.loss_spatial, loss)
        torch.testing.assert_close(record.mix, mix, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(record.shares_realism, shares[..., 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(record.shares_spatial, shares[..., 1], rtol=1e-4, atol=1e-5)
        moved = max(moved, float((mix - 0.5).abs().max()))
    # the balancer must have had something to say, or equality says nothing
    assert moved > 0.1


def test_falling_rate_equals_the_released_schedule(models, texts) -> None:
    """rho_i = rate * sqrt(linspace(1, 1/2, steps))."""
    chosen = settings(rate_end=RATE * 0.5**0.5, spatial_only=0.4)
    rho = (RATE * torch.linspace(1.0, 0.5, STEPS).sqrt()).tolist()
    compare(chosen, models, tiny.latent_noise(5), *texts, rho=rho)


def test_gligen_and_a_v_model_and_a_batch(texts) -> None:
    realism, spatial = tiny.tiny_unet(1, model_type="v"), tiny.tiny_unet(2)
    gligen = tiny.tiny_gligen(spatial, 7)
    entries = [(tiny.pooled_phrase(8), 8, 8, 0, 0), (tiny.pooled_phrase(9), 12, 8, 4, 8)]
    compare(
        settings(), (realism, spatial), tiny.latent_noise(5, batch=2), *texts, (gligen, entries)
    )
