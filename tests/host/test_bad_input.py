"""Bad input: one sentence that names node, input and remedy, before anything is sampled.

The rows of docs/bad_input.md, in its order.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings

from . import pair, tiny, tiny_dit

PROMPT = "a red star and a blue circle"
BOX = (0.1, 0.1, 0.5, 0.5)


def sampler_inputs(models, **changes) -> dict[str, Any]:
    """What a graph gives RealCompo Dual Sampler; ``changes`` spoil it."""
    other = Region("a blue circle", (0.5, 0.5, 0.9, 0.9))
    layout = Layout((Region("a red star", BOX), other), PROMPT)
    inputs = {
        "realism_model": models[0], "spatial_model": models[1],
        "positive": tiny.conditioning(3), "negative": tiny.conditioning(4), "layout": layout,
        "latent_image": {"samples": torch.zeros(1, 4, 16, 16)}, "seed": 1, "steps": 2,
        "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    return {**inputs, **changes}


def refuse(models, monkeypatch, **changes) -> RealCompoError:
    """The dual sampler's complaint; fails if any model was run or loaded."""
    import comfy.model_management as management
    import comfy.samplers
    from realcompo.nodes.sampling import RealCompoDualSampler

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("sampling had started")

    monkeypatch.setattr(comfy.samplers, "sampling_function", never)
    monkeypatch.setattr(management, "load_models_gpu", never)
    with torch.inference_mode(), pytest.raises(RealCompoError) as caught:
        RealCompoDualSampler().sample(**sampler_inputs(models, **changes))
    error = caught.value
    assert re.fullmatch(r"RealCompo Dual Sampler, input '\w+': [^\n]+\.", str(error))
    assert error.__cause__ is None
    assert error.remedy
    return error


def test_good_input_is_sampled(models) -> None:
    from realcompo.nodes.sampling import RealCompoDualSampler

    with torch.inference_mode():
        out = RealCompoDualSampler().sample(**sampler_inputs(models))
    latent, trace = out["result"]
    assert latent["samples"].shape == (1, 4, 16, 16)
    assert len(trace.steps) == 2


def test_phrase_that_is_not_in_the_prompt(models, monkeypatch) -> None:
    layout = Layout((Region("red stars", BOX),), PROMPT)
    error = refuse(models, monkeypatch, layout=layout)
    assert error.where == "layout"
    assert "red stars" in str(error)
    assert "red star'" in str(error)


def test_layout_without_a_prompt(models, monkeypatch) -> None:
    error = refuse(models, monkeypatch, layout=Layout((Region("red star", BOX),)))
    assert "prompt" in str(error)


def test_empty_layout(models, monkeypatch) -> None:
    assert refuse(models, monkeypatch, layout=Layout((), PROMPT)).where == "layout"


@pytest.mark.parametrize(
    "box",
    ["0.1 0.1 0.5 1.2", "-0.1 0.1 0.5 0.5", "0.5 0.1 0.1 0.5", "0.2 0.1 0.2 0.5", "0.1 nan 1 1"],
)
def test_boxes_outside_inverted_or_flat(box) -> None:
    from realcompo.nodes.layouts import RealCompoLayoutFromBoxes

    with pytest.raises(RealCompoError, match="^RealCompo Layout From Boxes, input '") as caught:
        RealCompoLayoutFromBoxes().build(f"a red star: {box}", prompt=PROMPT)
    assert caught.value.remedy


def test_nan_in_the_latent(models, monkeypatch) -> None:
    samples = torch.full((1, 4, 16, 16), float("nan"))
    error = refuse(models, monkeypatch, latent_image={"samples": samples})
    assert error.where == "latent_image"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("realism_model", None), ("spatial_model", "a name"), ("layout", {"regions": []}),
        ("positive", torch.zeros(1, 77, 64)), ("negative", None), ("latent_image", [1]),
        ("balancer", {"rate": 1}), ("spatial_positive", [torch.zeros(1)]),
    ],
)  # fmt: skip
def test_wrong_wire_type(models, monkeypatch, where, value) -> None:
    assert refuse(models, monkeypatch, **{where: value}).where == where


