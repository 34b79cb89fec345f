"""Mode lagged: the step's own predictions are read, and nothing runs beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.balancer import logit_gradient, probe_latent
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor

from . import pair, tiny
from .counting import counting
from .test_shared_work import assert_same, both, new_host, steered

LAGGED = replace(
    preset("paper", spatial_only=0.25, rate=1e4, rate_end=1e4), mode="lagged", preset="custom"
)
STEPS = 4


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_unet(1, levels=3)


@pytest.fixture(scope="module")
def control():
    return tiny.tiny_controlnet(6, levels=3)


def looks_of_steps(guider: Any, noise: Tensor, monkeypatch: Any) -> list[dict[str, Any]]:
    """What every balanced step of a run was made of."""
    from realcompo.balancer.comfy.realcompo import guider as module

    seen: list[dict[str, Any]] = []

    def watched(total: Tensor, *rest: Any) -> Tensor:
        out = logit_gradient(total, *rest)
        seen.append({"total": total.clone(), "gradient": out.clone()})
        return out

    with monkeypatch.context() as patch:
        patch.setattr(module, "logit_gradient", watched)
        pair.run(guider, noise, STEPS)
    return seen


@pytest.mark.parametrize("batch", [1, 2])
def test_maps_and_gradient_are_those_of_a_probe_at_the_same_latent(
    models, batch, monkeypatch
) -> None:
    """Reference: mode dynamic, whose probe latent is put back to z_t."""
    from realcompo.balancer.comfy.realcompo import guider as module
    from realcompo.balancer.comfy.realcompo import run

    noise = tiny.latent_noise(5, batch=batch)
    lagged = pair.guider(*models, LAGGED)
    ours = looks_of_steps(lagged, noise, monkeypatch)
    dynamic = pair.guider(*models, replace(LAGGED, mode="dynamic"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "probe_latent", lambda x, mixed, sigma, to: x)
        # the probe scales a latent of the next noise level to this one's: it is this one's here
        patch.setattr(run, "input_scale", lambda sampling, sigma: 1.0)
        theirs = looks_of_steps(dynamic, noise, monkeypatch)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        for name in ("total", "gradient"):
            size = float(other[name].abs().max())
            assert size > 0
            assert float((one[name] - other[name]).abs().max()) < 1e-4 * size
    for one, other in zip(lagged.trace.steps, dynamic.trace.steps, strict=True):
        torch.testing.assert_close(one.mix, other.mix, rtol=1e-4, atol=1e-5)
    real = pair.guider(*models, replace(LAGGED, mode="dynamic"))
    assert probe_latent is module.probe_latent
    pair.run(real, noise, STEPS)
    different = (real.trace.steps[-1].mix - lagged.trace.steps[-1].mix).abs().max()
    assert float(different) > 1e-3  # the probe latent is another one


def test_no_pass_beside_the_predictions(models) -> None:
    guider = pair.guider(*models, LAGGED)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(guider, tiny.latent_noise(5), STEPS)
    alone, balanced = 1, 3
    assert counts.total("full_samples") == 2 * alone + 4 * balanced
    assert counts.backward == 2 * balanced
    assert guider.trace.backwards == 2 * balanced
    if new_host():
        assert counts.total("partial") == guider.trace.partial_forwards == 0
    else:  # no function around a batch there: the looks are passes of their own
        assert counts.total("partial_samples") == 2 * balanced


def test_flops_are_a_static_mix_and_the_backwards(model) -> None:
    """Only rows of the positive prompt are differentiated, and only as far as maps are read."""
    from torch.utils.flop_counter import FlopCounterMode

    if not new_host():
        pytest.skip("hosts of 2024 have no function around a batch")
    other = tiny.tiny_unet(2, levels=3)

    def cost(**changes: Any) -> int:
        guider = pair.guider(model, other, replace(LAGGED, **changes))
        with FlopCounterMode(display=False) as counter:
            pair.run(guider, tiny.latent_noise(5), STEPS)
        return counter.get_total_flops()

    static, lagged, dynamic = cost(mode="fixed"), cost(), cost(mode="dynamic")
    print(f"lagged {lagged / static:.3f}, dynamic {dynamic / static:.3f} of the static mix")
    assert static < lagged < dynamic
    assert lagged - static < 0.65 * (dynamic - static)


def test_predictions_are_the_models_own(models, monkeypatch) -> None:
    """Reading changes nothing that is read from: at rate 0 the run is the static mix's."""
    noise = tiny.latent_noise(5)
    still = replace(LAGGED, rate=0.0, rate_end=0.0)
    lagged = pair.run(pair.guider(*models, still), noise, STEPS)
    static = pair.run(pair.guider(*models, replace(still, mode="fixed")), noise, STEPS)
    assert (lagged - static).abs().max() < 1e-5 * static.abs().max()


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_cfg_pp"])
def test_one_checkpoint_with_a_controlnet(model, control, sampler) -> None:
    out = both(model, LAGGED, sampler=sampler, **steered(control))
    assert_same(*out)
    if new_host():
        assert out[0].trace.shared_halves > 0
        assert out[0].trace.partial_forwards == 0


