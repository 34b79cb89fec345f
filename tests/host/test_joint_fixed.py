"""Mode fixed takes any two models of one latent, whatever their attention looks like."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings

from . import pair, tiny, tiny_dit

TEXTS = {"positive": tiny_dit.conditioning(3), "negative": tiny_dit.conditioning(4)}


def fixed(mix: float, **changes) -> BalancerSettings:
    return plain_settings(mode="fixed", initial_mix=mix, region_prior=0.0, **changes)


@pytest.mark.parametrize("family", list(tiny_dit.FAMILIES))
def test_the_ends_of_the_mix_are_the_models_and_the_middle_is_neither(family) -> None:
    models = tiny_dit.models_of(family)
    noise = tiny_dit.noise(family, batch=2, height=14, width=10)
    alone = [pair.run_alone(model, noise, 3, **TEXTS) for model in models]
    for mix, expected in ((1.0, alone[0]), (0.0, alone[1])):
        assert torch.equal(pair.run(pair.guider(*models, fixed(mix), **TEXTS), noise, 3), expected)
    half = pair.run(pair.guider(*models, fixed(0.5), **TEXTS), noise, 3)
    assert half.shape == noise.shape
    assert torch.isfinite(half).all()
    spread = (alone[0] - alone[1]).std()
    assert all((half - one).std() > 0.1 * spread for one in alone)


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_regions_and_backgrounds_reach_every_sample(family) -> None:
    """With frames, too, the maps of sample k go to sample k: a batch equals its samples."""
    models = tiny_dit.models_of(family)
    settings = plain_settings(
        mode="fixed", initial_mix=0.5, region_prior=4.0, prior_until=1.0, match_background=1.0
    )
    noise = tiny_dit.noise(family, batch=2)
    together = pair.run(pair.guider(*models, settings, **TEXTS), noise, 2)
    for sample in range(2):
        one = noise[sample : sample + 1]
        single = pair.run(pair.guider(*models, settings, **TEXTS), one, 2)
        torch.testing.assert_close(together[sample : sample + 1], single, rtol=1e-4, atol=1e-4)


def test_a_pair_of_two_architectures_with_one_latent() -> None:
    pytest.importorskip("comfy.ldm.lumina.model")
    models = tiny_dit.flux(1), tiny_dit.lumina2(2)
    texts = {
        "positive": tiny_dit.conditioning(3), "negative": tiny_dit.conditioning(4),
        "spatial_positive": _masked(5), "spatial_negative": _masked(6),
    }  # fmt: skip
    out = pair.run(pair.guider(*models, fixed(0.5), **texts), tiny_dit.noise("flux"), 2)
    assert torch.isfinite(out).all()
    with pytest.raises(RealCompoError, match="Lumina2.*no attention") as caught:
        pair.guider(*models, BalancerSettings(), **texts)
    assert caught.value.where == "spatial_model"
    assert "fixed" in caught.value.remedy


def _masked(seed: int):
    """Lumina 2 asks its text encoder for a mask."""
    text = tiny.conditioning(seed, tiny_dit.LENGTH, tiny_dit.CONTEXT)
    mask = torch.ones(1, tiny_dit.LENGTH, dtype=torch.long)
    return [[embedding, {**extra, "attention_mask": mask}] for embedding, extra in text]


def test_models_of_different_latents_are_refused() -> None:
    pytest.importorskip("comfy.ldm.qwen_image.model")
    with pytest.raises(RealCompoError, match="different latents"):
        pair.guider(tiny_dit.flux(1), tiny_dit.qwen_image(2), fixed(0.5), **TEXTS)
