"""Two branches of one checkpoint do their common work once, and nothing comes out differently.

The reference is the same run with a second copy of the weights, which shares nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings, preset
from torch import Tensor

from . import pair, tiny

STEPS = 4
PAPER = preset("paper", spatial_only=0.25, rate=1e4, rate_end=1e4)
FIXED = plain_settings(mode="fixed", initial_mix=0.4)
POSITIVE, NEGATIVE = tiny.conditioning(3), tiny.conditioning(4)


def new_host() -> bool:
    import inspect

    import comfy.samplers

    return "sampler_calc_cond_batch_function" in inspect.getsource(comfy.samplers)


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_unet(1, levels=3)


@pytest.fixture(scope="module")
def control():
    return tiny.tiny_controlnet(6, levels=3)


def twin(patcher: Any) -> Any:
    """A patcher of the same weights in memory of their own."""
    with torch.inference_mode():
        other = patcher.clone()
        other.model = tiny.copied(patcher.model)
    return other


def both(
    model: Any, settings: BalancerSettings, noise: Tensor | None = None, prepare: Any = None,
    steps: int = STEPS, sampler: str = "euler", **conditions: Any,
) -> tuple[Any, Any, Tensor, Tensor]:  # fmt: skip
    """The guider of one checkpoint and its latents, and the reference's."""
    noise = tiny.latent_noise(5) if noise is None else noise
    prepare = prepare or (lambda patcher: patcher)
    out = []
    for second in (model, twin(model)):
        guider = pair.guider(prepare(model), prepare(second), settings, **conditions)
        out.append((guider, pair.run(guider, noise, steps, sampler)))
    (one, shared), (other, apart) = out
    return one, other, shared, apart