def test_more_regions_than_gligen_takes(models) -> None:
    from realcompo.nodes.layouts import RealCompoApplyGLIGEN

    class Clip:
        def tokenize(self, text: str) -> str:
            return text

        def encode_from_tokens(self, tokens: str, return_pooled: str) -> tuple[Any, torch.Tensor]:
            return None, torch.zeros(1, 768)

    layout = Layout(tuple(Region(f"thing {n}", BOX) for n in range(31)), PROMPT)
    gligen = tiny.tiny_gligen(models[1], 7)
    with pytest.raises(RealCompoError, match="^RealCompo Apply GLIGEN, input 'layout': .*31.*30"):
        RealCompoApplyGLIGEN().apply(tiny.conditioning(3), Clip(), gligen, layout)
    with pytest.raises(RealCompoError, match="^RealCompo Apply GLIGEN, input 'gligen"):
        RealCompoApplyGLIGEN().apply(tiny.conditioning(3), Clip(), None, layout)


def test_mismatched_batch(models, monkeypatch) -> None:
    error = refuse(
        models, monkeypatch, positive=tiny.conditioning(3, batch=3),
        latent_image={"samples": torch.zeros(2, 4, 16, 16)},
    )  # fmt: skip
    assert "3 pictures" in str(error)
    error = refuse(
        models, monkeypatch, spatial_positive=tiny.conditioning(3, batch=3),
        latent_image={"samples": torch.zeros(2, 4, 16, 16)},
    )  # fmt: skip
    assert error.where == "spatial_positive"


def test_latents_of_another_shape(models, monkeypatch) -> None:
    samples = torch.randn(1, 16, 16, 16)
    error = refuse(models, monkeypatch, latent_image={"samples": samples})
    assert error.where == "latent_image"
    assert "16 channels" in str(error)
    guider = pair.guider(*models, plain_settings(mode="fixed"))
    with pytest.raises(RealCompoError, match="differ"):
        guider.sample(torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 8, 8), None, torch.ones(3))


def test_models_of_different_latents(models, monkeypatch) -> None:
    for other, name in ((tiny.tiny_sdxl(1), "SDXL"), (tiny.tiny_flux(1), "Flux")):
        error = refuse(models, monkeypatch, spatial_model=other)
        assert error.where == "spatial_model"
        assert "SD15" in str(error)
        assert name in str(error)


def test_models_whose_attention_cannot_be_read(models, monkeypatch) -> None:
    pytest.importorskip("comfy.ldm.lumina.model")
    lumina = tiny_dit.lumina2(1)
    error = refuse(models, monkeypatch, realism_model=lumina, spatial_model=lumina)
    assert error.where == "realism_model"
    assert "Lumina2" in str(error)
    assert "fixed" in error.remedy


def test_a_host_that_lets_nobody_read_joint_attention(models, monkeypatch) -> None:
    from realcompo.balancer.comfy.attention import joint

    if joint.has_attention_override():
        monkeypatch.setattr(joint, "has_attention_override", lambda: False)
    flux = tiny.tiny_flux(1)
    error = refuse(models, monkeypatch, realism_model=flux, spatial_model=flux)
    assert error.where == "realism_model"
    assert "Flux" in str(error)
    assert "fixed" in error.remedy
    assert "update ComfyUI" in error.remedy


def test_conditioning_whose_tokens_are_not_certain(models, monkeypatch) -> None:
    """Encoded by another text encoder, or joined: wrong words would steer the picture."""
    from realcompo.balancer.comfy.attention import joint

    if not joint.has_attention_override():
        pytest.skip("this host cannot balance Flux")
    flux = tiny.tiny_flux(1)
    error = refuse(models, monkeypatch, realism_model=flux, spatial_model=flux)
    assert error.where == "positive"
    assert "not certain" in str(error)
    assert "token positions" in error.remedy


def test_prompt_longer_than_the_conditioning(models, monkeypatch) -> None:
    layout = Layout((Region("far", BOX, tokens=(90,)),), PROMPT)
    error = refuse(models, monkeypatch, layout=layout)
    assert "token 90" in str(error)


def test_settings_out_of_range() -> None:
    from realcompo.nodes.sampling import RealCompoBalancer

    numbers = {
        "rate": 1.0, "rate_end": 1.0, "normalize_rate": True, "memory": 2.0, "smoothing": 0,
        "initial_mix": 0.5, "region_prior": 0.0, "prior_until": 0.3, "spatial_only": 0.0,
        "start": 0.0, "end": 1.0, "every": 1,
    }  # fmt: skip
    with pytest.raises(RealCompoError, match="^RealCompo Balancer Settings, input 'memory'"):
        RealCompoBalancer().settings("custom", "dynamic", **numbers)


def test_a_level_that_the_model_does_not_have(models, monkeypatch) -> None:
    error = refuse(models, monkeypatch, balancer=plain_settings(map_level="8"))
    assert error.where == "balancer"
    assert "map_level" in str(error)
    assert "1, 2" in str(error)


