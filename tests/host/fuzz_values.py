"""Odd values for every type of input, and what must not have changed after a call."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.balancer.realcompo.trace import StepRecord, Trace

from . import tiny

BOX = (0.1, 0.1, 0.5, 0.5)
PROMPT = "a red circle and a blue square"
# widgets whose largest value is a lawful order that takes hours
COSTLY = {
    "steps", "batch_size", "sampling_steps", "width", "height", "rank", "pairs", "max_tokens",
    "maps", "side", "keep", "columns", "cfg",
}  # fmt: skip


class _Odd:
    """An object of nobody's type."""


def anything(rng: random.Random) -> Any:
    """A value of a type that the input does not have, most of the time."""
    deep: list[Any] = []
    deep.append(deep)
    return rng.choice(
        [None, 0, 1, -1, 2.5, True, False, float("nan"), float("inf"), "text", "", b"bytes", [],
         {}, (), _Odd(), torch.zeros(1), torch.tensor(float("nan")), torch.zeros(0), [None], deep,
         _Odd, {"samples": None}, 1 << 70, 10**400, "5", range(3), {1, 2}, torch.float32]
    )  # fmt: skip


def text(rng: random.Random, good: str) -> str:
    """Texts that people and scripts send."""
    return rng.choice(
        ["", " ", "\n\n", "\ud800", f"{good}\udfff", "a" * (1 << 20), "a red circle, " * 3000,
         "|" * 1000, "\x00", "(" * 2000, "((a:1e999))", "[[[[", "{a}", "# only", "nan", "1e400",
         f"{good}\n{good}", good.upper(), f"{good} | nothing like it", "\u202eabc", "\\(", "-1",
         "\U0001f436 \U0001f436", "embedding:none", good + " " * 5000, "a | a | a", "0.5, nan",
         "\u4e00\u53ea\u7ea2\u8272\u7684\u732b", "0.1 " * 40, "inf", "%date:yyyy%", "../x",
         "cafe\u0301", "*1.5 #2", "a" * 19_000]
    )  # fmt: skip


