"""One probe of one model: the early stop changes nothing, both models speak, a step helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.balancer import logit_gradient, probe_latent
from torch import Tensor

from . import pair, tiny

SIGMA, SIGMA_NEXT = 4.0, 3.0


@contextmanager
def ready(patcher: Any, conditioning: Any) -> Iterator[dict[str, Any]]:
    """The model's processed conditioning, as a guider has it during a run."""
    import comfy.sampler_helpers
    import comfy.samplers

    conds = {"positive": conditioning, "negative": tiny.conditioning(4)}
    conds = {k: comfy.sampler_helpers.convert_cond(v) for k, v in conds.items()}
    with torch.inference_mode():
        if hasattr(patcher, "pre_run"):
            patcher.pre_run()
        x = tiny.latent_noise(5)
        yield comfy.samplers.process_conds(patcher.model, x, conds, x.device)
        if hasattr(patcher, "cleanup"):
            patcher.cleanup()


def probed(patcher: Any, x: Tensor, sigma: float = SIGMA) -> Any:
    with ready(patcher, tiny.conditioning(3)) as conds:
        return pair.probed(patcher.model, conds["positive"][0], x, sigma)


def test_the_early_stop_changes_neither_maps_nor_gradient(models, monkeypatch) -> None:
    from realcompo.balancer.comfy.attention import unet

    x = SIGMA * tiny.latent_noise(5, batch=2)
    stopped = probed(models[0], x)
    reader = unet.MapReader

    def without_stop(maps: Any, factor: int, other: Any, then: Any) -> Any:
        return reader(maps, factor, other, None)

    monkeypatch.setattr(unet, "MapReader", without_stop)
    whole = probed(models[0], x)
    assert torch.equal(stopped.shares, whole.shares)
    torch.testing.assert_close(stopped.gradient, whole.gradient, rtol=1e-6, atol=1e-12)
    assert stopped.gradient.abs().max() > 0


def denoised(patcher: Any, x: Tensor) -> Tensor:
    import comfy.samplers

    with ready(patcher, tiny.conditioning(3)) as conds:
        sigma = torch.full((x.shape[0],), SIGMA)
        return comfy.samplers.calc_cond_batch(
            patcher.model, [conds["positive"]], x, sigma, {}
        )[0]  # fmt: skip


def test_both_models_speak_and_a_small_step_lowers_the_loss(models) -> None:
    """Guards a detached branch, and the sign of the step."""
    x = SIGMA * tiny.latent_noise(5)
    realism, spatial = (denoised(model, x) for model in models)

    def probe_at(logits: Tensor) -> Tensor:
        mix = torch.sigmoid(logits)
        return probe_latent(x, mix * realism + (1 - mix) * spatial, SIGMA, SIGMA_NEXT)

    logits = torch.zeros(1, 1, 16, 16)
    results = [probed(model, probe_at(logits)) for model in models]
    assert all(float(one.gradient.abs().max()) > 0 for one in results)
    first, second = results[0].gradient, results[1].gradient
    assert not torch.allclose(first, first + second, rtol=1e-3, atol=0)
    mix = torch.sigmoid(logits)
    gradient = logit_gradient(first + second, realism, spatial, mix, SIGMA, SIGMA_NEXT)
    before = sum(float(one.loss) for one in results)
    step = 0.05 * gradient / gradient.abs().max()
    after, against = (
        sum(float(probed(model, probe_at(moved)).loss) for model in models)
        for moved in (logits - step, logits + step)
    )
    assert after < before < against
    # the change is what the closed form says
    expected = 2 * float((gradient * step).sum())
    assert against - after == pytest.approx(expected, rel=0.05)


def test_a_controlnet_leaves_the_encoder_alone(models) -> None:
    """With one network in both branches, conv_in, down and middle could be shared, exactly."""
    import comfy.samplers

    network = models[1].model.diffusion_model
    seen: list[list[Tensor]] = []
    layers = [*(block[-1] for block in network.input_blocks), network.middle_block[-1]]
    handles = [
        layer.register_forward_hook(lambda module, args, out: seen[-1].append(out.clone()))
        for layer in layers
    ]
    steered = tiny.with_control(tiny.conditioning(3), tiny.tiny_controlnet(6), 7)
    outputs = []
    try:
        for conditioning in (tiny.conditioning(3), steered):
            seen.append([])
            with ready(models[1], conditioning) as conds:
                x, sigma = SIGMA * tiny.latent_noise(5), torch.tensor([SIGMA])
                outputs += comfy.samplers.calc_cond_batch(
                    models[1].model, [conds["positive"]], x, sigma, {}
                )
    finally:
        for handle in handles:
            handle.remove()
    plain, controlled = seen
    assert len(plain) == len(controlled) == len(layers)
    assert all(torch.equal(a, b) for a, b in zip(plain, controlled, strict=True))
    assert not torch.equal(*outputs)
