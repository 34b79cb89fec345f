"""Slow, literal RealCompo (arXiv 2402.12908, Algorithm 1) to compare the dual guider with.

Written from the paper's formulas and kept apart from the engine on purpose: nothing of the pack is
imported, everything happens in the variance-preserving form z = x / sqrt(1 + sigma^2) with
abar = 1 / (1 + sigma^2), both models are deep-copied into ordinary tensors, every pass is a full
one, both coefficient maps exist, and every gradient is autograd's, through the loss, the
attention maps, z', the composition and the softmax. No pass is shared and none is stopped early.
Attention is read by plain module hooks, not through the host's patches.

For models of the SD1.x kind (eps or v prediction, no vector input) without LoRA or other patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .tiny import copied

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture."""
Grounding = tuple["ModelPatcher", list[tuple[Tensor, int, int, int, int]]]
"""A GLIGEN and its (embedding (1,768), height, width, y, x) entries in latent pixels."""


@dataclass
class ReferenceResult:
    """What the reference found. The lists have one entry per balanced step, in ``steps``.

    latent: (B,4,H,W) as a KSampler returns it. losses: (B,). coefficients: the two maps
    (text, spatial) after the update, (B,1,H,W) each. mix: text's softmax weight after the update.
    shares: (B, boxes, 2), the in-box part of each phrase's attention (text, spatial).
    gradients: dL/dCoe of the two maps, before the update. probe_gradients: dL/dz', (B,4,H,W), in
    the variance-preserving scale. probes: z' itself.
    """

    latent: Tensor
    steps: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    coefficients: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    mix: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    gradients: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    probe_gradients: list[Tensor] = field(default_factory=list)
    probes: list[Tensor] = field(default_factory=list)


@dataclass
class Branch:
    """One model in ordinary tensors, with its texts (B,77,D) and, for GLIGEN, its grounding."""

    unet: torch.nn.Module
    predicts_v: bool
    timestep_of: Callable[[Tensor], Tensor]
    positive: Tensor
    negative: Tensor
    ground: Callable[..., Tensor] | None = None
    ground_negative: Callable[..., Tensor] | None = None


def abar_of(sigma: float) -> float:
    """Cumulative alpha product of a variance-exploding noise level."""
    return 1.0 / (1.0 + sigma * sigma)


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """Cells floor(n*low) <= i < floor(n*high) of a (height, width) grid, at least one an axis."""

    def cells(low: float, high: float, n: int) -> slice:
        first = min(math.floor(n * low), n - 1)
        return slice(first, max(math.floor(n * high), first + 1))

    mask = torch.zeros(height, width)
    mask[cells(box[1], box[3], height), cells(box[0], box[2], width)] = 1.0
    return mask


def map_size(height: int, width: int, factor: int) -> tuple[int, int]:
    """Grid after log2(factor) strided convolutions, each of which rounds up."""
    while factor > 1:
        height, width, factor = (height + 1) // 2, (width + 1) // 2, factor // 2
    return height, width


def ordinary_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Deep copy whose weights are no inference tensors, so that autograd may keep them."""
    with torch.inference_mode(False):
        own = copied(module).requires_grad_(False)
    if any(t.is_inference() for t in (*own.parameters(), *own.buffers())):
        raise RuntimeError("a copied weight is still an inference tensor")
    return own


@contextmanager
def reading(unet: torch.nn.Module, cells: int) -> Iterator[list[Tensor]]:
    """Collect the cross-attention of each site with ``cells`` queries, (B, heads, cells, tokens).

    The list fills while the UNet runs, in the order of its sites.
    """
    maps: list[Tensor] = []
    handles = []

    def watch(attention: torch.nn.Module) -> None:
        queries: list[Tensor] = []

        def keep_query(module: torch.nn.Module, args: Any, output: Tensor) -> None:
            queries.append(output)

        def attend(module: torch.nn.Module, args: Any, key: Tensor) -> None:
            query = queries.pop()
            if query.shape[1] != cells:
                return
            heads = attention.heads
            q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            maps.append(scores.softmax(dim=-1))

        handles.append(attention.to_q.register_forward_hook(keep_query))
        handles.append(attention.to_k.register_forward_hook(attend))

    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            watch(module)
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def run_unet(
    branch: Branch, z: Tensor, sigma: float, text: Tensor, ground: Callable[..., Tensor] | None
) -> Tensor:
    """Raw output of the network at z (B,4,H,W), told the timestep of ``sigma``."""
    timestep = branch.timestep_of(torch.full((z.shape[0],), sigma)).float()
    options: dict[str, Any] = {}
    if ground is not None:
        options["patches"] = {"middle_patch": [ground]}
    # Hosts of 2024 add in place to tensors that autograd has kept; a kept clone stays what it was.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        return branch.unet(z, timestep, context=text, transformer_options=options)


def predict(branch: Branch, z: Tensor, sigma: float, conditional: bool) -> Tensor:
    """Predicted noise eps (B,4,H,W) at z; v predictions are turned into it."""
    text = branch.positive if conditional else branch.negative
    ground = branch.ground if conditional else branch.ground_negative
    with torch.no_grad():
        out = run_unet(branch, z, sigma, text, ground)
    if branch.predicts_v:
        # v = sqrt(abar) eps - sqrt(1 - abar) x0 (arXiv 2202.00512, Appendix D), solved for eps.
        abar = abar_of(sigma)
        return math.sqrt(abar) * out + math.sqrt(1.0 - abar) * z
    return out


def compose(coe_text: Tensor, coe_sp: Tensor) -> Tensor:
    """Eq. 2: softmax over the two models at each position, (2, B, 1, H, W), text first."""
    return torch.softmax(torch.stack([coe_text, coe_sp]), dim=0)


def ddim(z: Tensor, eps: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Eq. 12 with eta 0."""
    abar, abar_next = abar_of(sigma), abar_of(sigma_next)
    clean = (z - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_next) * clean + math.sqrt(1.0 - abar_next) * eps


