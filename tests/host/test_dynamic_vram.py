"""Looks, training and modulation under the host's dynamic VRAM: the same numbers as without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor

from . import pair, tiny, tiny_dit
from .dynamic_vram import PAGES, available, dynamic_vram
from .test_attention_look import read
from .test_dense import dense
from .test_finetuning import finetune
from .test_shared_work import steered

pytestmark = pytest.mark.older_hosts

PAPER = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)
LAGGED = replace(PAPER, mode="lagged")
STEPS = 2


@pytest.fixture(autouse=True)
def _host() -> None:
    if not available():
        pytest.skip("this ComfyUI has no dynamic VRAM")


@pytest.fixture(scope="module")
def pair_of() -> tuple[Any, Any]:
    return tiny.tiny_unet(1, levels=3), tiny.tiny_unet(2, levels=3)


@pytest.fixture(scope="module")
def control() -> Any:
    return tiny.tiny_controlnet(6, levels=3)


@pytest.fixture(params=PAGES)
def pages(request: Any) -> str:
    return request.param


def sampled(
    monkeypatch: Any, first: Any, second: Any, settings: Any, noise: Any = None, **options: Any
) -> Any:
    """Latents, every gradient of a probe, and the trace of a run."""
    from realcompo.balancer.comfy.realcompo.model_call import ModelCall

    gradients: list[Tensor] = []
    original = ModelCall.with_gradient

    def kept(call: Any, result: Any, gradient: Tensor) -> Any:
        gradients.append(gradient.clone())
        return original(call, result, gradient)

    with monkeypatch.context() as patch:
        patch.setattr(ModelCall, "with_gradient", kept)
        guider = pair.guider(first, second, settings, **options)
        noise = tiny.latent_noise(5) if noise is None else noise
        return pair.run(guider, noise, STEPS), gradients, guider.trace


def near(one: Tensor, other: Tensor) -> bool:
    assert torch.isfinite(one).all()
    return float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def compare(run: Callable[[], Any], *modules: Any, pages: str, smallest: int = 0) -> Any:
    """``run`` twice, the second time with weights handed out; the looks' gradients agree."""
    expected, gradients, trace = run()
    with dynamic_vram(*modules, pages=pages, smallest=smallest) as card:
        latents, others, seen = run()
    assert card.faults > 0 and (pages != "changing" or card.lost > 0)
    assert len(gradients) == len(others) > 0
    assert all(near(a, b) and b.abs().max() > 0 for a, b in zip(others, gradients, strict=True))
    assert near(latents, expected)
    assert max(float(step.mix.std()) for step in trace.steps) > 1e-4
    assert seen.forwards == trace.forwards and seen.backwards == trace.backwards
    assert seen.partial_forwards == trace.partial_forwards
    for module in modules:
        assert not any("forward" in layer.__dict__ for layer in module.modules())
        assert all(p.is_inference() for p in module.parameters())
    return seen


@pytest.mark.parametrize("settings", [PAPER, LAGGED], ids=["dynamic", "lagged"])
def test_looks(monkeypatch: Any, pair_of: Any, pages: str, settings: Any) -> None:
    first, second = pair_of
    compare(
        lambda: sampled(monkeypatch, first, second, settings),
        first.model, second.model, pages=pages,
    )  # fmt: skip


def test_small_layers_without_pages(monkeypatch: Any, pair_of: Any, pages: str) -> None:
    """As on a card, where layers below 16 KiB stay in video memory (and are cast all the same)."""
    first, second = pair_of
    compare(
        lambda: sampled(monkeypatch, first, second, PAPER),
        first.model, second.model, pages=pages, smallest=16 * 1024,
    )  # fmt: skip


def test_one_model_there_and_one_not(monkeypatch: Any, pair_of: Any) -> None:
    first, second = pair_of
    compare(lambda: sampled(monkeypatch, first, second, PAPER), second.model, pages="changing")


@pytest.mark.parametrize("settings", [PAPER, LAGGED], ids=["dynamic", "lagged"])
def test_shared_halves(
    monkeypatch: Any, pair_of: Any, control: Any, pages: str, settings: Any
) -> None:
    first, _ = pair_of
    seen = compare(
        lambda: sampled(monkeypatch, first, first, settings, **steered(control)),
        first.model, control.control_model, pages=pages,
    )  # fmt: skip
    assert seen.shared_halves > 0


def test_checkpointed_looks(monkeypatch: Any, pair_of: Any, pages: str) -> None:
    from realcompo.balancer.comfy.realcompo import differentiable_pass

    first, second = pair_of
    monkeypatch.setattr(differentiable_pass, "must_be_checkpointed", lambda *_: True)
    compare(
        lambda: sampled(monkeypatch, first, second, PAPER),
        first.model, second.model, pages=pages,
    )  # fmt: skip


