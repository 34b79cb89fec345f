"""Other packs' patches on either branch: alone they act as in KSampler, and balanced they act too.

Every patch of ``packs.py``, with two checkpoints and with one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from realcompo.balancer.settings import BalancerSettings, preset

from . import packs, pair

STEPS = 4
PATCHES = {**packs.CORE, **packs.FOREIGN, "tiles": packs.tiles(False),
           "tiles in inference mode": packs.tiles(True)}  # fmt: skip
TILES = {"tiles", "tiles in inference mode"}


def only(mix: float, mode: str = "fixed") -> BalancerSettings:
    return BalancerSettings(mode=mode, initial_mix=mix, region_prior=0.0, end=1.0, every=1)


DYNAMIC = preset("paper", spatial_only=0.0, rate=1e3, rate_end=1e3)
MODES = {
    "dynamic": DYNAMIC, "lagged": replace(DYNAMIC, mode="lagged", preset="custom")
}  # fmt: skip


def fresh(patch: Any, *models: Any) -> tuple[Any, ...]:
    """The models, the first of them patched anew: some patches keep state from run to run."""
    return patch(models[0]), *models[1:]


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


def results(models: tuple[Any, Any], settings: BalancerSettings, noise: Tensor) -> Tensor:
    return pair.run(pair.guider(*models, settings), noise, STEPS)
