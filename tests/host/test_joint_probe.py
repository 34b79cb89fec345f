"""Reading joint attention: literal maps, exact gradients, early stop, other packs left working."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("comfy.ldm.qwen_image.model")

from realcompo.balancer.realcompo.balancer import logit_gradient, probe_latent  # noqa: E402

from . import joint_reference, pair, tiny, tiny_dit  # noqa: E402
from .counting import counting  # noqa: E402
from .tiny_dit import FAMILIES  # noqa: E402

SIGMA, SIGMA_NEXT = 0.8, 0.6
EVERY = pytest.mark.parametrize("family", list(FAMILIES))


@contextmanager
def ready(patcher: Any, text: Any, x: Tensor) -> Iterator[dict[str, Any]]:
    """The model's processed conditioning, as a guider has it during a run."""
    import comfy.sampler_helpers
    import comfy.samplers

    conds = {"positive": comfy.sampler_helpers.convert_cond(text)}
    with torch.inference_mode():
        patcher.pre_run()
        yield comfy.samplers.process_conds(patcher.model, x, conds, x.device)
        patcher.cleanup()


def probed(
    patcher: Any, x: Tensor, options: dict[str, Any] | None = None, text: Any = None,
    layout: Any = pair.LAYOUT, tokens: Any = pair.TOKENS,
) -> Any:  # fmt: skip
    with ready(patcher, text or tiny_dit.conditioning(3), x) as conds:
        entry = conds["positive"][0]
        return pair.probed(
            patcher.model, entry, x, SIGMA, options=options, layout=layout, tokens=tokens
        )


def literal(
    patcher: Any, family: str, x: Tensor, image_first: bool = False, **extra: Any
) -> tuple[Tensor, Tensor]:
    """Shares (B, R) and dL/dx by the reference: a full pass in ordinary tensors, plain softmax."""
    with torch.inference_mode(False), torch.enable_grad():
        model = joint_reference.ordinary(patcher)
        latent = x.clone().requires_grad_(True)
        given = joint_reference.conditions(model, tiny_dit.conditioning(3), latent, **extra)
        found, _ = joint_reference.shares(
            model, FAMILIES[family], latent, SIGMA, given, pair.BOXES, list(pair.TOKENS),
            image_first,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad((1.0 - found).sum(), latent)
    return found.detach(), gradient


def agree(one: Any, shares: Tensor, gradient: Tensor) -> None:
    torch.testing.assert_close(one.shares, shares, rtol=1e-5, atol=1e-6)
    size = gradient.abs().max()
    assert size > 0
    assert (one.gradient - gradient).abs().max() < 1e-4 * size


@EVERY
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (15, 9)], ids=["square", "wide", "odd"])
def test_maps_and_gradient_are_the_literal_ones(family, size) -> None:
    """The whole joint softmax of a full pass; odd latents are padded to whole patches."""
    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family, 5, 2, *size)
    one = probed(model, x)
    assert one.gradient.shape == x.shape
    assert bool(((one.shares > 0) & (one.shares < 1)).all())
    agree(one, *literal(model, family, x))


@EVERY
def test_the_early_stop_is_partial_and_changes_nothing(family, monkeypatch) -> None:
    from realcompo.balancer.comfy.attention import joint

    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family, batch=2)
    entered: list[str] = []
    network = model.model.diffusion_model
    blocks = [
        (name, module) for name, module in network.named_modules()
        if type(module).__name__
        in ("DoubleStreamBlock", "SingleStreamBlock", "JointBlock", "QwenImageTransformerBlock")
    ]  # fmt: skip
    handles = [
        module.register_forward_pre_hook(lambda m, a, name=name: entered.append(name))
        for name, module in blocks
    ]
    with counting(model=model) as counts:
        stopped = probed(model, x)
    ran = list(entered)
    assert (counts.models["model"].full, counts.models["model"].partial) == (0, 1)
    assert ran == [name for name, _ in blocks[: FAMILIES[family].read]]
    assert len(ran) <= len(blocks) // 2

    marked = joint._marked
    monkeypatch.setattr(
        joint, "_marked", lambda site, other, last: marked(site, other, False)
    )
    entered.clear()
    with counting(model=model) as counts:
        whole = probed(model, x)
    for handle in handles:
        handle.remove()
    assert (counts.models["model"].full, counts.models["model"].partial) == (1, 0)
    assert len(entered) == len(blocks)
    assert torch.equal(stopped.shares, whole.shares)
    torch.testing.assert_close(stopped.gradient, whole.gradient, rtol=1e-6, atol=1e-12)


