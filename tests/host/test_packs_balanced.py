"""What other packs' patches do to looks, to shared work and to the state of two branches."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.settings import plain_settings
from torch import Tensor
from torch.nn import functional

from . import packs, pair, tiny
from .test_packs import MODES, STEPS, only
from .test_shared_work import new_host, twin


def couple(share: Tensor, base: float = 1.0, first: bool = True) -> Any:
    """Regional prompts inside cross-attention: the positive prompt's rows once more for a second
    prompt, their results mixed behind it by ``share`` (H, W), the part of the layout's prompt."""

    other = tiny.conditioning(21, length=154)[0][0]

    def apply(model: Any) -> Any:
        patched = model.clone()
        kinds: list[int] = []

        def multiply(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Any:
            marks = extra["cond_or_uncond"]
            rows = q.shape[0] // len(marks)
            kinds[:] = marks
            qs, ks = [], []
            for mark, own, text in zip(
                marks, q.chunk(len(marks)), k.chunk(len(marks)), strict=True
            ):
                text = text.repeat(1, 2, 1)
                many = [text * base, other.repeat(rows, 1, 1)] if mark == 0 else [text]
                qs += [own] * len(many)
                ks += many if first else many[::-1]
            return torch.cat(qs), torch.cat(ks), torch.cat(ks)

        def gather(out: Tensor, extra: Any) -> Tensor:
            parts = list(out.chunk(len(kinds) + kinds.count(0)))
            size = extra["activations_shape"][-2:]
            part = functional.interpolate(share[None, None], size=size).reshape(1, -1, 1)
            done = []
            for mark in kinds:
                one = parts.pop(0)
                if mark == 0:
                    two = parts.pop(0)
                    one, two = (one, two) if first else (two, one)
                    one = part * one + (1 - part) * two
                done.append(one)
            return torch.cat(done)

        patched.set_model_attn2_patch(multiply)
        patched.set_model_attn2_output_patch(gather)
        return patched

    return apply


def need_shapes() -> None:
    if not new_host():
        pytest.skip("this host does not tell patches the activations' shape")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 2])
