"""Every kind of patch that a MODEL carries: the host's own nodes, and imitations of other packs'.

Each entry of ``CORE`` and ``FOREIGN`` takes a patcher and gives a patched clone. ``CORE`` holds
the host's true nodes; what a host does not have raises pytest's skip with its reason.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Patch = Callable[[Any], Any]


def node(module: str, name: str, **inputs: Any) -> Patch:
    """A patch by one of the host's own nodes."""

    def apply(model: Any) -> Any:
        try:
            kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        except (ImportError, AttributeError):
            pytest.skip(f"this host has no {name}, or lacks what it imports")
        with torch.inference_mode():
            if hasattr(kind, "execute"):
                out = kind.execute(model, **inputs)
                return out.result[0] if hasattr(out, "result") else out[0]
            return getattr(kind(), kind.FUNCTION)(model, **inputs)[0]

    return apply


CORE: dict[str, Patch] = {
    "PAG": node("nodes_pag", "PerturbedAttentionGuidance", scale=3.0),
    "SAG": node("nodes_sag", "SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "NAG": node("nodes_nag", "NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
    "APG": node("nodes_apg", "APG", eta=0.5, norm_threshold=2.0, momentum=-0.5),
    "EasyCache": node(
        "nodes_easycache", "EasyCacheNode", reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    ),
    "LazyCache": node(
        "nodes_easycache", "LazyCacheNode", reuse_threshold=3.0, start_percent=0.0,
        end_percent=1.0, verbose=False,
    ),
    "Mahiro": node("nodes_mahiro", "Mahiro"),
    "TCFG": node("nodes_tcfg", "TCFG"),
    "CFGZeroStar": node("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": node("nodes_cfg", "CFGNorm", strength=0.8),
    "FreSca": node("nodes_fresca", "FreSca", scale_low=1.0, scale_high=1.5, freq_cutoff=3),
    "ToMe": node("nodes_tomesd", "TomePatchModel", ratio=0.5),
    "FreeU": node("nodes_freelunch", "FreeU", b1=1.2, b2=1.3, s1=0.9, s2=0.5),
    "RescaleCFG": node("nodes_model_advanced", "RescaleCFG", multiplier=0.7),
    "LinearCFG": node("nodes_video_model", "VideoLinearCFGGuidance", min_cfg=1.0),
    "EpsilonScaling": node("nodes_eps", "EpsilonScaling", scaling_factor=1.1),
    "TSR": node("nodes_eps", "TemporalScoreRescaling", tsr_k=0.9, tsr_sigma=1.0),
    "DeepShrink": node(
        "nodes_model_downscale", "PatchModelAddDownscale", block_number=2, downscale_factor=2.0,
        start_percent=0.0, end_percent=0.5, downscale_after_skip=True,
        downscale_method="bicubic", upscale_method="bicubic",
    ),
}  # fmt: skip

FOREIGN: dict[str, Patch] = {}
JOINT: dict[str, Patch] = {
    "SLG": node(
        "nodes_slg", "SkipLayerGuidanceDiT", scale=2.0, start_percent=0.0, end_percent=1.0,
        double_layers="1", single_layers="0", rescaling_scale=0.5,
    ),
    "SLG without guidance": node(
        "nodes_slg", "SkipLayerGuidanceDiTSimple", start_percent=0.0, end_percent=1.0,
        double_layers="1", single_layers="",
    ),
    "NAG": CORE["NAG"], "EasyCache": CORE["EasyCache"], "LazyCache": CORE["LazyCache"],
}  # fmt: skip
"""For models of joint attention, whose blocks are replaced whole."""


def foreign(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function that patches the clone it is given."""

    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def apply(model: Any) -> Any:
            patched = model.clone()
            change(patched)
            return patched

        FOREIGN[name] = apply
        return change

    return register


def need_wrappers() -> None:
    import comfy.model_patcher

    if not hasattr(comfy.model_patcher.ModelPatcher, "add_wrapper_with_key"):
        pytest.skip("hosts of 2024 have no wrappers")


@foreign("function wrapper")
def _function(model: Any) -> None:
    model.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"] * 0.98, args["timestep"], **args["c"])
    )


@foreign("cfg function")
def _cfg(model: Any) -> None:
    model.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] * 0.7
    )


@foreign("pre-cfg")
def _pre(model: Any) -> None:
    model.set_model_sampler_pre_cfg_function(
        lambda args: [args["conds_out"][0] * 1.02, *args["conds_out"][1:]]
    )


@foreign("post-cfg")
def _post(model: Any) -> None:
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.97)


@foreign("attn1 replace")
def _attn1(model: Any) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
        return v * 0.5

    model.set_model_attn1_replace(attend, "input", 1)


@foreign("attn2 replace")
def _attn2(model: Any) -> None:
    from realcompo.balancer.comfy.attention.readers import differentiable_attention

    def adapter(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
        return 1.5 * differentiable_attention(q, k, v, extra)

    model.set_model_attn2_replace(adapter, "output", 2)


@foreign("attn patches")
def _attn_patches(model: Any) -> None:
    model.set_model_attn1_patch(lambda q, k, v, extra: (q, k * 0.8, v))
    model.set_model_attn2_patch(lambda q, k, v, extra: (q * 1.1, k, v))


@foreign("attn output patch")
def _output(model: Any) -> None:
    """Needs the positive and the negative rows in one pass, as guidance inside attention does."""

    def guide(out: Tensor, extra: Any) -> Tensor:
        marks = extra["cond_or_uncond"]
        if 0 not in marks or 1 not in marks:
            return out
        parts = list(out.chunk(len(marks)))
        positive, negative = marks.index(0), marks.index(1)
        parts[positive] = parts[positive] + 0.5 * (parts[positive] - parts[negative])
        return torch.cat(parts)

    model.set_model_attn2_output_patch(guide)


@foreign("block patches")
def _blocks(model: Any) -> None:
    def halve(h: Tensor, options: Any) -> Tensor:
        return h.mul_(0.9) if options["block"][1] == 1 else h

    model.set_model_input_block_patch(halve)
    model.set_model_output_block_patch(lambda h, skip, options: (h * 1.05, skip * 0.9))


@foreign("calc_cond_batch function")
def _batch(model: Any) -> None:
    import comfy.samplers

    if not hasattr(model, "set_model_sampler_calc_cond_batch_function"):
        pytest.skip("hosts of 2024 have no function around a batch")

    def answer(args: Any) -> list[Tensor]:
        out = comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )
        return [out[0] * 1.03, *out[1:]]

    model.set_model_sampler_calc_cond_batch_function(answer)


def _wrapper(kind: str) -> Patch:
    def apply(model: Any) -> Any:
        need_wrappers()
        patched = model.clone()

        def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
            out = executor(*args, **kwargs)
            return [o * 1.02 for o in out] if isinstance(out, list) else out * 1.02

        patched.add_wrapper_with_key(kind, "pack", around)
        return patched

    return apply


for _kind in ("calc_cond_batch", "apply_model", "diffusion_model", "predict_noise",
              "sampler_sample", "outer_sample"):  # fmt: skip
    FOREIGN[f"wrapper {_kind}"] = _wrapper(_kind)


@foreign("wrappers of a whole run")
def _run(model: Any) -> None:
    """Every wrapper finds what those before it have left in the guider's and the run's options,
    as a motion model's do; a missing one is a KeyError."""
    need_wrappers()

    def outer(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        before = guider.model_options
        inside = {**before["transformer_options"], "pack_outer": {"scale": 1.05}}
        guider.model_options = {**before, "transformer_options": inside}
        assert guider.model_patcher.wrappers["outer_sample"]["pack"] == [outer]
        assert guider.conds["positive"] and guider.cfg
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_options = before

    def prepare(executor: Any, patcher: Any, shape: Any, conds: Any, **kwargs: Any) -> Any:
        assert "pack" in patcher.wrappers["prepare_sampling"]
        kwargs["model_options"]["transformer_options"]["pack_outer"]["prepared"] = 0.98
        out = executor(patcher, shape, conds, **kwargs)
        assert out[0] is patcher.model
        return out

    def sampler(executor: Any, guider: Any, sigmas: Any, extra: Any, *args: Any) -> Any:
        assert hasattr(executor.class_obj, "sampler_function")
        assert "pack" in guider.model_patcher.wrappers["sampler_sample"]
        given = extra["model_options"]["transformer_options"]
        given["pack_sampler"] = given["pack_outer"]["prepared"]
        return executor(guider, sigmas, extra, *args)

    def predict(executor: Any, x: Tensor, sigma: Tensor, options: Any, seed: Any) -> Tensor:
        given = options["transformer_options"]
        return executor(x, sigma, options, seed) * given["pack_sampler"]

    def network(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = kwargs.get("transformer_options") or args[-1]
        return executor(x, *args, **kwargs) * given["pack_outer"]["scale"]

    for kind, function in (
        ("outer_sample", outer), ("prepare_sampling", prepare), ("sampler_sample", sampler),
        ("predict_noise", predict), ("diffusion_model", network),
    ):  # fmt: skip
        model.add_wrapper_with_key(kind, "pack", function)


@foreign("guidance that calls again")
def _again(model: Any) -> None:
    def more(args: dict[str, Any]) -> Tensor:
        import comfy.model_patcher
        import comfy.samplers

        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), lambda q, k, v, extra: v * 0.5, "attn1", "middle", 0
        )
        (other,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        return args["denoised"] + 0.3 * (args["cond_denoised"] - other)

    model.set_model_sampler_post_cfg_function(more)


def tiles(inference: bool) -> Patch:
    """The latent cut into two halves, each a model call; as one pack does in inference mode."""

    def apply(model: Any) -> Any:
        patched = model.clone()

        def cut(apply: Any, args: Any) -> Tensor:
            middle = args["input"].shape[-1] // 2
            parts = (args["input"][..., :middle], args["input"][..., middle:])
            return torch.cat([apply(p, args["timestep"], **args["c"]) for p in parts], -1)

        wrapper = torch.inference_mode()(cut) if inference else cut
        patched.set_model_unet_function_wrapper(wrapper)
        return patched

    return apply


@foreign("cache object")
def _cache(model: Any) -> None:
    """Every second call of a kind takes what the one before gave."""

    class Cache:
        def __init__(self) -> None:
            self.last: dict[Any, Tensor] = {}

        def __call__(self, apply: Any, args: Any) -> Tensor:
            key = (*args["cond_or_uncond"], args["input"].shape)
            if key in self.last:
                return self.last.pop(key) + 0.01 * args["input"]
            self.last[key] = apply(args["input"], args["timestep"], **args["c"])
            return self.last[key]

    model.set_model_unet_function_wrapper(Cache())


@foreign("momentum in options")
def _momentum(model: Any) -> None:
    """State from step to step among the options that guidance is given."""

    def guide(args: dict[str, Any]) -> Tensor:
        options, gap = args["model_options"], args["cond"] - args["uncond"]
        before = options.get("pack_momentum")
        options["pack_momentum"] = gap if before is None else gap - 0.5 * before
        return args["uncond"] + args["cond_scale"] * options["pack_momentum"]

    model.set_model_sampler_cfg_function(guide)


@foreign("state in exchanged containers")
def _exchanged(model: Any) -> None:
    """A dictionary among the options is not written to but put anew, and one's own function
    after guidance is added on the way."""

    def late(args: dict[str, Any]) -> Tensor:
        return args["denoised"] * 0.99

    def guide(args: dict[str, Any]) -> list[Tensor]:
        options = args["model_options"]
        inside = options["transformer_options"]
        calls = inside.get("pack_calls", 0) + 1
        options["transformer_options"] = {**inside, "pack_calls": calls}
        if calls == 2:
            options["sampler_post_cfg_function"] = [
                *options.get("sampler_post_cfg_function", []), late
            ]  # fmt: skip
        return [args["conds_out"][0] * (1 + 0.01 * calls), *args["conds_out"][1:]]

    model.set_model_sampler_pre_cfg_function(guide)


@foreign("state in a variable")
def _variable(model: Any) -> None:
    average = None

    def guide(args: dict[str, Any]) -> list[Tensor]:
        nonlocal average
        gap = args["conds_out"][0] - args["conds_out"][1]
        average = gap if average is None else gap - 0.5 * average
        if float(args["sigma"][0]) < 0.1:
            average = None
        return [args["conds_out"][1] + gap * 0.5 + 0.1 * (average if average is not None else gap),
                *args["conds_out"][1:]]  # fmt: skip

    model.set_model_sampler_pre_cfg_function(guide)


@foreign("callbacks and attachment")
def _callbacks(model: Any) -> None:
    need_wrappers()
    model.set_attachments("pack", {"scale": 0.97})

    told: dict[str, float] = {}

    def state(patcher: Any, *rest: Any) -> None:  # hosts before mid-2025 do not tell the options
        told["scale"] = patcher.get_attachment("pack")["scale"]

    def network(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return executor(*args, **kwargs) * told["scale"]

    model.add_callback_with_key("on_prepare_state", "pack", state)
    model.add_wrapper_with_key("diffusion_model", "pack", network)


@foreign("attention override")
def _override(model: Any) -> None:
    from realcompo.balancer.comfy.host.compat import has_attention_override

    if not has_attention_override():
        pytest.skip("this host lets nobody override its attention")

    def attend(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs) * 0.95

    model.model_options["transformer_options"]["optimized_attention_override"] = attend


def _joint(name: str, change: Callable[[Any], None]) -> None:
    def apply(model: Any) -> Any:
        patched = model.clone()
        change(patched)
        return patched

    JOINT[name] = apply


def need_blocks() -> None:
    if "blocks_replace" not in inspect.getsource(importlib.import_module("comfy.ldm.flux.model")):
        pytest.skip("this host replaces no blocks of Flux")


def _double(model: Any) -> None:
    need_blocks()

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        return {**out, "img": out["img"] * 0.95}

    model.set_model_patch_replace(block, "dit", "double_block", 1)


def _single(model: Any) -> None:
    need_blocks()

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return {"img": args["img"] * 1.0}

    model.set_model_patch_replace(block, "dit", "single_block", 1)


_joint("double block", _double)
_joint("single block", _single)
_joint("function wrapper", _function)