@EVERY
def test_closed_form_equals_autograd_and_both_models_speak(family) -> None:
    """dL/dd through mix, velocity, step and both models; and by the engine's formula."""
    models = [FAMILIES[family].build(seed) for seed in (1, 2)]
    x = tiny_dit.noise(family)
    with torch.inference_mode(False), torch.enable_grad():
        ordinary = [joint_reference.ordinary(model) for model in models]
        text = tiny_dit.conditioning(3)
        given = [joint_reference.conditions(m, text, x) for m in ordinary]
        with torch.no_grad():
            clean = [
                joint_reference.denoised(m, x, SIGMA, g)
                for m, g in zip(ordinary, given, strict=True)
            ]
        torch.manual_seed(0)
        logits = torch.randn(*x[:, :1].shape).requires_grad_(True)
        mix = torch.sigmoid(logits)
        velocity = [(x - c) / SIGMA for c in clean]
        probe = x + (SIGMA_NEXT - SIGMA) * (mix * velocity[0] + (1 - mix) * velocity[1])
        parts = [
            (1 - joint_reference.shares(
                m, FAMILIES[family], probe, SIGMA, g, pair.BOXES, list(pair.TOKENS)
            )[0]).sum()
            for m, g in zip(ordinary, given, strict=True)
        ]  # fmt: skip
        separate = [torch.autograd.grad(part, logits, retain_graph=True)[0] for part in parts]
        expected = separate[0] + separate[1]
    mix = mix.detach()
    mixed = mix * clean[0] + (1 - mix) * clean[1]
    at = probe_latent(x, mixed, SIGMA, SIGMA_NEXT)
    torch.testing.assert_close(at, probe.detach(), rtol=1e-5, atol=1e-6)
    results = [probed(model, at) for model in models]
    found = logit_gradient(
        results[0].gradient + results[1].gradient, clean[0], clean[1], mix, SIGMA, SIGMA_NEXT
    )
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    for one, alone in zip(results, separate, strict=True):
        mine = logit_gradient(one.gradient, clean[0], clean[1], mix, SIGMA, SIGMA_NEXT)
        assert mine.abs().max() > 0.01 * expected.abs().max()
        assert (mine - alone).abs().max() < 1e-3 * alone.abs().max()


@EVERY
def test_a_batch_equals_its_samples(family) -> None:
    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family, batch=3)
    together = probed(model, x)
    for sample in range(3):
        one = probed(model, x[sample : sample + 1])
        torch.testing.assert_close(one.shares, together.shares[sample : sample + 1])
        mine = together.gradient[sample : sample + 1]
        assert (one.gradient - mine).abs().max() < 1e-5 * mine.abs().max()


def test_image_only_attention_of_sd35_medium_is_not_read() -> None:
    model = tiny_dit.sd3(1, second=(0, 1))
    x = tiny_dit.noise("sd3")
    with joint_reference.recording(FAMILIES["sd3"]) as calls:
        literal_calls = calls
        with torch.inference_mode(False):
            copied = joint_reference.ordinary(model)
            given = joint_reference.conditions(copied, tiny_dit.conditioning(3), x)
            copied.apply_model(x, torch.tensor([SIGMA]), **given)
    assert len(literal_calls) == 6
    agree(probed(model, x), *literal(model, "sd3", x))


