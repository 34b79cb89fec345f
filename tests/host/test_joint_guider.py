"""The guider with joint-attention flow models: against the literal algorithm, and its manners."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("comfy.ldm.qwen_image.model")

from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.balancer.realcompo.balancer import logit_gradient, probe_latent  # noqa: E402
from realcompo.balancer.realcompo.settings import plain_settings, preset  # noqa: E402

from . import joint_reference, pair, tiny_dit  # noqa: E402
from .counting import counting  # noqa: E402
from .test_encoders import flux_conditioning, sd3_conditioning  # noqa: E402
from .tiny_dit import FAMILIES, models_of  # noqa: E402

EVERY = pytest.mark.parametrize("family", list(FAMILIES))
STEPS = 4
TEXTS = {"positive": tiny_dit.conditioning(3), "negative": tiny_dit.conditioning(4)}
PAPER = preset("paper", spatial_only=0.0, rate=2e2, rate_end=2e2)


@pytest.mark.parametrize(
    ("family", "timestep"), [*((name, "current") for name in FAMILIES), ("sd3", "next")]
)
def test_a_run_equals_the_literal_algorithm(family, timestep) -> None:
    """Two coefficient maps, velocities, full passes and autograd throughout; batch of two."""
    models = models_of(family)
    noise = tiny_dit.noise(family, 5, 2, 12, 16)
    rate = 1e3
    settings = plain_settings(
        rate=rate, rate_end=rate, normalize_rate=False, memory=1.0, smoothing=0, initial_mix=0.5,
        region_prior=0.0, end=1.0, every=1, probe_timestep=timestep,
    )  # fmt: skip
    guider = pair.guider(*models, settings, **TEXTS)
    latent = pair.run(guider, noise, steps=STEPS)
    expected, steps = joint_reference.flow_run(
        models, FAMILIES[family], TEXTS["positive"], TEXTS["negative"], pair.BOXES,
        list(pair.TOKENS), noise, pair.sigmas_for(models[0], STEPS), pair.CFG, rate,
        timestep == "next",
    )  # fmt: skip
    assert (latent - expected).abs().max() < 1e-3 * expected.std()
    assert [record.phase for record in guider.trace.steps] == ["balance"] * STEPS
    moved = 0.0
    for record, step in zip(guider.trace.steps, steps, strict=True):
        torch.testing.assert_close(
            record.loss_realism + record.loss_spatial, step["loss"], rtol=1e-4, atol=1e-5
        )
        mix = step["mix"].reshape(record.mix.shape)
        torch.testing.assert_close(record.mix, mix, rtol=1e-2, atol=2e-3)
        text, spatial = step["gradients"]
        assert (text + spatial).abs().max() < 1e-4 * text.abs().max()
        for found in (record.shares_realism, record.shares_spatial):
            assert bool(((found >= 0) & (found <= 1)).all())
        moved = max(moved, float((record.mix - 0.5).abs().max()))
    # the balancer must have had something to say, or equality says nothing
    assert moved > 0.1


@EVERY
def test_what_a_step_costs(family) -> None:
    models = models_of(family)
    guider = pair.guider(*models, PAPER, **TEXTS)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(guider, tiny_dit.noise(family), steps=STEPS)
    for count in counts.models.values():
        assert count.full_samples == 2 * STEPS
        assert count.partial_samples == STEPS
    assert counts.backward == 2 * STEPS
    assert guider.trace.cost()["partial_forwards"] == 2 * STEPS


@EVERY
def test_a_batch_equals_its_samples(family) -> None:
    models = models_of(family)
    settings = preset("equilibrium", every=1)
    noise = tiny_dit.noise(family, 5, 2, 10, 14)
    together = pair.run(pair.guider(*models, settings, **TEXTS), noise, STEPS)
    assert torch.isfinite(together).all()
    for sample in range(2):
        one = noise[sample : sample + 1]
        single = pair.run(pair.guider(*models, settings, **TEXTS), one, STEPS)
        difference = (together[sample : sample + 1] - single).abs().max()
        assert difference < 1e-3 * single.std()


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_every_sample_of_a_batch_may_have_its_own_layout(family) -> None:
    models = models_of(family)
    regions = pair.LAYOUT.regions
    layouts = [pair.LAYOUT, Layout((replace(regions[0], tokens=(7, 8), box=(0.2, 0.1, 0.9, 0.4)),))]
    tokens = [tuple(region.tokens for region in layout.regions) for layout in layouts]
    noise = tiny_dit.noise(family, 5, 2)
    settings = preset("equilibrium", every=1)
    batch = pair.guider(*models, settings, layout=layouts, tokens=tokens, **TEXTS)
    together = pair.run(batch, noise, STEPS)
    for sample, layout in enumerate(layouts):
        one = noise[sample : sample + 1]
        single = pair.run(pair.guider(*models, settings, layout=layout, **TEXTS), one, STEPS)
        difference = (together[sample : sample + 1] - single).abs().max()
        assert difference < 1e-3 * single.std()


@EVERY
def test_half_precision_weights_are_balanced_too(family) -> None:
    """bfloat16 as these models come; the maps are computed in float32 all the same."""
    models = models_of(family)
    full = pair.guider(*models, PAPER, **TEXTS)
    noise = tiny_dit.noise(family)
    pair.run(full, noise, STEPS)
    with torch.inference_mode():
        for model in models:
            model.model.diffusion_model.to(torch.bfloat16).dtype = torch.bfloat16
    half = pair.guider(*models, PAPER, **TEXTS)
    assert torch.isfinite(pair.run(half, noise, STEPS)).all()
    assert half.trace.skipped_gradients == 0
    for name in ("shares_realism", "shares_spatial"):
        exact, rough = (getattr(guider.trace.steps[0], name) for guider in (full, half))
        torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.01)
        assert not torch.equal(rough, exact)


@pytest.mark.parametrize("family", ["flux", "sd3", "qwen"])
def test_the_sigma_arithmetic_is_a_flows(family) -> None:
    """The probe latent lies on the host's own noise path, and k is the difference of sigmas."""
    model = FAMILIES[family].build(1).model
    sampling = model.model_sampling
    clean, noise = tiny_dit.noise(family, 8), tiny_dit.noise(family, 9)
    sigma, sigma_next = 0.75, 0.5
    at = [sampling.noise_scaling(torch.tensor([s]), noise, clean) for s in (sigma, sigma_next)]
    torch.testing.assert_close(probe_latent(at[0], clean, sigma, sigma_next), at[1])
    torch.testing.assert_close((at[0] - clean) / sigma, noise - clean)
    assert torch.equal(sampling.calculate_input(torch.tensor([sigma]), noise), noise)
    other = tiny_dit.noise(family, 10)
    logits = torch.randn(clean[:, :1].shape, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_(True)
    mix = torch.sigmoid(logits)
    probe = probe_latent(at[0], mix * clean + (1 - mix) * other, sigma, sigma_next)
    weights = tiny_dit.noise(family, 11)
    (expected,) = torch.autograd.grad((probe.sin() * weights).sum(), logits)
    found = logit_gradient(
        probe.detach().cos() * weights, clean, other, mix.detach(), sigma, sigma_next
    )
    torch.testing.assert_close(found, expected)


def state(model: Any) -> list[Any]:
    """Which tensors a model holds, and which hooks its parts have."""
    return [
        *((name, id(p), p.is_inference()) for name, p in model.model.named_parameters()),
        *((name, len(m._forward_pre_hooks)) for name, m in model.model.named_modules()),
    ]


@EVERY
@pytest.mark.parametrize("where", ["step", "probe", "block"])
def test_an_interrupted_run_leaves_the_models_as_they_were(family, where, monkeypatch) -> None:
    import comfy.model_management as management
    from realcompo.balancer.comfy.attention import joint
    from realcompo.balancer.comfy.realcompo import probe

    models = models_of(family)
    noise = tiny_dit.noise(family)
    reference = pair.run(pair.guider(*models, PAPER, **TEXTS), noise, 2)
    before = [state(model) for model in models]
    options = [copy.deepcopy(model.model_options) for model in models]
    guider = pair.guider(*models, PAPER, **TEXTS)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        callback = interrupted if where == "step" else None
        if where == "probe":
            patch.setattr(probe, "inside_share", interrupted)
        if where == "block":
            patch.setattr(joint, "region_attention", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            pair.run(guider, noise, 2, callback=callback)
    assert [state(model) for model in models] == before
    assert [model.model_options for model in models] == options
    assert all(model.model.current_patcher is None for model in models)
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(pair.run(guider, noise, 2), reference)


@EVERY
def test_a_users_block_patch_and_override_act_in_every_pass(family) -> None:
    plain, spatial = models_of(family)
    realism = plain.clone()
    counts = {"block": 0, "override": 0}

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        counts["block"] += 1
        return extra["original_block"]({**args, "img": 1.1 * args["img"]})

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        counts["override"] += 1
        return 0.9 * function(*args, **kwargs)

    realism.set_model_patch_replace(block, "dit", "double_block", 0)
    realism.model_options["transformer_options"]["optimized_attention_override"] = override
    noise = tiny_dit.noise(family)
    out = pair.run(pair.guider(realism, spatial, PAPER, **TEXTS), noise, STEPS)
    # one batched pass (condition and negative) and one probe a step
    assert counts["block"] == 2 * STEPS
    network = plain.model.diffusion_model
    blocks = sum(
        len(getattr(network, name, ()))
        for name in ("double_blocks", "single_blocks", "joint_blocks", "transformer_blocks")
    )
    assert counts["override"] == STEPS * (blocks + FAMILIES[family].read - 1)
    assert not torch.equal(out, pair.run(pair.guider(plain, spatial, PAPER, **TEXTS), noise, STEPS))


def sampler_inputs(models: Any, conditioning: Any, prompt: str, **changes: Any) -> dict[str, Any]:
    layout = Layout(
        (Region("a red star", (0, 0, 0.5, 0.5)), Region("blue circle", (0.5, 0.5, 1, 1))), prompt
    )
    return {
        "realism_model": models[0], "spatial_model": models[1], "positive": conditioning,
        "negative": conditioning, "layout": layout,
        "latent_image": {"samples": torch.zeros(1, 16, 16, 16)}, "seed": 1, "steps": 2, "cfg": 2.0,
        "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **changes,
    }  # fmt: skip


def test_the_dual_sampler_on_flux_finds_its_phrases_and_says_experimental(caplog) -> None:
    from realcompo.balancer.comfy.inputs import checks
    from realcompo.nodes.sampling import RealCompoDualSampler

    checks._say_experimental.cache_clear()
    prompt = "A (red star:1.2) and a blue circle"
    models = tuple(tiny_dit.flux(seed, context=4096) for seed in (1, 2))
    text = [[c, {"pooled_output": torch.zeros(1, 32)}] for c, _ in flux_conditioning(prompt)]
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        # a guided-distilled Flux runs without a negative, at cfg 1
        for cfg in (2.0, 1.0):
            inputs = sampler_inputs(models, text, prompt, cfg=cfg)
            latent, trace = RealCompoDualSampler().sample(**inputs)["result"]
    assert latent["samples"].shape == (1, 16, 16, 16)
    assert trace.steps[0].shares_realism is not None
    assert caplog.text.count("experimental") == 1


def test_each_branch_counts_the_tokens_of_its_own_conditioning() -> None:
    """SD3 with T5 on one side and without on the other."""
    from realcompo.nodes.sampling import build_guider

    prompt = "a red star and a blue circle"
    models = tuple(tiny_dit.sd3(seed, context=4096) for seed in (1, 2))
    texts = [
        [[c, {"pooled_output": torch.zeros(1, 32)}] for c, _ in sd3_conditioning(prompt, t5=t5)]
        for t5 in (True, False)
    ]
    inputs = sampler_inputs(models, texts[0], prompt, spatial_positive=texts[1])
    for name in ("latent_image", "seed", "steps", "sampler_name", "scheduler", "denoise"):
        del inputs[name]
    guider = build_guider(**inputs)
    with_t5, without = guider.regions.tokens[0], guider.spatial_regions.tokens[0]
    assert all(set(b) < set(a) for a, b in zip(with_t5, without, strict=True))
    assert max(max(span) for span in without) < 77 <= max(max(span) for span in with_t5)
    latent = pair.run(guider, tiny_dit.noise("sd3"), 2)
    assert torch.isfinite(latent).all()
    assert guider.trace.steps[0].shares_spatial is not None


@EVERY
def test_lagged_reads_the_predictions_on_their_way(family, monkeypatch) -> None:
    """As mode dynamic with the probe latent put back to the step's own, without its passes."""
    from realcompo.balancer.comfy.realcompo import guider as module

    models, noise = models_of(family), tiny_dit.noise(family)
    lagged = pair.guider(*models, replace(PAPER, mode="lagged"), **TEXTS)
    with counting(realism=models[0], spatial=models[1]) as counts:
        latent = pair.run(lagged, noise, steps=STEPS)
    assert counts.total("full_samples") == 4 * STEPS
    assert counts.total("partial") == 0 and counts.backward == 2 * STEPS
    monkeypatch.setattr(module, "probe_latent", lambda x, mixed, sigma, to: x)
    reference = pair.guider(*models, PAPER, **TEXTS)
    expected = pair.run(reference, noise, steps=STEPS)
    assert (latent - expected).abs().max() < 1e-3 * expected.std()
    for one, other in zip(lagged.trace.steps, reference.trace.steps, strict=True):
        torch.testing.assert_close(one.mix, other.mix, rtol=1e-3, atol=1e-4)
    assert max(float((r.mix - 0.5).abs().max()) for r in lagged.trace.steps) > 1e-3
