"""What comes as a latent: of another scale, of picture and sound, for several cards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor

from . import pair, tiny
from .test_attention_look import read
from .test_guider_company import ALONE, SETTINGS

FIXED = preset("equilibrium", mode="fixed")


def knows_scales() -> bool:
    """Whether this host's empty latents say what they were made for (2026 on)."""
    import comfy.latent_formats

    return hasattr(comfy.latent_formats.LatentFormat, "spacial_downscale_ratio")


def coarse(model: Any) -> Any:
    """The model, with latents of 16 pixels a position."""
    import comfy.latent_formats

    class Coarse(comfy.latent_formats.SD15):
        spacial_downscale_ratio = 16

    patched = model.clone()
    patched.add_object_patch("latent_format", Coarse())
    return patched


def sampled(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    from realcompo.balancer.comfy.realcompo.sampling import sample_pair

    guider = pair.guider(model, model, ALONE["realism"])
    with torch.inference_mode():
        return sample_pair(guider, latent, 1, 2, "euler", "normal", 1.0)


def by_the_host(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    import nodes

    texts = tiny.conditioning(3), tiny.conditioning(4)
    with torch.inference_mode():
        return nodes.common_ksampler(
            model, 1, 2, pair.CFG, "euler", "normal", *texts, latent, denoise=1.0
        )[0]


def test_an_empty_latent_of_another_scale_is_the_ksamplers(models) -> None:
    if not knows_scales():
        pytest.skip("this ComfyUI's empty latents do not say what they were made for")
    latent = {
        "samples": torch.zeros(1, 16, 32, 32), "downscale_ratio_spacial": 8,
        "downscale_ratio_temporal": 1, "batch_index": [3],
    }  # fmt: skip
    model = coarse(models[0])
    ours, theirs = sampled(model, latent), by_the_host(model, latent)
    assert ours["samples"].shape == (1, 4, 16, 16)
    assert torch.equal(ours["samples"], theirs["samples"])
    assert ours.keys() == theirs.keys() == {"samples", "batch_index"}
    assert latent["downscale_ratio_spacial"] == 8


def test_samples_are_kept_in_the_hosts_dtype(models, monkeypatch) -> None:
    import comfy.model_management as management

    if not hasattr(management, "intermediate_dtype"):
        pytest.skip("this ComfyUI keeps latents as they come")
    monkeypatch.setattr(management, "intermediate_dtype", lambda: torch.float16)
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    ours, theirs = sampled(models[0], latent), by_the_host(models[0], latent)
    assert ours["samples"].dtype == torch.float16
    assert torch.equal(ours["samples"], theirs["samples"])


def test_attention_maps_of_an_empty_latent_of_another_scale(models) -> None:
    if not knows_scales():
        pytest.skip("this ComfyUI's empty latents do not say what they were made for")
    from realcompo.balancer.comfy.attention_report import read_attention

    sizes = []
    for size, told in ((32, {"downscale_ratio_spacial": 8}), (16, {})):
        latent = {"samples": torch.zeros(1, 4, size, size), **told}
        with torch.inference_mode():
            seen = read_attention(
                coarse(models[0]), tiny.conditioning(3), latent, pair.LAYOUT, pair.TOKENS, 1,
                (0.5,), "auto", "layers",
            )  # fmt: skip
        sizes.append([column.maps.shape for column in seen.columns[0]])
    assert sizes[0] == sizes[1]


def nested(kind: str) -> Any:
    parts = [torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 16, 16)]
    if kind == "torch":
        return torch.nested.nested_tensor([part[0] for part in parts])
    return pytest.importorskip(
        "comfy.nested_tensor", reason="this ComfyUI has no latents of picture and sound"
    ).NestedTensor(parts)


@pytest.mark.parametrize("kind", ["comfy", "torch"])
@pytest.mark.parametrize("settings", [FIXED, SETTINGS], ids=["fixed", "dynamic"])
def test_picture_and_sound_in_one_latent_are_refused(models, kind, settings) -> None:
    """At the node, and where another node samples with the guider."""
    from realcompo.balancer.comfy.inputs.types import require_latent

    latent = nested(kind)
    with pytest.raises(RealCompoError, match="several latents at once") as caught:
        require_latent({"samples": latent})
    assert caught.value.where == "latent_image"
    guider = pair.guider(*models, settings)
    with pytest.raises(RealCompoError, match="several latents at once"), torch.inference_mode():
        guider.sample(latent, latent, None, torch.ones(2))


# -- several cards ---------------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch) -> list[tuple[bool, int]]:
    """Predictions that the host would spread over several cards: with gradients?, which model."""
    import comfy.samplers

    if not hasattr(comfy.samplers, "_calc_cond_batch_multigpu"):
        pytest.skip("this ComfyUI runs a model on one card")
    seen: list[tuple[bool, int]] = []

    def spread(model: Any, conds: Any, x: Tensor, timestep: Tensor, options: dict) -> Any:
        seen.append((torch.is_grad_enabled(), id(model)))
        alone = {name: value for name, value in options.items() if name != "multigpu_clones"}
        return comfy.samplers._calc_cond_batch(model, conds, x, timestep, alone)

    monkeypatch.setattr(comfy.samplers, "_calc_cond_batch_multigpu", spread)
    return seen


def spread(model: Any) -> Any:
    """The model as the host prepares it for several cards."""
    copy = model.clone()
    copy.model_options["multigpu_clones"] = {}
    return copy


@pytest.mark.parametrize("mode", ["dynamic", "lagged"])
def test_looks_stay_on_the_models_own_card(models, noise, cards, mode) -> None:
    settings = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4, mode=mode)
    expected = pair.run(pair.guider(*models, settings), noise, steps=3)
    guider = pair.guider(*map(spread, models), settings)
    assert torch.equal(pair.run(guider, noise, steps=3), expected)
    assert guider.trace.backwards > 0
    assert not any(gradients for gradients, _ in cards)
    # predictions of the first model that nobody looks at may be spread
    assert {model for _, model in cards} == (
        {id(models[0].model)} if mode == "dynamic" else set()
    )  # fmt: skip
    cards.clear()
    pair.run(pair.guider(*map(spread, models), FIXED), noise, steps=2)
    assert {model for _, model in cards} == {id(models[0].model)}