def test_text_after_the_image_is_found_there() -> None:
    model = tiny_dit.flux(1)
    for block in model.model.diffusion_model.double_blocks:
        block.flipped_img_txt = True
    x = tiny_dit.noise("flux", 5, 1, 12, 16)
    agree(probed(model, x), *literal(model, "flux", x, image_first=True))


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_reference_pictures_are_not_the_picture(family) -> None:
    """Kontext and edit models append reference tokens: they compete, but are not read."""
    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family)
    plain = probed(model, x)
    other = tiny_dit.noise(family, 77, 1, 12, 8)
    text = [[c, {**e, "reference_latents": [other]}] for c, e in tiny_dit.conditioning(3)]
    with_reference = probed(model, x, text=text)
    agree(with_reference, *literal(model, family, x, reference_latents=[other.clone()]))
    assert not torch.allclose(plain.shares, with_reference.shares, rtol=1e-4)


def test_a_mask_is_honoured() -> None:
    """A bias on the joint attention (style models, IP adapters of Flux) changes what is read."""
    model = tiny_dit.flux(1)
    x = tiny_dit.noise("flux")
    tokens = tiny_dit.LENGTH + 64
    torch.manual_seed(1)
    mask = torch.randn(1, tokens, tokens)
    with torch.inference_mode():
        given = mask.clone()
    text = [
        [c, {**e, "attention_mask": given, "attention_mask_img_shape": (8, 8)}]
        for c, e in tiny_dit.conditioning(3)
    ]
    one = probed(model, x, text=text)
    calls_maps = masked_shares(model, x, mask)
    torch.testing.assert_close(one.shares, calls_maps, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one.shares, probed(model, x).shares, rtol=1e-3)


def masked_shares(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    from .reference import box_mask

    with torch.inference_mode(False), torch.no_grad():
        copied = joint_reference.ordinary(model)
        given = joint_reference.conditions(copied, tiny_dit.conditioning(3), x)
        with joint_reference.recording(FAMILIES["flux"]) as calls:
            joint_reference.denoised(copied, x, SIGMA, {**given, "attention_mask": mask})
    maps = []
    for q, k in calls[:3]:
        whole = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask).softmax(dim=-1)
        maps.append(whole[:, :, tiny_dit.LENGTH :, : tiny_dit.LENGTH].mean(dim=1))
    mean = torch.stack(maps).mean(dim=0)
    out = []
    for box, span in zip(pair.BOXES, pair.TOKENS, strict=True):
        phrase = mean[:, :, list(span)].mean(dim=-1).unflatten(1, (8, 8))
        out.append((phrase * box_mask(box, 8, 8)).sum(dim=(1, 2)) / phrase.sum(dim=(1, 2)))
    return torch.stack(out, dim=1)


@EVERY
def test_other_packs_block_patches_and_override_stay_in_force(family) -> None:
    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family)
    plain = probed(model, x)
    patched: list[tuple] = []
    overridden: list[bool] = []

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        patched.append(tuple(args["img"].shape))
        return extra["original_block"]({**args, "img": args["img"] * 1.25})

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        overridden.append(torch.is_grad_enabled())
        return 0.5 * function(*args, **kwargs)

    options = {
        "transformer_options": {
            "patches_replace": {"dit": {("double_block", 0): block}},
            "optimized_attention_override": override,
        }
    }
    one = probed(model, x, options)
    assert len(patched) == 1
    # at the last block that is read the pass ends before anything needs the result
    assert overridden == [True] * (FAMILIES[family].read - 1)
    assert not torch.allclose(one.shares, plain.shares, rtol=1e-3)
    inner = options["transformer_options"]
    assert inner["optimized_attention_override"] is override
    assert inner["patches_replace"]["dit"] == {("double_block", 0): block}
    assert one.gradient.abs().max() > 0


