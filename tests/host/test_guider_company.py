"""The pair among masks, areas, ControlNet, LoRA, hooks and other packs' patches."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import plain_settings, preset

from . import pair, tiny

SETTINGS = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)
ALONE = {
    which: plain_settings(initial_mix=mix, region_prior=0.0, end=1.0, every=1)
    for which, mix in (("realism", 1.0), ("spatial", 0.0))
}


def new_host() -> bool:
    import comfy.samplers

    return hasattr(comfy.samplers.CFGGuider, "outer_sample")


def test_a_layout_for_every_sample_equals_singles(models) -> None:
    """One with fewer regions, and another kind of region, beside the usual one."""
    one = Layout((Region("alone", (0.25, 0.0, 0.75, 0.5), tokens=(4,), weight=2.0),))
    layouts = [pair.LAYOUT, one, pair.LAYOUT]
    tokens = [tuple(r.tokens for r in layout.regions) for layout in layouts]
    settings = preset("equilibrium", every=1, end=1.0, rate=20.0, rate_end=20.0)
    noise = tiny.latent_noise(5, batch=3)
    batch = pair.run(pair.guider(*models, settings, layout=layouts, tokens=tokens), noise)
    scale = batch.abs().max()
    for index, layout in enumerate(layouts):
        alone = pair.run(pair.guider(*models, settings, layout=layout), noise[index : index + 1])
        assert (batch[index : index + 1] - alone).abs().max() < 1e-3 * scale
    other = pair.run(pair.guider(*models, settings), noise)
    assert (other[1] - batch[1]).abs().max() > 1e-2 * scale
    assert (other[0] - batch[0]).abs().max() < 1e-3 * scale


def test_as_many_layouts_as_latents(models) -> None:
    guider = pair.guider(*models, SETTINGS, layout=[pair.LAYOUT] * 2, tokens=[pair.TOKENS] * 2)
    with pytest.raises(RealCompoError, match="2 layouts for 3 latents"):
        pair.run(guider, tiny.latent_noise(5, batch=3))


def test_the_realism_models_last_steps_cost_one_model(models) -> None:
    settings = preset("equilibrium", realism_only=0.5)
    guider = pair.guider(*models, settings)
    pair.run(guider, tiny.latent_noise(5), 6)
    assert [record.phase for record in guider.trace.steps][3:] == ["realism"] * 3
    assert guider.trace.forwards == 3 * 4 + 3 * 2
    assert all(bool((record.mix == 1).all()) for record in guider.trace.steps[3:])


def test_batch_equals_singles(models) -> None:
    batch = pair.run(pair.guider(*models, SETTINGS), tiny.latent_noise(5, batch=3))
    for index in range(3):
        one = pair.run(pair.guider(*models, SETTINGS), tiny.latent_noise(5 + index))
        scale = one.std()
        assert (batch[index : index + 1] - one).abs().max() < 1e-3 * scale


def test_image_to_image_and_mask(models, noise) -> None:
    latent = tiny.latent_noise(11)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0
    out = pair.run(pair.guider(*models, SETTINGS), noise, latent=latent, denoise=0.6, mask=mask)
    torch.testing.assert_close(out[..., :8], latent[..., :8], atol=1e-5, rtol=1e-5)
    assert (out[..., 8:] - latent[..., 8:]).abs().max() > 0.5
    for which, model in zip(("realism", "spatial"), models, strict=True):
        mixed = pair.run(pair.guider(*models, ALONE[which]), noise, latent=latent, denoise=0.6)
        assert torch.equal(mixed, pair.run_alone(model, noise, latent=latent, denoise=0.6))


@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_controlnet_on_either_branch(models, noise, branch) -> None:
    control = tiny.tiny_controlnet(6)
    steered = tiny.with_control(tiny.conditioning(3), control, 7)
    which = "positive" if branch == "realism" else "spatial_positive"
    guider = pair.guider(*models, SETTINGS, **{"positive": tiny.conditioning(3), which: steered})
    first, second = pair.run(guider, noise), pair.run(guider, noise)
    assert torch.equal(first, second)
    assert guider.trace.skipped_gradients == 0
    plain = pair.run(pair.guider(*models, SETTINGS), noise)
    assert (first - plain).abs().max() > 1e-2 * plain.std()
    model = models[0] if branch == "realism" else models[1]
    alone = pair.guider(
        *models,
        ALONE[branch],
        positive=tiny.conditioning(3),
        **({} if branch == "realism" else {"spatial_positive": steered}),
    )
    if branch == "spatial":
        expected = pair.run_alone(model, noise, positive=steered)
        assert torch.equal(pair.run(alone, noise), expected)


def test_gradient_with_controlnet_is_the_true_passes(models, monkeypatch) -> None:
    """The host adds ControlNet residuals in place; finite differences go through that forward.

    The residuals are held constant: the gradient does not flow through the ControlNet itself.
    """
    import comfy.sampler_helpers
    import comfy.samplers

    model = models[1].model
    steered = tiny.with_control(tiny.conditioning(3), tiny.tiny_controlnet(6), 7)
    conds = {"positive": steered, "negative": tiny.conditioning(4)}
    conds = {k: comfy.sampler_helpers.convert_cond(v) for k, v in conds.items()}
    x = tiny.latent_noise(5) * 3
    net = steered[0][1]["control"]
    compute, kept = net.get_control, []

    def constant(*args):
        if not kept:
            kept.append(compute(*args))
        return {key: [t.clone() for t in value] for key, value in kept[0].items()}

    monkeypatch.setattr(net, "get_control", constant)
    with torch.inference_mode():
        if new_host():
            models[1].pre_run()
        conds = comfy.samplers.process_conds(model, x, conds, x.device)

        def loss(latent: torch.Tensor):
            return pair.probed(model, conds["positive"][0], latent, 2.0, factor=1)

        result = loss(x)
        direction = result.gradient / result.gradient.norm()
        slope = (loss(x + 2e-2 * direction).loss - loss(x - 2e-2 * direction).loss) / 4e-2
        if new_host():
            models[1].cleanup()
    assert kept
    assert float(slope) == pytest.approx(float(result.gradient.norm()), rel=2e-2)


def test_an_attention_patch_of_another_pack_stays_in_force(models, noise) -> None:
    """An IPAdapter-style replacement is called for the result, in probe and prediction."""
    patched = models[0].clone()
    seen = {"probe": 0, "prediction": 0}

    def adapter(query, key, value, extra):
        seen["probe" if torch.is_grad_enabled() else "prediction"] += 1
        from realcompo.balancer.comfy.attention.readers import differentiable_attention

        return 1.5 * differentiable_attention(query, key, value, extra)

    patched.set_model_attn2_replace(adapter, "input", 1)
    before = dict(patched.model_options["transformer_options"]["patches_replace"]["attn2"])
    guider = pair.guider(patched, models[1], SETTINGS)
    pair.run(guider, noise)
    assert seen["prediction"] == 6
    assert seen["probe"] == 6
    assert patched.model_options["transformer_options"]["patches_replace"]["attn2"] == before
    assert models[0].model_options["transformer_options"] == {}
    alone = pair.run_alone(patched, noise)
    assert torch.equal(pair.run(pair.guider(patched, models[1], ALONE["realism"]), noise), alone)


def test_wrapper_and_post_cfg_of_each_model(models, noise) -> None:
    patched = [model.clone() for model in models]
    counts = [{"wrapper": 0, "post": 0} for _ in patched]
    for model, count in zip(patched, counts, strict=True):

        def wrapper(apply_model, args, count=count):
            count["wrapper"] += 1
            return apply_model(args["input"], args["timestep"], **args["c"])

        def post(args, count=count):
            count["post"] += 1
            return args["denoised"]

        model.set_model_unet_function_wrapper(wrapper)
        model.set_model_sampler_post_cfg_function(post)
    mixed = pair.run(pair.guider(*patched, SETTINGS), noise)
    assert [count["post"] for count in counts] == [6, 6]
    assert all(count["wrapper"] >= 12 for count in counts)
    assert torch.equal(mixed, pair.run(pair.guider(*models, SETTINGS), noise))


def lora(model, strength: float):
    """A weight patch on one matrix, as a LoRA loader puts it."""
    patched = model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
    weight = patched.model.state_dict()[key]
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    patched.add_patches({key: (delta * strength,)})
    return patched


def test_one_checkpoint_with_a_lora_on_one_branch(models, noise) -> None:
    plain, styled = models[0], lora(models[0], 0.5)
    alone = pair.run_alone(plain, noise), pair.run_alone(styled, noise)
    assert not torch.equal(*alone)
    for which, expected in (("realism", alone[1]), ("spatial", alone[0])):
        result = pair.run(pair.guider(styled, plain, ALONE[which]), noise)
        assert torch.equal(result, expected)
    once = pair.run(pair.guider(styled, plain, SETTINGS), noise)
    assert torch.equal(once, pair.run(pair.guider(styled, plain, SETTINGS), noise))
    assert torch.equal(pair.run_alone(plain, noise), alone[0])


def test_several_positives_areas_and_ranges(models, noise) -> None:
    """The first entry in force carries the layout; at a step without one the mix is held."""
    area = tiny.conditioning(3)
    area[0][1]["area"] = (12, 10, 2, 4)
    area[0][1]["strength"] = 1.0
    both = area + tiny.conditioning(9)
    guider = pair.guider(*models, SETTINGS, positive=both)
    assert torch.isfinite(pair.run(guider, noise)).all()
    assert guider.trace.backwards == 12
    late = tiny.conditioning(3)
    late[0][1]["start_percent"], late[0][1]["end_percent"] = 0.0, 0.4
    rest = tiny.conditioning(9)
    rest[0][1]["start_percent"], rest[0][1]["end_percent"] = 0.4, 1.0
    guider = pair.guider(*models, SETTINGS, positive=late + rest)
    pair.run(guider, noise)
    assert guider.trace.backwards == 12
    guider = pair.guider(*models, SETTINGS, positive=late)
    pair.run(guider, noise)
    assert 0 < guider.trace.backwards < 12


def test_gradient_of_an_area_reaches_its_area_only(models) -> None:
    from realcompo.balancer.comfy.realcompo.probe import Probe

    seen: list[torch.Tensor] = []
    original = Probe.run

    def run(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        seen.append(result.gradient)
        return result

    area = tiny.conditioning(3)
    area[0][1]["area"] = (8, 10, 4, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probe, "run", run)
        pair.run(pair.guider(*models, SETTINGS, positive=area), tiny.latent_noise(5), 1)
    assert len(seen) == 2
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 2:12] = True
    for gradient in seen:
        assert gradient[..., inside].abs().max() > 0
        assert gradient[..., ~inside].abs().max() == 0


def test_weight_hooks_on_the_spatial_branch(models, noise) -> None:
    if not new_host():
        pytest.skip("hooks came with the hosts of December 2024")
    hooked = tiny.with_weight_hook(tiny.conditioning(3), tiny.difference(models[1]))
    before = {k: v.clone() for k, v in models[1].model.state_dict().items()}
    alone = pair.run_alone(models[1], noise, positive=hooked)
    assert not torch.equal(alone, pair.run_alone(models[1], noise))
    guider = pair.guider(
        *models, ALONE["spatial"], positive=tiny.conditioning(3), spatial_positive=hooked
    )
    assert torch.equal(pair.run(guider, noise), alone)
    after = models[1].model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    # one model behind both branches: the hook may act on its own branch only
    shared = pair.guider(
        models[1], models[1], ALONE["realism"], positive=tiny.conditioning(3),
        spatial_positive=hooked,
    )  # fmt: skip
    assert torch.equal(pair.run(shared, noise), pair.run_alone(models[1], noise))


def test_both_models_are_loaded_in_one_call(models, noise, monkeypatch) -> None:
    if not new_host():
        pytest.skip("hosts of 2024 load the second model in a second call")
    import comfy.model_management as management

    calls: list[set[int]] = []
    real = management.load_models_gpu

    def load(wanted, *args, **kwargs):
        calls.append({id(patcher.model) for patcher in wanted})
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", load)
    gligen = tiny.tiny_gligen(models[1], 7)
    grounded = tiny.with_gligen(tiny.conditioning(3), gligen, [(tiny.pooled_phrase(8), 8, 8, 0, 0)])
    guider = pair.guider(
        *models, SETTINGS, positive=tiny.conditioning(3), spatial_positive=grounded
    )
    pair.run(guider, noise, steps=2)
    assert calls == [{id(models[0].model), id(models[1].model), id(gligen.model)}]


def test_weights_cast_at_every_use(models, noise) -> None:
    """With too little memory the host keeps weights elsewhere and casts them in every layer."""
    expected = pair.run(pair.guider(*models, SETTINGS), noise, steps=3)
    layers = [
        layer for model in models for layer in model.model.modules()
        if hasattr(layer, "comfy_cast_weights")
    ]  # fmt: skip
    try:
        for layer in layers:
            layer.comfy_cast_weights = True
        result = pair.run(pair.guider(*models, SETTINGS), noise, steps=3)
    finally:
        for layer in layers:
            layer.comfy_cast_weights = False
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)


def test_sdxl_and_its_vector_input(noise) -> None:
    models = tiny.tiny_sdxl(1), tiny.tiny_sdxl(2)
    texts = tiny.conditioning(3, pooled=1280), tiny.conditioning(4, pooled=1280)
    guider = pair.guider(*models, SETTINGS, *texts)
    assert torch.isfinite(pair.run(guider, noise, steps=2)).all()
    assert guider.trace.backwards == 4


def test_patches_that_write_in_place(models, noise) -> None:
    """FreeU and others scale activations in place, which autograd may have saved."""
    plain, writing = models[0].clone(), models[0].clone()

    def scaled(h, skip, options):
        return h * 1.2, skip

    def scale_in_place(h, skip, options):
        h[:, ::2] *= 1.2
        h[:, 1::2] *= 1.2
        return h, skip

    plain.set_model_output_block_patch(scaled)
    writing.set_model_output_block_patch(scale_in_place)
    expected = pair.run(pair.guider(plain, models[1], SETTINGS), noise)
    result = pair.run(pair.guider(writing, models[1], SETTINGS), noise)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)


def test_previews_and_progress(models, noise) -> None:
    """The sampler's callback sees every step once, with a latent to preview."""
    seen: list[tuple[int, torch.Size, int]] = []

    def callback(step, x0, x, total) -> None:
        seen.append((step, x0.shape, total))

    pair.run(pair.guider(*models, SETTINGS), noise, callback=callback)
    assert seen == [(step, noise.shape, 6) for step in range(6)]


def test_a_run_in_two_parts(models, noise) -> None:
    """Schedules that end above zero, and empty ones, as the host's advanced nodes make them."""
    import comfy.samplers

    sigmas = pair.sigmas_for(models[0], 6)
    sampler = comfy.samplers.sampler_object("euler")
    zeros = torch.zeros_like(noise)
    guider = pair.guider(*models, ALONE["realism"])
    with torch.inference_mode():
        half = guider.sample(noise, zeros, sampler, sigmas[:4], disable_pbar=True)
        rest = guider.sample(zeros, half, sampler, sigmas[3:], disable_pbar=True)
        empty = guider.sample(noise, half, sampler, sigmas[:0], disable_pbar=True)
    torch.testing.assert_close(rest, pair.run_alone(models[0], noise), rtol=1e-4, atol=1e-3)
    assert torch.equal(empty, half)