def test_the_spatial_models_copies_are_not_taken_for_the_firsts(models) -> None:
    if not hasattr(models[0], "get_additional_models_with_key"):
        pytest.skip("this ComfyUI runs a model on one card")
    several = models[1].clone()
    several.set_additional_models("multigpu", [models[1].clone()])
    guider = pair.guider(models[0], several, SETTINGS)
    assert guider.companions[0].patcher.get_additional_models_with_key("multigpu") == []
    assert several.get_additional_models_with_key("multigpu") != []


def test_attention_maps_and_training_stay_on_one_card(models, cards) -> None:
    import comfy.samplers
    from realcompo.balancer.comfy.finetune.session import Encoded, in_session

    read(spread(models[0]))
    text = Encoded(tiny.conditioning(3)[0][0].clone())

    def work(session: Any) -> None:
        x = session.randn(1, 4, 16, 16)
        session.predict(x, torch.ones(1), [text])

    with torch.inference_mode():
        in_session(spread(models[0]), (16, 16), 1, 0, work)
    assert cards == []
    # nor are copies loaded for them
    several = models[0].clone()
    several.set_additional_models("multigpu", [models[1].clone()])
    used: list[Any] = []
    init = comfy.samplers.CFGGuider.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            comfy.samplers.CFGGuider, "__init__",
            lambda self, patcher: (used.append(patcher), init(self, patcher))[1],
        )  # fmt: skip
        read(several)
        with torch.inference_mode():
            in_session(several, (16, 16), 1, 0, work)
    assert len(used) == 2
    assert not any(patcher.get_additional_models_with_key("multigpu") for patcher in used)