def test_the_hosts_choice_of_another_kernel_does_not_reach_looks() -> None:
    """Its node lays a function over attention that ignores the one it is given, and whose kernel
    may have no backward."""
    model = FAMILIES["flux"].build(1)
    if not hasattr(model, "set_model_optimized_attention"):
        pytest.skip("this ComfyUI cannot choose a model's attention")
    x = tiny_dit.noise("flux")
    plain = probed(model, x)
    calls = []

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        raise RuntimeError("no backward")

    model.set_model_optimized_attention(kernel)
    chosen = probed(model, x, {"transformer_options": model.model_options["transformer_options"]})
    assert not calls
    torch.testing.assert_close(chosen.shares, plain.shares)
    torch.testing.assert_close(chosen.gradient, plain.gradient)


@EVERY
def test_a_controlnet_that_adds_in_place_leaves_the_gradient_exact(family) -> None:
    """The usual spatial side of such a pair; its residuals are added to the image tokens."""
    import comfy.controlnet

    model = FAMILIES[family].build(1)
    x = tiny_dit.noise(family)
    width = 128 if family == "sd3" else 64
    torch.manual_seed(2)
    added = torch.randn(1, 64, width)

    class Steering(comfy.controlnet.ControlBase):
        def get_control(self, *args: Any, **kwargs: Any) -> dict[str, list[Tensor]]:
            return {kind: [added.clone()] * 2 for kind in ("input", "output")}

        def get_models(self) -> list[Any]:
            return []

    text = [[c, {**e, "control": Steering()}] for c, e in tiny_dit.conditioning(3)]
    steered = probed(model, x, text=text)
    assert not torch.allclose(steered.shares, probed(model, x).shares, rtol=1e-3)
    with torch.inference_mode(False), torch.enable_grad():
        copied = joint_reference.ordinary(model)
        latent = x.clone().requires_grad_(True)
        given = joint_reference.conditions(copied, tiny_dit.conditioning(3), latent)
        given["control"] = {kind: [added.clone()] * 2 for kind in ("input", "output")}
        found, _ = joint_reference.shares(
            copied, FAMILIES[family], latent, SIGMA, given, pair.BOXES, list(pair.TOKENS)
        )
        (gradient,) = torch.autograd.grad((1.0 - found).sum(), latent)
    agree(steered, found.detach(), gradient)


def test_a_model_whose_blocks_are_gone_says_so() -> None:
    from realcompo.balancer.errors import RealCompoError

    def swallow(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return {"img": args["img"], "txt": args["txt"]}

    swallowed = {("double_block", number): swallow for number in range(3)}
    options = {"transformer_options": {"patches_replace": {"dit": swallowed}}}
    with pytest.raises(RealCompoError, match="attention to the prompt was not seen"):
        probed(tiny_dit.flux(1), tiny_dit.noise("flux"), options)


def test_an_area_is_compared_with_its_own_part_of_the_regions() -> None:
    import comfy.samplers  # noqa: F401

    model = tiny_dit.qwen_image(1)
    x = tiny_dit.noise("qwen")
    text = [[c, {**e, "area": (8, 16, 4, 0)}] for c, e in tiny_dit.conditioning(3)]
    one = probed(model, x, text=text)
    gradient = one.gradient
    assert gradient.shape == x.shape
    assert gradient[..., 4:12, :].abs().max() > 0
    assert gradient[..., :4, :].abs().max() == gradient[..., 12:, :].abs().max() == 0


def test_what_is_read_of_the_released_models() -> None:
    """All double blocks of Flux (a third of its depth), the first half of SD3's and Qwen's."""
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.attention.family import choose_level

    for built, expected in (
        (tiny_dit.flux(1, double=19, single=38), 19), (tiny_dit.qwen_image(1, layers=60), 30),
        (tiny_dit.sd3(1), 2), (tiny_dit.lumina2(1), 0), (tiny.tiny_unet(1), 7),
    ):  # fmt: skip
        sites = find_sites(built.model.diffusion_model)
        assert len(sites) == expected
        if expected not in (0, 7):
            assert choose_level(sites, "auto") == choose_level(sites, "2") == 2