def assert_same(one: Any, other: Any, shared: Tensor, apart: Tensor) -> None:
    assert (shared - apart).abs().max() <= 1e-5 * apart.abs().max()
    for a, b in zip(one.trace.steps, other.trace.steps, strict=True):
        for name in ("mix", "shares_realism", "shares_spatial", "loss_realism", "loss_spatial"):
            ours, theirs = getattr(a, name), getattr(b, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert other.trace.shared_halves == 0


def steered(control: Any, **options: Any) -> dict[str, Any]:
    return {"spatial_positive": tiny.with_control(POSITIVE, control, 7, **options)}


@pytest.mark.parametrize("settings", [PAPER, FIXED], ids=["paper", "fixed"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_cfg_pp"])
def test_controlnet_on_one_checkpoint(model, control, settings, sampler) -> None:
    out = both(model, settings, sampler=sampler, **steered(control))
    assert_same(*out)
    one, other = out[0].trace, out[1].trace
    assert one.forwards == other.forwards  # the control steers the unconditional pass as well
    if new_host():
        full = sum(r.phase in ("balance", "mix") for r in one.steps) * 2
        looks = sum(r.phase == "balance" for r in one.steps)
        assert one.shared_halves >= full + looks
        assert (sampler == "heun") or one.shared_halves == full + looks


def test_batch_and_odd_sizes(model, control) -> None:
    noise = tiny.latent_noise(5, batch=2, height=15, width=20)
    out = both(model, PAPER, noise, **steered(control, size=(120, 160)))
    assert_same(*out)
    assert not new_host() or out[0].trace.shared_halves > 0


def test_without_guidance_there_is_no_negative_to_share(model, control) -> None:
    out = both(model, PAPER, cfg=1.0, **steered(control))
    assert_same(*out)


@pytest.mark.skipif(not new_host(), reason="hosts of 2024 have no function around a batch")
class TestNegative:
    def test_another_prompt_shares_the_unconditional_pass(self, model) -> None:
        """As with regional prompting in the spatial branch: neither control nor GLIGEN."""
        out = both(model, PAPER, spatial_positive=tiny.conditioning(9))
        assert_same(*out)
        mixed = sum(r.phase == "balance" for r in out[0].trace.steps)
        assert out[0].trace.forwards == out[1].trace.forwards - mixed

    def test_control_on_the_positive_prompt_only(self, model, control) -> None:
        """Then the unconditional pass is shared whole, and the conditional one's first half."""
        positive = steered(control)["spatial_positive"]
        positive[0][1]["control_apply_to_uncond"] = False
        out = both(model, FIXED, spatial_positive=positive)
        assert_same(*out)
        assert out[0].trace.forwards == 3 * STEPS
        assert out[0].trace.shared_halves == STEPS

    def test_gligen_shares_nothing(self, model) -> None:
        gligen = tiny.tiny_gligen(model, 8)
        boxes = [(tiny.pooled_phrase(2), 8, 8, 0, 0)]
        out = both(model, PAPER, spatial_positive=tiny.with_gligen(POSITIVE, gligen, boxes))
        assert_same(*out)
        # the host gives the positive prompt's boxes to the unconditional pass as well
        assert out[0].trace.forwards == out[1].trace.forwards
        assert out[0].trace.shared_halves == 0

    def test_another_negative_prompt_shares_nothing(self, model) -> None:
        out = both(
            model, PAPER, spatial_positive=tiny.conditioning(9),
            spatial_negative=tiny.conditioning(10),
        )  # fmt: skip
        assert_same(*out)
        assert out[0].trace.forwards == out[1].trace.forwards


def test_flops_are_what_the_first_half_costs(model, control) -> None:
    """Spared: the first half of every mixed guided step, and its forward and backward per look."""
    from torch.utils.flop_counter import FlopCounterMode

    if not new_host():
        pytest.skip("hosts of 2024 have no function around a batch")

    def cost(second: Any, settings: BalancerSettings) -> int:
        guider = pair.guider(model, second, settings, **steered(control))
        with FlopCounterMode(display=False) as counter:
            pair.run(guider, tiny.latent_noise(5), STEPS)
        return counter.get_total_flops()

    class Behind(BaseException):
        pass

    def stop(*args: Any) -> None:
        raise Behind

    network = model.model.diffusion_model
    handle = network.middle_block[-1].register_forward_hook(stop)
    try:
        with FlopCounterMode(display=False) as counter, pytest.raises(Behind), torch.no_grad():
            network(
                torch.zeros(1, 4, 16, 16), torch.zeros(1), context=torch.zeros(1, 77, 64),
                transformer_options={},
            )  # fmt: skip
    finally:
        handle.remove()
    with FlopCounterMode(display=False) as embedding, torch.no_grad():
        network.time_embed(torch.zeros(1, 32))  # both passes need it
    half = counter.get_total_flops() - embedding.get_total_flops()
    spared = cost(twin(model), FIXED) - cost(model, FIXED)
    assert spared == 2 * STEPS * half
    balanced = preset("paper", spatial_only=0.0)
    spared = cost(twin(model), balanced) - cost(model, balanced) - 2 * STEPS * half
    # per look one forward of the half and its backward, which passes by the text's projections:
    # in networks as narrow as this one these are half of the forward
    print(f"a look spares {spared / STEPS / half:.2f} first halves")
    assert 1.4 * STEPS * half < spared < 2.6 * STEPS * half


class _Adapter:
    """A control that reaches into the down path, as a T2I-Adapter does."""

    def __init__(self) -> None:
        import comfy.controlnet

        class Adapter(comfy.controlnet.ControlBase):
            def get_control(self, x: Tensor, t: Tensor, cond: Any, number: int, *rest: Any) -> Any:
                first = torch.full((x.shape[0], 32, *x.shape[-2:]), 0.3)
                return {"input": [first], "middle": [], "output": []}

            def copy(self) -> Any:
                return self

        self.control = Adapter()


@pytest.mark.parametrize("branch", ["spatial", "realism"])
def test_a_control_inside_the_first_half_is_not_shared(model, control, branch) -> None:
    adapter = [[POSITIVE[0][0], {"control": _Adapter().control, "control_apply_to_uncond": True}]]
    if branch == "spatial":
        out = both(model, PAPER, spatial_positive=adapter)
    else:
        out = both(model, PAPER, positive=adapter, **steered(control))
    assert_same(*out)
    assert out[0].trace.shared_halves == 0


def test_controls_on_both_branches(model, control) -> None:
    """The realism branch's own ControlNet writes to tensors that the other branch takes over."""
    positive = tiny.with_control(POSITIVE, control, 12, strength=0.4)
    out = both(model, PAPER, positive=positive, **steered(control))
    assert_same(*out)
    assert not new_host() or out[0].trace.shared_halves > 0


def _freeu(patcher: Any) -> Any:
    patcher = patcher.clone()

    def scale(h: Tensor, skip: Tensor, options: Any) -> tuple[Tensor, Tensor]:
        h[:, : h.shape[1] // 2] = h[:, : h.shape[1] // 2] * 1.2
        return h, skip * 0.9

    patcher.set_model_output_block_patch(scale)
    return patcher


def _down(patcher: Any) -> Any:
    patcher = patcher.clone()

    def halve(h: Tensor, options: Any) -> Tensor:
        return h.mul_(0.7) if options["block"][1] == 2 else h

    patcher.set_model_input_block_patch(halve)
    return patcher


def _perturbed(patcher: Any) -> Any:
    """Runs the model once more behind guidance with another attention, as PAG does."""
    patcher = patcher.clone()

    def more(args: dict[str, Any]) -> Tensor:
        import comfy.model_patcher
        import comfy.samplers

        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"], lambda q, k, v, extra: v * 0.5, "attn1", "middle", 0
        )
        (other,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        return args["denoised"] + 0.3 * (args["cond_denoised"] - other)

    patcher.set_model_sampler_post_cfg_function(more)
    return patcher


def _wrapped(patcher: Any) -> Any:
    patcher = patcher.clone()
    patcher.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"] * 0.99, args["timestep"], **args["c"])
    )
    return patcher


@pytest.mark.parametrize("pack", [_freeu, _down, _perturbed, _wrapped])
def test_other_packs_on_the_checkpoint(model, control, pack) -> None:
    """One MODEL with another pack's patch wired into both inputs."""
    patched = pack(model)
    noise = tiny.latent_noise(5)
    results = []
    for second in (patched, twin(patched)):
        guider = pair.guider(patched, second, PAPER, **steered(control))
        results.append((guider, pair.run(guider, noise, STEPS)))
    (one, shared), (other, apart) = results
    assert_same(one, other, shared, apart)
    if new_host():
        assert one.trace.shared_halves > 0


def test_a_patch_on_one_branch_only_shares_nothing(model, control) -> None:
    noise = tiny.latent_noise(5)
    results = []
    for second in (model, twin(model)):
        guider = pair.guider(_freeu(model), second, PAPER, **steered(control))
        results.append((guider, pair.run(guider, noise, STEPS)))
    (one, shared), (other, apart) = results
    assert_same(one, other, shared, apart)
    assert one.trace.shared_halves == 0


@pytest.mark.parametrize("where", ["middle", "output"])
def test_an_interrupted_run_leaves_the_layers_as_they_were(model, control, where) -> None:
    network = model.model.diffusion_model
    before = pair.run(pair.guider(model, model, PAPER, **steered(control)), tiny.latent_noise(5))

    def fail(query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        if len(seen) == 3:
            raise RuntimeError("another pack")
        seen.append(1)
        return value * 1.0

    seen: list[int] = []
    broken = model.clone()
    broken.set_model_attn1_replace(fail, where, 0 if where == "middle" else 2)
    with pytest.raises(RuntimeError, match="another pack"):
        pair.run(pair.guider(broken, broken, PAPER, **steered(control)), tiny.latent_noise(5))
    assert not any("forward" in layer.__dict__ for layer in network.modules())
    assert not any(layer._forward_hooks for layer in network.modules())
    after = pair.run(pair.guider(model, model, PAPER, **steered(control)), tiny.latent_noise(5))
    assert torch.equal(before, after)


def test_sdxl_with_its_controlnet() -> None:
    """The paper's keypoint variant: vector inputs, ten transformers a block, non-square."""
    model, control = tiny.family_unet(1, "SDXL"), tiny.family_controlnet(6, "SDXL")
    positive = tiny.conditioning(3, dim=2048, pooled=1280)
    negative = tiny.conditioning(4, dim=2048, pooled=1280)
    out = both(
        model, PAPER, tiny.latent_noise(5, height=16, width=24), steps=2, positive=positive,
        negative=negative, spatial_positive=tiny.with_control(positive, control, 7, (128, 192)),
        spatial_negative=negative,
    )  # fmt: skip
    assert_same(*out)
    assert not new_host() or out[0].trace.shared_halves > 0