def test_one_checkpoint_with_another_prompt(model) -> None:
    out = both(model, LAGGED, spatial_positive=tiny.conditioning(9))
    assert_same(*out)
    assert not new_host() or out[0].trace.forwards < out[1].trace.forwards


def test_gligen_areas_and_several_prompts(model) -> None:
    """Where the pass of the layout's prompt cannot be told from others', it is had by itself."""
    other = tiny.tiny_unet(2, levels=3)
    gligen = tiny.tiny_gligen(other, 8)
    boxes = [(tiny.pooled_phrase(2), 8, 8, 0, 0)]
    grounded = tiny.with_gligen(tiny.conditioning(3), gligen, boxes)
    noise = tiny.latent_noise(5)
    guider = pair.guider(model, other, LAGGED, spatial_positive=grounded)
    pair.run(guider, noise, STEPS)
    assert not new_host() or guider.trace.partial_forwards == 0
    area = [[tiny.conditioning(3)[0][0], {"area": (8, 16, 0, 0), "strength": 1.0}]]
    guider = pair.guider(model, other, LAGGED, positive=area)
    assert bool(torch.isfinite(pair.run(guider, noise, STEPS)).all())
    assert not new_host() or guider.trace.partial_forwards == 0
    several = [*tiny.conditioning(3), *tiny.conditioning(9)]
    guider = pair.guider(model, other, LAGGED, positive=several)
    pair.run(guider, noise, STEPS)
    balanced = [record for record in guider.trace.steps if record.phase == "balance"]
    assert guider.trace.partial_forwards == 2 * len(balanced)
    assert all(record.shares_realism is not None for record in balanced)


def test_without_guidance(models) -> None:
    guider = pair.guider(*models, LAGGED, cfg=1.0)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(guider, tiny.latent_noise(5), STEPS)
    assert counts.total("full_samples") == 1 + 2 * 3


def test_a_failure_behind_the_last_map_leaves_gradients_as_they_were(model, models) -> None:
    def fail(query: Tensor, key: Tensor, value: Tensor, extra: Any) -> Tensor:
        if not torch.is_inference_mode_enabled() and not torch.is_grad_enabled():
            raise RuntimeError("behind the last map")
        return value * 1.0

    if not new_host():
        pytest.skip("hosts of 2024 have no function around a batch")
    broken = model.clone()
    broken.set_model_attn1_replace(fail, "output", 5)
    with pytest.raises(RuntimeError, match="behind the last map"):
        pair.run(pair.guider(broken, models[1], LAGGED), tiny.latent_noise(5), STEPS)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    pair.run(pair.guider(*models, LAGGED), tiny.latent_noise(5), STEPS)


def test_every_start_and_end_act_as_in_dynamic(models) -> None:
    settings = replace(LAGGED, spatial_only=0.0, every=2, start=0.1, end=0.8, realism_only=0.1)
    phases = {}
    for mode in ("dynamic", "lagged"):
        guider = pair.guider(*models, replace(settings, mode=mode))
        pair.run(guider, tiny.latent_noise(5), 10)
        phases[mode] = [record.phase for record in guider.trace.steps]
    assert phases["lagged"] == phases["dynamic"]
    assert set(phases["lagged"]) == {"balance", "mix", "realism"}