def branch_shares(
    branch: Branch,
    z: Tensor,
    sigma: float,
    boxes: list[Box],
    tokens: list[tuple[int, ...]],
    factor: int,
) -> Tensor:
    """In-box share of each phrase's attention in one full conditional pass at z, (B, boxes).

    Averaged over heads, sites and the phrase's tokens before the ratio is taken.
    """
    height, width = map_size(z.shape[-2], z.shape[-1], factor)
    with reading(branch.unet, height * width) as maps:
        run_unet(branch, z, sigma, branch.positive, branch.ground)
    if not maps:
        raise ValueError(f"the model has no cross-attention at factor {factor}")
    mean = torch.stack([m.mean(dim=1) for m in maps]).mean(dim=0)
    shares = []
    for box, span in zip(boxes, tokens, strict=True):
        phrase = mean[:, :, list(span)].mean(dim=-1).unflatten(1, (height, width))
        inside = (phrase * box_mask(box, height, width)).sum(dim=(1, 2))
        shares.append(inside / phrase.sum(dim=(1, 2)))
    return torch.stack(shares, dim=1)


def _branch(
    patcher: ModelPatcher,
    positive: Tensor,
    negative: Tensor,
    shape: torch.Size,
    gligen: Grounding | None = None,
    negative_grounding: str = "same",
) -> Branch:
    options = patcher.model_options.get("transformer_options", {})
    patched = options.get("patches") or options.get("patches_replace")
    if patcher.patches or patcher.object_patches or patched or patcher.model.adm_channels:
        raise ValueError("the reference takes unpatched models without a vector input")
    branch = Branch(
        unet=ordinary_copy(patcher.model.diffusion_model),
        predicts_v=patcher.model.model_type.name == "V_PREDICTION",
        timestep_of=ordinary_copy(patcher.model.model_sampling).timestep,
        positive=positive.clone().expand(shape[0], -1, -1),
        negative=negative.clone().expand(shape[0], -1, -1),
    )
    if gligen is not None:
        network = ordinary_copy(gligen[0].model)
        entries = [(entry[0].clone(), *entry[1:]) for entry in gligen[1]]
        with torch.no_grad():
            branch.ground = network.set_position(shape, entries, torch.device("cpu"))
            null = network.set_empty(shape, torch.device("cpu"))
        branch.ground_negative = branch.ground if negative_grounding == "same" else null
    return branch


def _start(patcher: ModelPatcher, noise: Tensor, latent: Tensor | None, sigma: float) -> Tensor:
    # The host starts a full denoise at noise * sqrt(1 + sigma^2), which is the noise itself here,
    # and every other start at latent + noise * sigma.
    sigma_max = float(patcher.model.model_sampling.sigma_max)
    full = sigma > sigma_max or math.isclose(sigma, sigma_max, rel_tol=1e-5)
    z = noise.clone() if full else noise * math.sqrt(1.0 - abar_of(sigma))
    if latent is not None:
        z = z + patcher.model.process_latent_in(latent.clone()) * math.sqrt(abar_of(sigma))
    return z


