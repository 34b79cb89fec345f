"""Literal joint-attention maps, losses and Algorithm 1 for flow models, to compare the engine with.

Written from the formulas and kept apart from the engine: attention is recorded by taking the place
of the attention function in the host's own block module, during full passes of deep-copied models
in ordinary tensors; the whole softmax over text and image keys is spelled out; gradients are
autograd's through everything.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from .reference import Box, box_mask, ordinary_copy
from .tiny_dit import Family

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@contextmanager
def recording(family: Family) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Queries and keys (B, heads, N, dim) of every attention call of the host, in order."""
    module = importlib.import_module(family.module)
    calls: list[tuple[Tensor, Tensor]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kwargs: Any):
        if not kwargs.get("skip_reshape"):
            q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
        calls.append((q, k))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + mask
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)

    original = getattr(module, family.function)
    setattr(module, family.function, attend)
    try:
        yield calls
    finally:
        setattr(module, family.function, original)


def conditions(model: Any, text: list[Any], x: Tensor, **extra: Any) -> dict[str, Any]:
    """What the host gives the model beside the latent, for one prompt (ordinary tensors)."""
    embedding, values = text[0]
    found = model.extra_conds(
        cross_attn=embedding.clone(), noise=x, device=x.device, prompt_type="positive",
        **{k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}, **extra,
    )  # fmt: skip

    def plain(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return [plain(item) for item in value] if isinstance(value, list) else value
        return value.clone().expand(x.shape[0], *value.shape[1:])

    return {name: plain(cond.cond) for name, cond in found.items()}


def denoised(model: Any, x: Tensor, sigma: float, given: dict[str, Any]) -> Tensor:
    """The model's x0 at noise level ``sigma``, with a graph if x has one."""
    import comfy.model_management as management

    # hosts of 2026 use kernels without a backward unless they are told that something trains
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(management, "in_training", True, raising=False)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return model.apply_model(x, torch.full((x.shape[0],), sigma), **given)


def shares(
    model: Any,
    family: Family,
    x: Tensor,
    sigma: float,
    given: dict[str, Any],
    boxes: list[Box],
    tokens: list[tuple[int, ...]],
    image_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """In-box shares (B, boxes) of one full pass, and the mean maps (B, boxes, h, w)."""
    length = given["c_crossattn"].shape[1]
    height, width = ((size + 1) // 2 for size in x.shape[-2:])
    with recording(family) as calls:
        denoised(model, x, sigma, given)
    # SD3.5 medium has calls without text; in order of the forward, double blocks come first
    joint = [(q, k) for q, k in calls if q.shape[2] >= length + height * width]
    maps = []
    for q, k in joint[: family.read]:
        whole = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        start = 0 if image_first else length
        first = whole.shape[-1] - length if image_first else 0
        own = whole[:, :, start : start + height * width, first : first + length]
        maps.append(own.mean(dim=1))
    mean = torch.stack(maps).mean(dim=0)
    found, seen = [], []
    for box, span in zip(boxes, tokens, strict=True):
        phrase = mean[:, :, list(span)].mean(dim=-1).unflatten(1, (height, width))
        inside = (phrase * box_mask(box, height, width)).sum(dim=(1, 2))
        found.append(inside / phrase.sum(dim=(1, 2)))
        seen.append(phrase)
    return torch.stack(found, dim=1), torch.stack(seen, dim=1)


def ordinary(patcher: ModelPatcher) -> Any:
    """The host's model object with ordinary weights."""
    return ordinary_copy(patcher.model)


def flow_run(
    models: tuple[ModelPatcher, ModelPatcher],
    family: Family,
    positive: list[Any],
    negative: list[Any],
    boxes: list[Box],
    tokens: list[tuple[int, ...]],
    noise: Tensor,
    sigmas: Tensor,
    cfg: float,
    rho: float,
    told_next: bool = False,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Algorithm 1 with two flow models, in the flow's own terms.

    A flow's latent is x_s = (1 - s) x0 + s n and its prediction the velocity v = n - x0, so the
    deterministic step of Eq. 12 is x + (s' - s) v. ``told_next`` tells the models with the probe
    latent its own noise level instead of this step's. Returns the latent as a KSampler gives it,
    and per step loss, both coefficient maps' gradients and the softmax weight of the first model.
    """
    steps: list[dict[str, Any]] = []
    with torch.inference_mode(False), torch.enable_grad():
        text, sp = (ordinary(model) for model in models)
        x = noise.float().clone()
        levels = [float(s) for s in sigmas]
        given = {
            name: [conditions(m, prompt, x) for m in (text, sp)]
            for name, prompt in (("positive", positive), ("negative", negative))
        }
        shape = (x.shape[0], *(1 for _ in x.shape[1:-2]), *x.shape[-2:])
        coe = [torch.zeros(shape), torch.zeros(shape)]
        for s, s_next in zip(levels[:-1], levels[1:], strict=True):
            with torch.no_grad():
                cond, uncond = (
                    [
                        (x - denoised(m, x, s, g)) / s
                        for m, g in zip((text, sp), given[name], strict=True)
                    ]
                    for name in ("positive", "negative")
                )
            coe = [c.detach().requires_grad_(True) for c in coe]
            xi = torch.softmax(torch.stack(coe), dim=0)
            probe = x + (s_next - s) * (xi[0] * cond[0] + xi[1] * cond[1])
            loss = torch.zeros(x.shape[0])
            lowest = float(sp.model_sampling.sigma_min)
            told = max(s_next, lowest) if told_next else s
            for m, g in zip((text, sp), given["positive"], strict=True):
                inside, _ = shares(m, family, probe, told, g, boxes, tokens)
                loss = loss + (1.0 - inside).sum(dim=1)
            gradients = torch.autograd.grad(loss.sum(), coe)
            with torch.no_grad():
                coe = [c - rho * g for c, g in zip(coe, gradients, strict=True)]
                xi = torch.softmax(torch.stack(coe), dim=0)
                good, bad = (xi[0] * v[0] + xi[1] * v[1] for v in (cond, uncond))
                x = x + (s_next - s) * (bad + cfg * (good - bad))
            steps.append({"loss": loss.detach(), "gradients": gradients, "mix": xi[0]})
        return models[0].model.process_latent_out(x), steps