def number(rng: random.Random, name: str, options: dict[str, Any], whole: bool) -> Any:
    """Numbers at the ends of what the widget takes, outside, and of other kinds."""
    low, high = options.get("min", 0), options.get("max", 1 << 64)
    found = [low, low - 1, high + 1, -1, 1e20, float(1 << 53) + 2, 1 << 64, -(1 << 63), 10**400,
             float("nan"), float("inf"), -float("inf"), True, "1", float(low), low + 0.25, None,
             2**62 + 0.0, "nan", [low], torch.tensor(low), -0.0]  # fmt: skip
    if name not in COSTLY:
        found += [high, float(high), (low + high) // 2 if whole else (low + high) / 2]
    return rng.choice(found)


def tensor(rng: random.Random, good: torch.Tensor) -> Any:
    """``good`` spoilt: values, type, rank, size, storage."""
    shape = good.shape
    nan = good.clone()
    nan.view(-1)[0] = float("nan")
    makers: list[Callable[[], Any]] = [
        lambda: nan, lambda: good * float("inf"), lambda: good.bool(), lambda: good.half(),
        lambda: good.to(torch.bfloat16), lambda: good.double(), lambda: (good * 255).byte(),
        lambda: good.long(), lambda: good.to(torch.complex64), lambda: good[:0], lambda: good[0],
        lambda: good[0, 0], lambda: good[None], lambda: good[None, None], lambda: good[..., :0],
        lambda: good[..., :1], lambda: good.repeat(3, *[1] * (good.ndim - 1)), lambda: good - 5.0,
        lambda: good * 1e30, lambda: good.flatten(), lambda: torch.tensor(0.5),
        lambda: torch.zeros(shape, device="meta"), lambda: good.to_sparse(),
        lambda: good.transpose(1, -1), lambda: good[..., ::2], lambda: good[:, :1],
        lambda: torch.zeros(()).expand(shape), lambda: torch.nested.nested_tensor([good[0]]),
        lambda: torch.cat([good, good], dim=1), lambda: torch.ones(shape) * 3e38,
        lambda: good.movedim(-1, 1),
    ]  # fmt: skip
    if hasattr(torch, "float8_e4m3fn"):
        makers.append(lambda: good.to(torch.float8_e4m3fn))
    with torch.inference_mode(False):
        grown = torch.rand(shape).requires_grad_()
    makers.append(lambda: grown)
    return rng.choice(makers)()


def latent(rng: random.Random, good: dict[str, Any]) -> Any:
    """LATENTs of other shapes, and with odd entries beside the samples."""
    samples = good["samples"]
    extra = rng.choice(
        [{}, {"noise_mask": torch.full((1, 16, 16), float("nan"))}, {"batch_index": [5, 6, 7]},
         {"batch_index": "x"}, {"noise_mask": None}, {"type": "audio"}, {"batch_index": [-1]}]
    )  # fmt: skip
    if rng.random() < 0.15:
        return rng.choice([{}, {"samples": None}, {"samples": [1]}, {"sample": samples}, samples])
    return {"samples": tensor(rng, samples), **extra}


def conditioning(rng: random.Random, good: Any) -> Any:
    """CONDITIONING of other widths and lengths, in other numbers, and with odd entries."""
    embedding, options = good[0][0], dict(good[0][1])
    pooled = {**options, "pooled_output": rng.choice([None, "x", torch.zeros(1, 3), embedding])}
    return rng.choice(
        [[], [[embedding[..., :-1], options]], [[embedding[:, :5], options]], good * 3,
         [[tensor(rng, embedding), options]], [[tensor(rng, embedding), options]],
         [[None, options]], [["x", options]], [[embedding]], [[embedding, None]],
         [embedding, options], [[embedding, pooled]], [tuple(good[0])], tuple(good), [[]],
         [[embedding.repeat(3, 1, 1), options]], [[embedding.repeat(1, 9, 1), options]],
         [[embedding, {**options, "start_percent": 0.9, "end_percent": 0.1}]],
         [[embedding, {**options, "area": (1, 1, 0, 0)}]],
         [[embedding, {**options, "strength": 0.0}]]]
    )  # fmt: skip


class BadClip:
    """A text encoder that answers oddly."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def tokenize(self, text: str) -> Any:
        return [1]

    def encode_from_tokens(self, tokens: Any, return_pooled: bool = False) -> Any:
        return (self.answer, None) if return_pooled else self.answer


def layout(rng: random.Random, good: Layout) -> Any:
    """Layouts that other nodes and scripts may build."""
    mask = torch.zeros(16, 16)
    mask[2:9, 3:12] = 1.0
    masked = Region.from_mask("a red circle", Mask.from_tensor(mask))
    makers: list[Callable[[], Any]] = [
        lambda: Layout((), PROMPT), lambda: Layout((Region("a red circle", BOX),)),
        lambda: Layout((masked, Region("a blue square", BOX)), PROMPT),
        lambda: Layout((Region("x", BOX, tokens=(500,)),), PROMPT),
        lambda: Layout((Region("x", BOX, tokens=(1 << 40,)),), PROMPT),
        lambda: Layout((Region("", BOX, tokens=(1, 2)), Region("y", BOX, tokens=(3,))), PROMPT),
        lambda: Layout((Region("a green star", BOX),), PROMPT),
        lambda: Layout(tuple(Region("a red circle", BOX) for _ in range(70)), PROMPT),
        lambda: Layout((Region("a red circle", BOX, weight=1e308),), PROMPT),
        lambda: Layout((Region("a red circle", BOX, weight=1e-320),), PROMPT),
        lambda: Layout((Region("a red circle", BOX, occurrence=7),), PROMPT),
        lambda: Layout((Region("a red circle", (0.5, 0.5, 0.5 + 1e-12, 0.6)),), PROMPT),
        lambda: Layout((Region("a red circle", (0.0, 0.0, 1.0, 1.0)),), PROMPT, 3, 100_000),
        lambda: Layout((Region("a red circle", BOX),), PROMPT, 10**12, 10**12),
        lambda: Layout((Region("a red circle", BOX),), "a red circle " * 30_000),
        lambda: Layout((Region("\ud800", BOX),), PROMPT),
        lambda: Layout((Region("a red circle", BOX),), "a red circle \ud800"),
        lambda: Layout((Region("!", BOX),), "! a red circle"),
        lambda: good.to_dict() if hasattr(good, "to_dict") else {"regions": []},
        lambda: "layout", lambda: good.regions, lambda: Layout,
    ]  # fmt: skip
    made = rng.choice(makers)
    try:
        return made()
    except ValueError:  # layouts that cannot be built any more
        return None


def trace(rng: random.Random, good: Trace) -> Any:
    """Traces with other tensors in them."""
    record = good.steps[0]

    def changed(**values: Any) -> Trace:
        step = StepRecord(**{**vars(record), **values})
        return Trace(good.phrases, good.settings, [step, *good.steps[1:]])

    name = rng.choice(["mix", "shares_realism", "loss_realism", "maps_realism", "maps_spatial"])
    value = getattr(record, name)
    return rng.choice(
        [Trace(), changed(mix=record.mix[:0]), "trace", {}, changed(shares_realism=None),
         changed(**{name: value if value is None else value[:1]}), changed(phase="odd"),
         Trace((), {}, good.steps), Trace(("a", "b", "c", "d"), {}, good.steps)]
    )  # fmt: skip


def lora(rng: random.Random, good: dict[str, torch.Tensor]) -> Any:
    """LoRAs that no file holds, and some that it does."""
    name, value = next(iter(good.items()))
    return rng.choice(
        [{}, {**good, name: tensor(rng, value)}, {**good, name: None}, {1: value}, {name: value,
         "other": value}, {"\ud800": value}, {"": value}, {name: value.T}, [value], {name: 1.0}]
    )  # fmt: skip


def losses(rng: random.Random) -> Any:
    """Loss maps of other trainers, and nobody's."""
    return rng.choice(
        [{}, {"loss": []}, {"loss": [float("nan"), 1.0]}, {"loss": [torch.tensor(1.0)]},
         {"loss": 1.0}, {"loss": "x"}, {"loss": [[1.0], [2.0]]}, {1: [1.0]}, [1.0], "x",
         {"loss": [10**400]}, {"loss": [float("inf")]}, {"\ud800": [1.0]}, {"loss": {"a": 1}},
         {"loss": [1.0] * 50_000}, {"loss": [None]}, {"loss": torch.rand(3)}, {"loss": [True]}]
    )  # fmt: skip


def other_models(demo: tuple[Any, ...]) -> list[Any]:
    """Patchers of the host that are no U-Net, or none at all."""
    return [tiny.tiny_flux(1), demo[1].patcher, demo[3], demo[0].model, demo[1], demo[2]]


def fingerprint(models: list[Any]) -> list[Any]:
    """All that a call may not change of patchers and networks: options, patches, weights, hooks."""
    found: list[Any] = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    for patcher in models:
        found.append(
            {
                name: repr(getattr(patcher, name, None))
                for name in ("model_options", "object_patches", "wrappers", "callbacks",
                             "hook_patches", "forced_hooks", "injections", "additional_models")
            }
            | {"patches": sorted(getattr(patcher, "patches", {}))}
        )  # fmt: skip
        network = patcher.model
        found.append(
            [
                (name, id(p), p.requires_grad, p.grad is None, float(p.detach().double().sum()))
                for name, p in network.named_parameters()
            ]
        )
        found.append(
            [
                (name, module.training, "forward" in vars(module), len(module._forward_hooks),
                 len(module._forward_pre_hooks))
                for name, module in network.named_modules()
            ]
        )  # fmt: skip
    return found