def reference_run(
    realism: ModelPatcher,
    spatial: ModelPatcher,
    positive: Tensor,
    negative: Tensor,
    spatial_positive: Tensor | None = None,
    spatial_negative: Tensor | None = None,
    *,
    boxes: list[Box],
    tokens: list[tuple[int, ...]],
    noise: Tensor,
    sigmas: Tensor,
    cfg: float,
    rho: list[float],
    spatial_only_steps: int = 0,
    map_factor: int = 2,
    probe_timestep: str = "current",
    gligen: Grounding | None = None,
    negative_grounding: str = "same",
    accumulate: bool = True,
    latent_image: Tensor | None = None,
) -> ReferenceResult:
    """Sample with both models and the paper's balancer, deterministically (DDIM, eta 0).

    Texts are (B or 1, 77, D); ``noise`` (B,4,H,W) is unit noise as a KSampler gets it; ``sigmas``
    (steps+1,) falls; ``rho`` has one rate per step; ``tokens`` gives each box its positions in
    the text. The first ``spatial_only_steps`` steps use the spatial model alone. ``probe_timestep``
    tells the networks z' is at this step's noise level (``current``, Alg. 1) or at the next one's.
    ``accumulate=False`` starts both maps from zero at every step. ``gligen`` grounds the spatial
    model; its unconditional pass is grounded by the ``same`` boxes, as the host does, or by
    ``null`` tokens, as GLIGEN's authors do. ``latent_image`` is a picture to start from, as a
    KSampler gets it. Raises ValueError for inputs that do not fit together.
    """
    steps = len(sigmas) - 1
    if len(rho) != steps or len(boxes) != len(tokens):
        raise ValueError("one rate per step and one token span per box are needed")
    if probe_timestep not in ("current", "next"):
        raise ValueError(f"probe_timestep {probe_timestep!r}: use 'current' or 'next'")
    if negative_grounding not in ("same", "null"):
        raise ValueError(f"negative_grounding {negative_grounding!r}: use 'same' or 'null'")

    with torch.inference_mode(False), torch.enable_grad():
        noise = noise.float().clone()
        levels = [float(s) for s in sigmas]
        text = _branch(realism, positive, negative, noise.shape)
        sp = _branch(
            spatial,
            positive if spatial_positive is None else spatial_positive,
            negative if spatial_negative is None else spatial_negative,
            noise.shape,
            gligen,
            negative_grounding,
        )
        z = _start(realism, noise, latent_image, levels[0])
        coe_text = torch.zeros_like(noise[:, :1])
        coe_sp = torch.zeros_like(noise[:, :1])
        result = ReferenceResult(latent=z)

        for i, (sigma, sigma_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            sp_cond, sp_uncond = (predict(sp, z, sigma, c) for c in (True, False))
            if i < spatial_only_steps:
                z = ddim(z, sp_uncond + cfg * (sp_cond - sp_uncond), sigma, sigma_next)
                continue
            text_cond, text_uncond = (predict(text, z, sigma, c) for c in (True, False))

            if not accumulate:
                coe_text, coe_sp = torch.zeros_like(coe_text), torch.zeros_like(coe_sp)
            coe_text = coe_text.detach().requires_grad_(True)
            coe_sp = coe_sp.detach().requires_grad_(True)
            xi = compose(coe_text, coe_sp)
            probe = ddim(z, xi[0] * text_cond + xi[1] * sp_cond, sigma, sigma_next)
            told = sigma if probe_timestep == "current" else sigma_next
            shares = torch.stack(
                [branch_shares(b, probe, told, boxes, tokens, map_factor) for b in (text, sp)],
                dim=-1,
            )
            loss = (1.0 - shares).sum(dim=(1, 2))
            g_text, g_sp, g_probe = torch.autograd.grad(loss.sum(), [coe_text, coe_sp, probe])

            with torch.no_grad():
                coe_text = coe_text - rho[i] * g_text
                coe_sp = coe_sp - rho[i] * g_sp
                xi = compose(coe_text, coe_sp)
                cond = xi[0] * text_cond + xi[1] * sp_cond
                uncond = xi[0] * text_uncond + xi[1] * sp_uncond
                z = ddim(z, uncond + cfg * (cond - uncond), sigma, sigma_next)
            result.steps.append(i)
            result.losses.append(loss.detach())
            result.coefficients.append((coe_text, coe_sp))
            result.mix.append(xi[0])
            result.shares.append(shares.detach())
            result.gradients.append((g_text, g_sp))
            result.probe_gradients.append(g_probe)
            result.probes.append(probe.detach())

        with torch.no_grad():
            x = z / math.sqrt(abar_of(levels[-1]))
            result.latent = realism.model.process_latent_out(x)
        return result