def test_gligen(monkeypatch: Any, pair_of: Any, pages: str) -> None:
    first, second = pair_of
    gligen = tiny.tiny_gligen(second, 8)
    boxes = [(tiny.pooled_phrase(2), 8, 8, 0, 0)]
    grounded = tiny.with_gligen(tiny.conditioning(3), gligen, boxes)
    compare(
        lambda: sampled(monkeypatch, first, second, PAPER, spatial_positive=grounded),
        first.model, second.model, gligen.model, pages=pages,
    )  # fmt: skip


@pytest.mark.parametrize("family", tiny_dit.FAMILIES)
def test_joint_attention(monkeypatch: Any, family: str, pages: str) -> None:
    first, second = tiny_dit.models_of(family)
    noise = tiny_dit.noise(family)
    text, empty = tiny_dit.conditioning(3), tiny_dit.conditioning(4)
    compare(
        lambda: sampled(
            monkeypatch, first, second, PAPER, positive=text, negative=empty, noise=noise
        ),
        first.model, second.model, pages=pages,
    )  # fmt: skip


def with_lora(patcher: Any, seed: int) -> dict[str, Any]:
    """Patches of every attention layer's keys, as a loaded LoRA leaves them in the patcher."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in patcher.model.state_dict().items()
        if name.endswith(("to_k.weight", "to_out.0.weight"))
    }
    return {name: [(0.1, ("diff", (v,)), 1.0, None, None)] for name, v in values.items()}


def test_a_lora_added_on_the_fly(monkeypatch: Any, pair_of: Any, pages: str) -> None:
    import comfy.lora
    import comfy.model_patcher
    import comfy.utils

    _, second = pair_of
    first = tiny.tiny_unet(1, levels=3)
    patches = with_lora(first, 9)
    patched = tiny.tiny_unet(1, levels=3)
    with torch.inference_mode():
        for key, value in patches.items():
            weight = comfy.utils.get_attr(patched.model, key)
            comfy.utils.copy_to_param(
                patched.model, key, comfy.lora.calculate_weight(value, weight.clone(), key)
            )
    expected = sampled(monkeypatch, patched, second, PAPER)
    plain = sampled(monkeypatch, first, second, PAPER)
    assert not near(plain[0], expected[0])
    for key in patches:
        layer = comfy.utils.get_attr(first.model, key.removesuffix(".weight"))
        layer.weight_lowvram_function = comfy.model_patcher.LowVramPatch(key, patches)
    with dynamic_vram(first.model, second.model, pages=pages):
        latents, gradients, _ = sampled(monkeypatch, first, second, PAPER)
    assert near(latents, expected[0])
    assert all(near(a, b) for a, b in zip(gradients, expected[1], strict=True))


def test_weights_kept_in_another_dtype(monkeypatch: Any, pages: str) -> None:
    """Stored as bfloat16 and computed in float32: what comes out is the rounded model's."""
    import comfy.utils

    def rounded(seed: int, stored: torch.dtype) -> Any:
        patcher = tiny.tiny_unet(seed, levels=3)
        with torch.inference_mode():
            for name, weight in list(patcher.model.named_parameters()):
                value = torch.nn.Parameter(weight.bfloat16().to(stored), requires_grad=False)
                # what the host notes on a weight that it keeps in another dtype
                value._model_dtype = torch.float32
                comfy.utils.set_attr(patcher.model, name, value)
        return patcher

    expected = sampled(monkeypatch, rounded(1, torch.float32), rounded(2, torch.float32), PAPER)
    first, second = rounded(1, torch.bfloat16), rounded(2, torch.bfloat16)
    with dynamic_vram(first.model, second.model, pages=pages):
        latents, gradients, _ = sampled(monkeypatch, first, second, PAPER)
    assert near(latents, expected[0])
    assert all(near(a, b) for a, b in zip(gradients, expected[1], strict=True))


def test_an_interrupted_look_leaves_no_page_behind(
    monkeypatch: Any, pair_of: Any, pages: str
) -> None:
    import comfy.model_management as management

    first, second = pair_of
    expected = sampled(monkeypatch, first, second, PAPER)
    with dynamic_vram(first.model, second.model, pages=pages):
        with monkeypatch.context() as patch, pytest.raises(management.InterruptProcessingException):
            from realcompo.balancer.comfy.realcompo import probe

            def interrupt(*_: Any) -> None:
                raise management.InterruptProcessingException

            patch.setattr(probe.Probe, "loss_from_maps", interrupt)
            pair.run(pair.guider(first, second, PAPER), tiny.latent_noise(5), STEPS)
        for layer in (*first.model.modules(), *second.model.modules()):
            assert "_prefetch" not in layer.__dict__
            assert getattr(getattr(layer, "_v", None), "pins", 0) == 0
        latents, _, _ = sampled(monkeypatch, first, second, PAPER)
    assert near(latents, expected[0])


