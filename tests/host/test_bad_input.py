"""Bad input: one sentence that names node, input and remedy, before anything is sampled.

The rows of docs/bad_input.md, in its order.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layout import Layout, Region
from realcompo.balancer.settings import BalancerSettings

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
    guider = pair.guider(*models, BalancerSettings(mode="fixed"))
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
    from realcompo.balancer.comfy import checks

    if checks.has_attention_override():
        monkeypatch.setattr(checks, "has_attention_override", lambda: False)
    flux = tiny.tiny_flux(1)
    error = refuse(models, monkeypatch, realism_model=flux, spatial_model=flux)
    assert error.where == "realism_model"
    assert "Flux" in str(error)
    assert "fixed" in error.remedy
    assert "update ComfyUI" in error.remedy


def test_conditioning_whose_tokens_are_not_certain(models, monkeypatch) -> None:
    """Encoded by another text encoder, or joined: wrong words would steer the picture."""
    from realcompo.balancer.comfy import checks

    if not checks.has_attention_override():
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
    error = refuse(models, monkeypatch, balancer=BalancerSettings(map_level="8"))
    assert error.where == "balancer"
    assert "map_level" in str(error)
    assert "1, 2" in str(error)


def test_empty_trace() -> None:
    from realcompo.balancer.trace import Trace
    from realcompo.nodes.inspection import RealCompoTracePlot

    with pytest.raises(RealCompoError, match="^RealCompo Trace Plot, input 'trace'"):
        RealCompoTracePlot().plot(Trace())
    with pytest.raises(RealCompoError, match="^RealCompo Trace Plot, input 'trace'"):
        RealCompoTracePlot().plot("a trace")


def test_videos_are_refused_by_dynamic_only() -> None:
    from realcompo.balancer.comfy.checks import check_latent

    model = tiny.tiny_unet(1)
    video = torch.zeros(1, 4, 3, 16, 16)
    check_latent(model, {"positive": []}, video, video, BalancerSettings(mode="fixed"))
    with pytest.raises(RealCompoError, match="fixed"):
        check_latent(model, {"positive": []}, video, video, BalancerSettings())
    picture = video[:, :, :1]
    check_latent(model, {"positive": []}, picture, picture, BalancerSettings())
