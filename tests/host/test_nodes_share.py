"""What the nodes themselves cost with one checkpoint in both inputs: passes and shared halves.

A guider made by hand is told one set of token positions, the nodes tell both branches'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset

from . import pair, tiny
from .counting import counting
from .test_bad_input import sampler_inputs
from .test_shared_work import new_host

STEPS = 2
DYNAMIC = preset("paper", spatial_only=0.0, rate=1e3, rate_end=1e3)
MODES = {
    "dynamic": DYNAMIC, "lagged": replace(DYNAMIC, mode="lagged", preset="custom")
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.tiny_unet(1, levels=3)


def by_sampler(inputs: dict[str, Any]) -> Any:
    from realcompo.nodes.sampling import RealCompoDualSampler

    return RealCompoDualSampler().sample(**inputs)["result"][1]


def by_guider(inputs: dict[str, Any]) -> Any:
    from realcompo.nodes.sampling import RealCompoGuider

    names = ("latent_image", "seed", "steps", "sampler_name", "scheduler", "denoise")
    latent, seed, steps, *_ = (inputs.pop(name) for name in names)
    guider, trace = RealCompoGuider().guide(**inputs)
    noise = tiny.latent_noise(seed)
    assert noise.shape == latent["samples"].shape
    pair.run(guider, noise, steps)
    return trace


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("node", [by_sampler, by_guider])
def test_looks_share_their_first_half_through_the_nodes(model, node, mode) -> None:
    inputs = sampler_inputs((model, model), steps=STEPS, balancer=MODES[mode])
    steered = tiny.with_control(inputs["positive"], tiny.tiny_controlnet(6, levels=3), 7)
    with torch.inference_mode(), counting(model=model) as counts:
        trace = node({**inputs, "spatial_positive": steered})
    # two looks of a step: one half spared. Predictions: both rows of the guided one; in lagged the
    # positive rows are the looks', so the negative one only.
    looks, predictions = STEPS, STEPS * (2 if mode == "dynamic" or not new_host() else 1)
    if not new_host():
        predictions = 0  # no function around a batch there
    assert trace.shared_halves == looks + predictions
    assert counts.total("full_samples") == trace.forwards == 4 * STEPS
    assert counts.backward == 3 * STEPS  # each second half, and the first half once for both
    assert len(trace.steps) == STEPS
    assert all(record.loss_spatial is not None for record in trace.steps)


@pytest.mark.parametrize("mode", MODES)
def test_the_sharing_changes_neither_losses_nor_mix(model, mode) -> None:
    """Reference: the same graph with a second copy of the checkpoint."""
    from .test_shared_work import twin

    traces = []
    for second in (model, twin(model)):
        inputs = sampler_inputs((model, second), steps=STEPS, balancer=MODES[mode])
        steered = tiny.with_control(inputs["positive"], tiny.tiny_controlnet(6, levels=3), 7)
        with torch.inference_mode():
            traces.append(by_sampler({**inputs, "spatial_positive": steered}))
    assert traces[1].shared_halves == 0
    for one, other in zip(traces[0].steps, traces[1].steps, strict=True):
        for name in ("mix", "loss_realism", "loss_spatial"):
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-6
            )


def test_the_unconditional_pass_is_shared_through_the_nodes(model) -> None:
    if not new_host():
        pytest.skip("hosts of 2024 have no function around a batch")
    inputs = sampler_inputs((model, model), steps=STEPS, balancer=MODES["dynamic"])
    with torch.inference_mode(), counting(model=model) as counts:
        trace = by_sampler({**inputs, "spatial_positive": tiny.conditioning(9)})
    assert counts.total("full_samples") == trace.forwards == 3 * STEPS