def test_rows_multiplied_inside_attention(models, mode, batch) -> None:
    """Where the second prompt has no place, all is as without the patch: maps, mix and latent."""
    need_shapes()
    noise = tiny.latent_noise(5, batch=batch)
    plain = pair.guider(*models, MODES[mode])
    expected = pair.run(plain, noise, STEPS)
    everywhere, left = torch.ones(16, 16), torch.zeros(16, 16)
    left[:, :8] = 1.0
    for branch in (0, 1):
        for base, first in ((1.0, True), (1.0, False)):
            pairs = list(models)
            pairs[branch] = couple(everywhere, base, first)(models[branch])
            guider = pair.guider(*pairs, MODES[mode])
            out = pair.run(guider, noise, STEPS)
            assert (out - expected).abs().max() < 1e-3 * expected.std()
            for one, other in zip(guider.trace.steps, plain.trace.steps, strict=True):
                torch.testing.assert_close(one.mix, other.mix, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(one.shares_realism, other.shares_realism)
                torch.testing.assert_close(one.shares_spatial, other.shares_spatial)
        pairs[branch] = couple(left, 0.9)(models[branch])
        guider = pair.guider(*pairs, MODES[mode])
        out = pair.run(guider, noise, STEPS)
        assert torch.isfinite(out).all() and (out - expected).abs().max() > 1e-2 * expected.std()
        assert all(record.shares_realism is not None for record in guider.trace.steps)
    forced = pair.run(pair.guider(pairs[0], pairs[1], only(0.0)), noise, STEPS)
    assert torch.equal(forced, pair.run_alone(pairs[1], noise, STEPS))


@pytest.mark.parametrize("mode", MODES)
def test_rows_multiplied_by_a_hook_on_the_prompt(models, noise, mode) -> None:
    """The patches come with the conditioning there, and are in no model's options."""
    if not hasattr(importlib.import_module("comfy.model_patcher").ModelPatcher, "apply_hooks"):
        pytest.skip("hooks came with the hosts of December 2024")
    need_shapes()
    import comfy.hooks

    half = torch.zeros(16, 16)
    half[:, :8] = 1.0
    for share, same in ((torch.ones(16, 16), True), (half, False)):
        carrier = couple(share)(models[0]).model_options["transformer_options"]["patches"]
        hook = comfy.hooks.TransformerOptionsHook(transformers_dict={"patches": carrier})
        group = comfy.hooks.HookGroup()
        group.add(hook)
        hooked = [[c, {**extra, "hooks": group}] for c, extra in tiny.conditioning(3)]
        plain = pair.guider(*models, MODES[mode])
        expected = pair.run(plain, noise, STEPS)
        guider = pair.guider(
            *models, MODES[mode], positive=tiny.conditioning(3), spatial_positive=hooked
        )
        out = pair.run(guider, noise, STEPS)
        away = (out - expected).abs().max() / expected.std()
        assert torch.isfinite(out).all() and (away < 1e-3 if same else away > 1e-2)
        assert all(record.shares_spatial is not None for record in guider.trace.steps)
    alone = pair.guider(
        *models, only(0.0), positive=tiny.conditioning(3), spatial_positive=hooked
    )  # fmt: skip
    expected = pair.run_alone(models[1], noise, STEPS, positive=hooked)
    assert torch.equal(pair.run(alone, noise, STEPS), expected)


def another_text(model: Any) -> None:
    def swap(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Any:
        one, two = (tiny.conditioning(seed)[0][0].repeat(k.shape[0], 1, 1) for seed in (30, 31))
        return torch.cat([q, q]), torch.cat([one, two]), torch.cat([one, two])

    model.set_model_attn2_patch(swap)
    model.set_model_attn2_output_patch(lambda out, extra: out.chunk(2)[0])


def rows_of_the_network(model: Any) -> None:
    def twice(apply: Any, args: Any) -> Tensor:
        conditions = {**args["c"], "c_crossattn": torch.cat([args["c"]["c_crossattn"]] * 2)}
        many = (torch.cat([args[name]] * 2) for name in ("input", "timestep"))
        return apply(*many, **conditions).chunk(2)[0]

    model.set_model_unet_function_wrapper(twice)


def merged_positions(model: Any) -> None:
    model.set_model_attn2_patch(lambda q, k, v, extra: (q[:, ::2], k, v))
    model.set_model_attn2_output_patch(lambda out, extra: out.repeat_interleave(2, dim=1))


def without_gradients(model: Any) -> None:
    @torch.inference_mode()
    def run(apply: Any, args: Any) -> Tensor:
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(run)


def no_grad_block(model: Any) -> None:
    def scale(h: Tensor, options: Any) -> Tensor:
        with torch.no_grad():
            return h * 1.0

    model.set_model_input_block_patch(scale)
    model.set_model_output_block_patch(lambda h, skip, options: (h.detach(), skip.detach()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_text, "more prompts than one for each picture"),
        (rows_of_the_network, "other rows than one for each picture"),
        (merged_positions, "positions that cross-attention sees"),
        (without_gradients, "without gradients"),
        (no_grad_block, "without gradients"),
        ("tiles", "into tiles"),
        ("tiles in inference mode", "into tiles|without gradients"),
    ],
)
@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_what_cannot_be_read_is_refused_in_words(
    models, noise, mode, change, words, branch
) -> None:
    at = int(branch == "spatial")
    pairs = list(models)
    if isinstance(change, str):
        pairs[at] = packs.tiles("inference" in change)(models[at])
    else:
        pairs[at] = models[at].clone()
        change(pairs[at])
    with pytest.raises(RealCompoError, match=words) as told:
        pair.run(pair.guider(*pairs, MODES[mode]), noise, STEPS)
    assert "Set the balancer's mode to fixed" in str(told.value)
    fixed = pair.guider(*pairs, plain_settings(mode="fixed"))
    assert torch.isfinite(pair.run(fixed, noise, STEPS)).all()
    # nothing is left behind
    pair.run(pair.guider(*models, MODES[mode]), noise, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("one_model", [False, True])
def test_guidance_inside_attention_sees_both_prompts_rows(models, noise, mode, one_model) -> None:
    """Every prediction of a patched branch has them in one call, at balanced steps too."""
    for branch in (0, 1):
        pairs = [models[0], models[0] if one_model else models[1]]
        patched = pairs[branch].clone()
        calls: list[tuple[int, ...]] = []

        def guide(out: Tensor, extra: Any, calls: list[Any] = calls) -> Tensor:
            if not torch.is_grad_enabled():
                calls.append(tuple(sorted(extra["cond_or_uncond"])))
            return out * 1.0

        patched.set_model_attn1_output_patch(guide)
        both = [patched, patched] if one_model and branch else [*pairs]
        both[branch] = patched
        pair.run(pair.guider(*both, MODES[mode]), noise, STEPS)
        assert calls and set(calls) == {(0, 1)}


@pytest.mark.parametrize("name", ["APG", "state in a variable", "momentum in options",
                                  "state in exchanged containers", "cache object", "SAG",
                                  "EasyCache", "LazyCache"])  # fmt: skip
@pytest.mark.parametrize("mode", ["fixed", *MODES])
def test_one_model_in_both_branches_has_two_states(models, noise, name, mode) -> None:
    """The reference is a second copy of the weights, patched by itself."""
    patch = {**packs.CORE, **packs.FOREIGN}[name]
    settings = plain_settings(mode="fixed", initial_mix=0.4) if mode == "fixed" else MODES[mode]
    others = {"spatial_positive": tiny.conditioning(9)}
    apart = patch(models[0]), patch(twin(models[0]))
    expected = pair.run(pair.guider(*apart, settings, **others), noise, STEPS)
    both = patch(models[0])
    out = pair.run(pair.guider(both, both, settings, **others), noise, STEPS)
    assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("branch", [0, 1])
def test_a_cache_of_predictions_spares_its_own_branch_only(models, noise, mode, branch) -> None:
    """The other is asked at every step, the trace has them all, and the mix is held meanwhile."""
    pairs = list(models)
    pairs[branch] = packs.CORE["LazyCache"](models[branch])
    calls = {"other": 0}

    def count(apply: Any, args: Any) -> Tensor:
        calls["other"] += 1
        return apply(args["input"], args["timestep"], **args["c"])

    pairs[1 - branch] = models[1 - branch].clone()
    pairs[1 - branch].set_model_unet_function_wrapper(count)
    guider = pair.guider(*pairs, MODES[mode])
    assert torch.isfinite(pair.run(guider, noise, 8)).all()
    steps = guider.trace.steps
    assert [record.step for record in steps] == list(range(8))
    held = [record for record in steps if record.loss_realism is None]
    assert 0 < len(held) < 8
    assert calls["other"] >= 8
    # a spared prediction is not counted: four a step otherwise
    assert guider.trace.forwards == 4 * 8 - 2 * len(held)


@pytest.mark.parametrize("mode", MODES)
def test_a_look_that_a_cache_spares_holds_the_mix(models, noise, mode) -> None:
    """No map was to be seen, but one was before: a cache's doing, which is nobody's mistake."""

    class Rest:
        """Lets the model work until the third noise level, and then remembers."""

        def __init__(self) -> None:
            self.levels: list[float] = []
            self.last: dict[Any, Tensor] = {}

        def __call__(self, apply: Any, args: Any) -> Tensor:
            level, key = float(args["timestep"][0]), tuple(args["cond_or_uncond"])
            if level not in self.levels:
                self.levels.append(level)
            if len(self.levels) > 2:
                kept = self.last.get(key, next(iter(self.last.values()))[: args["input"].shape[0]])
                return kept * 1.0
            self.last[key] = apply(args["input"], args["timestep"], **args["c"]).detach()
            return self.last[key]

    patched = models[0].clone()
    patched.set_model_unet_function_wrapper(Rest())
    guider = pair.guider(patched, models[1], MODES[mode])
    assert torch.isfinite(pair.run(guider, noise, 6)).all()
    seen = [record.shares_realism is not None for record in guider.trace.steps]
    assert seen == [True, True, False, False, False, False]
    assert all(record.shares_spatial is not None for record in guider.trace.steps)


def test_looks_leave_no_trace_in_a_packs_cache(models, noise) -> None:
    """At rate 0 the balanced run is the fixed one, whatever a cache makes of the calls it sees."""
    pairs = [packs.CORE["EasyCache"](models[0]), packs.FOREIGN["cache object"](models[1])]
    still = plain_settings(
        mode="dynamic", initial_mix=0.5, region_prior=0.0, rate=0.0, rate_end=0.0, end=1.0, every=1
    )
    fixed = plain_settings(mode="fixed", initial_mix=0.5, region_prior=0.0)
    expected = pair.run(pair.guider(*pairs, fixed), noise, 6)
    pairs = [packs.CORE["EasyCache"](models[0]), packs.FOREIGN["cache object"](models[1])]
    assert torch.equal(pair.run(pair.guider(*pairs, still), noise, 6), expected)


def test_functions_of_a_sampler_find_the_negative_prediction(models, noise) -> None:
    """CFG++ reads it, also from a branch whose own patch wants no guidance of 1 left out."""
    wishing = models[0].clone()
    wishing.model_options["disable_cfg1_optimization"] = True
    for sampler in ("euler", "euler_cfg_pp"):
        guider = pair.guider(wishing, models[1], only(0.0), cfg=1.0)
        out = pair.run(guider, noise, STEPS, sampler)
        assert torch.equal(out, pair.run_alone(models[1], noise, STEPS, sampler, cfg=1.0))


def test_the_spatial_models_function_for_the_mask(models, noise) -> None:
    patched = models[1].clone()
    patched.set_model_denoise_mask_function(
        lambda sigma, mask, extra_options: (mask > float(sigma[0]) / 20).to(mask)
    )
    mask = torch.linspace(0, 1, 16).expand(1, 1, 16, 16).contiguous()
    latent = tiny.latent_noise(11)
    given = {"latent": latent, "mask": mask}
    expected = pair.run_alone(patched, noise, STEPS, **given)
    assert not torch.equal(expected, pair.run_alone(models[1], noise, STEPS, **given))
    assert torch.equal(pair.run(pair.guider(models[0], patched, only(0.0)), noise, STEPS, **given),
                       expected)  # fmt: skip


class Hooked:
    """A pack that exchanges the host's sampler and reads the run's sigmas and a mark there."""

    def __init__(self, patch: Any) -> None:
        import comfy.samplers

        self.told: dict[str, Any] = {}
        before = comfy.samplers.KSAMPLER.sample

        def sample(sampler: Any, model: Any, sigmas: Any, extra: Any, *rest: Any, **kw: Any) -> Any:
            if "pack_tiles" in extra["model_options"]:
                self.told = {"sigmas": sigmas}
            return before(sampler, model, sigmas, extra, *rest, **kw)

        patch.setattr(comfy.samplers.KSAMPLER, "sample", sample)

    def __call__(self, model: Any) -> Any:
        patched = model.clone()
        patched.model_options["pack_tiles"] = True
        # hosts of 2025 copy what a method belongs to whenever they clone a patcher
        patched.set_model_unet_function_wrapper(lambda apply, args: self.shifted(apply, args))
        return patched

    def shifted(self, apply: Any, args: Any) -> Tensor:
        step = int((self.told["sigmas"] > args["timestep"][0]).sum())
        moved = apply(args["input"].roll(step, -1), args["timestep"], **args["c"])
        return moved.roll(-step, -1)


def test_a_mark_for_a_packs_own_hook(models, noise, monkeypatch) -> None:
    pack = Hooked(monkeypatch)
    expected = pair.run_alone(pack(models[1]), noise, STEPS)
    assert not torch.equal(expected, pair.run_alone(models[1], noise, STEPS))
    for other in models:
        pack.told = {}
        seen: list[Any] = []
        plain = other.clone()
        plain.set_model_sampler_post_cfg_function(
            lambda args, seen=seen: (
                seen.append("pack_tiles" in args["model_options"]) or args["denoised"]
            )
        )
        guider = pair.guider(plain, pack(models[1]), only(0.0))
        assert torch.equal(pair.run(guider, noise, STEPS), expected)
        pair.run(pair.guider(plain, pack(models[1]), only(0.5)), noise, STEPS)
        assert seen and not any(seen), "the other model is not marked"


def test_a_packs_hook_and_the_other_models_controlnet(models, noise, monkeypatch) -> None:
    pack, control = Hooked(monkeypatch), tiny.tiny_controlnet(6)
    steered = tiny.with_control(tiny.conditioning(3), control, 7)
    with pytest.raises(RealCompoError, match="'realism_model'.*other model's ControlNet"):
        pair.guider(pack(models[0]), models[1], only(0.5), spatial_positive=steered)
    guider = pair.guider(models[0], pack(models[1]), only(0.0), spatial_positive=steered)
    expected = pair.run_alone(pack(models[1]), noise, STEPS, positive=steered)
    assert torch.equal(pair.run(guider, noise, STEPS), expected)
