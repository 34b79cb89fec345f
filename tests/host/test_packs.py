"""Other packs' patches on either branch: alone they act as in KSampler, and balanced they act too.

Every patch of ``packs.py``, with two checkpoints and with one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings, preset

from . import packs, pair, tiny_dit

STEPS = 4
PATCHES = {**packs.CORE, **packs.FOREIGN, "tiles": packs.tiles(False),
           "tiles in inference mode": packs.tiles(True)}  # fmt: skip
TILES = {"tiles", "tiles in inference mode"}


def only(mix: float, mode: str = "fixed") -> BalancerSettings:
    return plain_settings(mode=mode, initial_mix=mix, region_prior=0.0, end=1.0, every=1)


DYNAMIC = preset("paper", spatial_only=0.0, rate=1e3, rate_end=1e3)
MODES = {
    "dynamic": DYNAMIC, "lagged": replace(DYNAMIC, mode="lagged", preset="custom")
}  # fmt: skip


@pytest.mark.parametrize("name", PATCHES)
def test_alone_a_patched_model_gives_what_ksampler_gives(models, noise, name) -> None:
    patch, (model, other) = PATCHES[name], models
    expected = pair.run_alone(patch(model), noise, STEPS)
    plain = pair.run_alone(model, noise, STEPS)
    # something happens, and is not rounding; or this test could not fail
    assert (expected - plain).abs().max() > (1e-6 if name == "tiles" else 1e-3) * plain.std()
    for second in (other, model):  # two checkpoints, and one in both branches
        one = pair.guider(patch(model), second, only(1.0))
        assert torch.equal(pair.run(one, noise, STEPS), expected), "on the realism model"
        one = pair.guider(second, patch(model), only(0.0))
        assert torch.equal(pair.run(one, noise, STEPS), expected), "on the spatial model"
    for mix in (1.0, 0.0):
        both = patch(model)
        one = pair.guider(both, both, only(mix))
        assert torch.equal(pair.run(one, noise, STEPS), expected), "one MODEL in both"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in PATCHES if name not in TILES])
def test_balanced_a_patch_acts_and_the_latent_is_finite(models, noise, name, mode) -> None:
    plain = pair.run(pair.guider(*models, MODES[mode]), noise, STEPS)
    for branch in (0, 1):
        pairs = list(models)
        pairs[branch] = PATCHES[name](models[branch])
        guider = pair.guider(*pairs, MODES[mode])
        out = pair.run(guider, noise, STEPS)
        assert torch.isfinite(out).all()
        assert (out - plain).abs().max() > 1e-3 * plain.std()
        assert len(guider.trace.steps) == STEPS
        assert guider.trace.skipped_gradients == 0
        assert guider.trace.steps[0].shares_realism is not None
        assert guider.trace.steps[0].shares_spatial is not None


TEXTS = {"positive": tiny_dit.conditioning(3), "negative": tiny_dit.conditioning(4)}


@pytest.fixture(scope="module")
def transformers() -> tuple[Any, Any]:
    return tiny_dit.flux(1), tiny_dit.flux(2)


@pytest.mark.parametrize("name", packs.JOINT)
def test_on_a_model_of_joint_attention(transformers, name) -> None:
    from realcompo.balancer.comfy.host.compat import has_attention_override

    patch, noise = packs.JOINT[name], tiny_dit.noise("flux")
    expected = pair.run_alone(patch(transformers[1]), noise, STEPS, **TEXTS)
    plain = pair.run_alone(transformers[1], noise, STEPS, **TEXTS)
    assert (expected - plain).abs().max() > 1e-3 * plain.std()
    for first in transformers:
        one = pair.guider(first, patch(transformers[1]), only(0.0), **TEXTS)
        assert torch.equal(pair.run(one, noise, STEPS), expected)
        one = pair.guider(patch(transformers[1]), first, only(1.0), **TEXTS)
        assert torch.equal(pair.run(one, noise, STEPS), expected)
    if not has_attention_override():
        pytest.skip("this ComfyUI lets nobody read the attention of such models")
    for settings in MODES.values():
        guider = pair.guider(transformers[0], patch(transformers[1]), settings, **TEXTS)
        assert torch.isfinite(pair.run(guider, noise, STEPS)).all()
        assert len(guider.trace.steps) == STEPS
        assert guider.trace.steps[0].shares_spatial is not None