@pytest.mark.parametrize("saving", ["off", "on"])
def test_finetuning(pair_of: Any, pages: str, saving: str, tmp_path: Any, monkeypatch: Any) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    first, _ = pair_of
    expected = finetune(first, checkpointing=saving)
    with dynamic_vram(first.model, pages=pages):
        # weights have been used in inference mode before
        pair.run_alone(first, tiny.latent_noise(5), STEPS)
        trained = finetune(first, checkpointing=saving)
    (lora, losses), (same, seen) = expected[:2], trained[:2]
    assert losses.keys() == seen.keys() and lora.keys() == same.keys()
    for name, values in losses.items():
        assert seen[name] == pytest.approx(values, rel=1e-5)
    for name, value in lora.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


def test_reward_learning(pages: str) -> None:
    """The VAE and the captioner are differentiated as well; weights of both come from pages."""
    from .test_refl import RealCompoShapesCaptioner, RealCompoShapesLoader, train

    with torch.inference_mode():
        demo = RealCompoShapesLoader().load("realistic", "realism")
        judge = RealCompoShapesCaptioner().load()[0]
    expected, losses, _ = train(demo, judge)
    model, _, vae, _ = demo
    with dynamic_vram(model.model, vae.first_stage_model, pages=pages):
        lora, seen, _ = train(demo, judge)
    assert seen["loss"] == pytest.approx(losses["loss"], rel=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(lora[name], value, rtol=1e-3, atol=1e-5)


def test_dense_attention_and_its_look(monkeypatch: Any, pair_of: Any, pages: str) -> None:
    first, second = pair_of
    bent, prompt = dense(second)
    compare(
        lambda: sampled(monkeypatch, first, bent, PAPER, spatial_positive=prompt),
        first.model, second.model, pages=pages,
    )  # fmt: skip


def test_attention_maps(pair_of: Any, pages: str) -> None:
    first, _ = pair_of
    expected = read(first)
    with dynamic_vram(first.model, pages=pages):
        seen = read(first)
    for column, other in zip(
        (c for level in seen.columns for c in level),
        (c for level in expected.columns for c in level), strict=True,
    ):  # fmt: skip
        assert near(column.maps, other.maps)


def test_the_host_is_told_that_gradients_pass_and_only_then() -> None:
    import comfy.model_management as management
    from realcompo.balancer.comfy.autograd.inference_weights import gradient_mode

    assert management.in_training is False
    with gradient_mode():
        assert management.in_training is True
        with gradient_mode():
            pass
        assert management.in_training is True
    with pytest.raises(KeyError), gradient_mode():
        raise KeyError
    assert management.in_training is False


def test_the_compiler_of_later_hosts_is_off_while_gradients_pass(monkeypatch: Any) -> None:
    import comfy.cli_args
    from realcompo.balancer.comfy.autograd.inference_weights import gradient_mode

    args = comfy.cli_args.args
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    with gradient_mode():
        assert args.disable_comfy_compiler is True
    assert args.disable_comfy_compiler is False


def test_nothing_is_fetched_ahead_of_a_look(pair_of: Any, monkeypatch: Any) -> None:
    """Later hosts queue the pages of coming layers; a look ends before they come."""

    first, second = pair_of
    seen: list[tuple[bool, bool]] = []
    network = first.model.diffusion_model
    inner = type(network)._forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or args[-1]
        seen.append((options["prefetch_dynamic_vbars"], torch.is_grad_enabled()))
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(network), "_forward", forward)
    # on a card the host asks for it; its CPU never does
    monkeypatch.setattr(first, "is_dynamic", lambda: True)
    monkeypatch.setattr(second, "is_dynamic", lambda: True)
    first.model.current_patcher, second.model.current_patcher = first, second
    guider = pair.guider(first, second, PAPER)
    for patcher in (guider.model_patcher, guider.companions[0].patcher):
        monkeypatch.setattr(patcher, "is_dynamic", lambda: True, raising=False)
    pair.run(guider, tiny.latent_noise(5), STEPS)
    assert {looking for _, looking in seen} == {True, False}
    assert all(ahead is not looking for ahead, looking in seen)