def test_empty_trace() -> None:
    from realcompo.balancer.realcompo.trace import Trace
    from realcompo.nodes.inspection import RealCompoTracePlot

    with pytest.raises(RealCompoError, match="^RealCompo Trace Plot, input 'trace'"):
        RealCompoTracePlot().plot(Trace())
    with pytest.raises(RealCompoError, match="^RealCompo Trace Plot, input 'trace'"):
        RealCompoTracePlot().plot("a trace")


def test_a_picture_models_latent_has_no_frames(models, monkeypatch) -> None:
    """Not even one, and no mode could do with them: nobody is sent to another."""
    for mode in ("dynamic", "lagged", "fixed"):
        for frames in (1, 3):
            error = refuse(
                models, monkeypatch, balancer=plain_settings(mode=mode),
                latent_image={"samples": torch.zeros(1, 4, frames, 16, 16)},
            )  # fmt: skip
            assert error.where == "latent_image" and "fixed" not in error.remedy
            assert "(1, 4, " in error.problem


def test_videos_are_sampled_in_fixed_mode_as_the_sentence_says(monkeypatch) -> None:
    pytest.importorskip("comfy.ldm.qwen_image.model")
    models = tiny_dit.models_of("qwen")
    texts = {"positive": tiny_dit.conditioning(3), "negative": tiny_dit.conditioning(4)}
    video = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    try:
        alone = [pair.run_alone(model, video, 2, **texts) for model in models]
    except RuntimeError:
        pytest.skip("this ComfyUI's own sampler cannot do it")
    with pytest.raises(RealCompoError, match="fixed") as caught:
        pair.run(pair.guider(*models, BalancerSettings(), **texts), video, 2)
    assert caught.value.where == "latent_image"
    settings = plain_settings(
        mode="fixed", initial_mix=0.5, region_prior=4.0, prior_until=1.0, match_background=1.0
    )
    out = pair.run(pair.guider(*models, settings, **texts), video, 2)
    assert out.shape == video.shape and torch.isfinite(out).all()
    ends = [
        pair.run(
            pair.guider(
                *models, plain_settings(mode="fixed", initial_mix=mix, region_prior=0.0), **texts
            ), video, 2,
        )
        for mix in (0.0, 1.0)
    ]  # fmt: skip
    assert torch.equal(ends[1], alone[0]) and torch.equal(ends[0], alone[1])


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        *[("cfg", value) for value in (NAN, INFINITY, -1.0, None)],
        *[("denoise", value) for value in (NAN, INFINITY, -0.5, 1.5)],
        *[("steps", value) for value in (0, 2.5, 100_000)],
        *[("seed", value) for value in (-1, 2**64, 0.5)],
        ("latent_image", {"samples": torch.zeros(0, 4, 16, 16)}),
        ("latent_image", {"samples": torch.zeros(1, 4, 0, 16)}),
        ("latent_image", {"samples": torch.zeros(1, 4, 16, 16, dtype=torch.complex64)}),
        *[
            ("latent_image", {"samples": torch.zeros(1, 4, 16, 16), "noise_mask": mask})
            for mask in (torch.full((1, 16, 16), NAN), torch.zeros(0, 8, 8))
        ],
    ],
)  # fmt: skip
def test_numbers_that_nobody_can_sample_with(models, monkeypatch, where, value) -> None:
    assert refuse(models, monkeypatch, **{where: value}).where == where


@pytest.mark.parametrize(
    "where", ["positive", "negative", "spatial_positive", "spatial_negative"]
)  # fmt: skip
def test_conditioning_that_cannot_be_sampled_with(models, monkeypatch, where) -> None:
    bad = tiny.conditioning(3)
    bad[0][0][0, 5, 5] = NAN
    assert "NaN" in refuse(models, monkeypatch, **{where: bad}).problem
    pooled = [[tiny.conditioning(3)[0][0], {"pooled_output": torch.full((1, 8), INFINITY)}]]
    assert "pooled_output" in refuse(models, monkeypatch, **{where: pooled}).problem
    error = refuse(models, monkeypatch, **{where: tiny.conditioning(3, dim=96)})
    assert "96" in error.problem and "64" in error.problem
    for mode in ("dynamic", "fixed"):
        balancer = plain_settings(mode=mode)
        error = refuse(models, monkeypatch, balancer=balancer, **{where: []})
        assert error.where == where and "empty" in error.problem


@pytest.mark.parametrize("mode", ["dynamic", "lagged"])
def test_attention_masks_that_keep_tokens_out(mode) -> None:
    """By minus infinity: no fault where it is taken as it is, NaN where the host stretches it."""
    from realcompo.balancer.comfy.host.compat import has_attention_override

    import nodes

    if "strength_type" not in nodes.StyleModelApply.INPUT_TYPES()["required"]:
        pytest.skip("this ComfyUI's style models know no attention bias")
    if not has_attention_override():
        pytest.skip("this ComfyUI lets nobody read joint attention")

    class Style:
        def get_cond(self, seen: Any) -> torch.Tensor:
            return torch.randn(1, 6, tiny_dit.CONTEXT, generator=torch.Generator().manual_seed(9))

    def styled(strength: float) -> Any:
        text = tiny_dit.conditioning(3)
        apply = nodes.StyleModelApply().apply_stylemodel
        return apply(text, Style(), None, strength, "attn_bias")[0]

    models, noise = tiny_dit.models_of("flux"), tiny_dit.noise("flux")
    settings = plain_settings(mode=mode, spatial_only=0.0)

    def run(positive: Any) -> torch.Tensor:
        guider = pair.guider(*models, settings, positive, tiny_dit.conditioning(4))
        return pair.run(guider, noise, 2)

    # the host's own sampler makes NaN of that, without a word
    assert not torch.isfinite(pair.run_alone(models[0], noise, 2, positive=styled(0.0),
        negative=tiny_dit.conditioning(4))).all()  # fmt: skip
    with pytest.raises(RealCompoError, match="strength above 0") as caught:
        run(styled(0.0))
    assert caught.value.where == "positive"
    assert torch.isfinite(run(styled(0.5))).all()

    # a mask in the picture's own size is taken as it is
    text, options = styled(0.0)[0]
    patches = [side // 2 for side in noise.shape[-2:]]
    rows = text.shape[1] + patches[0] * patches[1]
    mask = torch.zeros(1, rows, rows)
    mask[:, :, tiny_dit.LENGTH : text.shape[1]] = -INFINITY
    sized = {**options, "attention_mask": mask, "attention_mask_img_shape": tuple(patches)}
    torch.testing.assert_close(
        run([[text, sized]]), run(tiny_dit.conditioning(3)), rtol=1e-2, atol=1e-2
    )
    for bad in (NAN, INFINITY):
        spoilt = [[text, {**sized, "attention_mask": torch.full_like(mask, bad)}]]
        with pytest.raises(RealCompoError, match="attention_mask in it holds NaN or infinity"):
            run(spoilt)


def test_a_negative_that_is_not_asked_may_be_empty(models) -> None:
    """At a guidance of 1 the host has no use for it either."""
    from realcompo.nodes.sampling import RealCompoDualSampler

    for negative in ([], tiny.conditioning(4)):
        inputs = sampler_inputs(models, negative=negative, cfg=1.0)
        with torch.inference_mode():
            out = RealCompoDualSampler().sample(**inputs)["result"][0]
        assert torch.isfinite(out["samples"]).all()


def test_a_width_that_another_pack_converts_is_not_judged(models) -> None:
    from realcompo.balancer.comfy.inputs.encoded import text_width

    model = models[0]
    assert text_width(model) == 64
    assert text_width(tiny.tiny_sdxl(1)) == 64
    assert text_width(tiny.tiny_flux(1)) == 48
    wrapped, patched = model.clone(), model.clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], **args["c"]))
    patched.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v))
    assert text_width(wrapped) is None and text_width(patched) is None


def test_whole_numbers_and_truths_are_converted(models) -> None:
    """Latents of whole numbers and masks of true and false are what their floats are."""
    from realcompo.nodes.sampling import RealCompoDualSampler

    def sampled(samples: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        latent = {"samples": samples, "noise_mask": mask}
        with torch.inference_mode():
            return RealCompoDualSampler().sample(**sampler_inputs(models, latent_image=latent))[
                "result"
            ][0]["samples"]

    samples = torch.ones(1, 4, 16, 16)
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1.0
    expected = sampled(samples, mask)
    for kind in (torch.int64, torch.uint8):
        assert torch.equal(sampled(samples.to(kind), mask), expected)
    for kind in (torch.bool, torch.int32):
        assert torch.equal(sampled(samples, mask.to(kind)), expected)


def test_sigmas_that_are_no_schedule(models) -> None:
    noise = tiny.latent_noise(5)
    guider = pair.guider(*models, BalancerSettings())
    for sigmas in (torch.tensor([NAN, 0.0]), torch.tensor([INFINITY, 0.0]), torch.tensor([-1.0])):
        with pytest.raises(RealCompoError, match="noise levels") as caught:
            guider.sample(noise, noise, None, sigmas)
        assert caught.value.where == "sigmas"
