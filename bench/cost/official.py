"""The released RealCompo procedures, rebuilt from their description so that their cost is measured.

Written from a description of what the released code does, not from that code, on the host's own
networks and torch's autograd. Only the order and the number of passes, what is differentiated, and
the arithmetic around them are the point; the host's fused attention is used wherever no map is
read, which favours the released code.

Layout procedure (SD1.5 + GLIGEN), per step: both models' conditional noise, mixed and carried one
DDIM step; both models on that latent with gradients, in full, for their maps (the realism model's
are cut off from the graph); one backward per coefficient map, although the second is minus the
first; then all four predictions of guidance for a PLMS step, two of them for the second time. The
spatial maps are not those of the pass: at every block with attention the block's output is sent
through norm, projection, self-attention, fuser and cross-attention once more (``recompute``), in
every pass of the model, and most are thrown away.

Keypoint procedure (SDXL + ControlNet, one checkpoint in both branches), per step: both branches
with guidance, mixed and carried one step; both branches on that latent with gradients; two
backwards; both branches with guidance again. ControlNet and both U-Nets run at batch 2 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from torch import Tensor, nn

from ...balancer.attention.maps import attention_output, attention_probabilities, inside_share
from ...balancer.comfy.attention.families import find_sites
from ...balancer.comfy.attention.family import Site
from ...balancer.comfy.attention.readers import differentiable_attention
from ...balancer.comfy.autograd.inference_weights import (
    gradient_mode,
    saved_copies,
    without_inference_tensors,
)
from ...balancer.layouts.grid import region_grid
from .networks import CFG, Pair
from .runs import Meter

RATE = 1e6
SEED = 31
KEYPOINT_CFG = 5.0
Maps = list[Tensor]


def _schedule(pair: Pair, steps: int) -> tuple[list[int], Tensor]:
    """Training timesteps 981, 961, ..., 1 (for 50), and the cumulative alphas of all timesteps."""
    stride = 1000 // steps
    sigmas = pair.realism.model.model_sampling.sigmas
    return [1 + stride * n for n in reversed(range(steps))], 1.0 / (1.0 + sigmas.double() ** 2)


def _ddim(x: Tensor, noise: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """One deterministic DDIM step between two cumulative alphas."""
    clean = (x - (1.0 - now).sqrt() * noise) / now.sqrt()
    return then.sqrt() * clean + (1.0 - then).sqrt() * noise


class _Coefficients:
    """The two coefficient maps (1, 1, H, W), independent N(0, 1) from a fixed seed."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.maps = [torch.randn(1, 1, size, size, generator=generator) for _ in range(2)]

    def track(self) -> None:
        """Ask for gradients of the present values."""
        self.maps = [one.detach().clone().requires_grad_(True) for one in self.maps]

    def mix(self, realism: Tensor, spatial: Tensor) -> Tensor:
        """Both noises weighted by the softmax over the two maps."""
        shares = torch.softmax(torch.cat(self.maps, dim=1), dim=1)
        return shares[:, :1] * realism.float() + shares[:, 1:] * spatial.float()

    def descend(self, loss: Tensor, rate: float) -> None:
        """One gradient step per map, each with a backward of its own."""
        first = torch.autograd.grad(loss, self.maps[0], retain_graph=True)[0]
        second = torch.autograd.grad(loss, self.maps[1])[0]
        moved = zip(self.maps, (first, second), strict=True)
        self.maps = [one.detach() - rate * gradient for one, gradient in moved]


def _loss(pair: Pair, maps: Maps, side: int) -> Tensor:
    """Sum over regions of one minus the share of the mean map of the first token in the box."""
    mean = torch.stack([m.mean(dim=1)[-1] for m in maps]).mean(dim=0)
    chosen = mean[:, [tokens[0] for tokens in pair.tokens]]
    grid = region_grid(pair.layout, side, side)
    shares = inside_share(chosen.T.reshape(1, -1, side, side), grid)
    return (1.0 - shares).sum()


def _reading(sites: list[Site], every: tuple[Site, ...], maps: Maps, detach: bool) -> dict:
    """Options of a pass whose maps (B, heads, N, T) at ``sites`` go into ``maps``."""

    def read(query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
        probabilities = attention_probabilities(query, key, extra["n_heads"])
        probabilities = probabilities.detach() if detach else probabilities
        maps.append(probabilities)
        return attention_output(probabilities, value)

    read_at = {site.key for site in sites}
    patches = {
        "attn1": {site.key: differentiable_attention for site in every},
        "attn2": {s.key: read if s.key in read_at else differentiable_attention for s in every},
    }
    return {"patches_replace": patches}


class Official:
    """What both procedures share: passes of one network, sample by sample, on a metered run."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.dtype = next(pair.realism.model.parameters()).dtype
        self.realism, self.spatial = pair.networks
        self.sites = find_sites(self.realism)
        self.size = pair.size
        self.meter = Meter()

    def sample(self, steps: int, only: int | None = None) -> Tensor:
        """The latent after the first ``only`` of ``steps`` steps (all of them by default)."""
        with ExitStack() as stack:
            stack.enter_context(gradient_mode())
            stack.enter_context(without_inference_tensors(self.pair.modules))
            # ControlNet residuals are added in place by the host
            copies = saved_copies(self.pair.modules, bool(self.pair.controls))
            stack.enter_context(copies)
            return self._sample(steps, steps if only is None else only)

    def _sample(self, steps: int, only: int) -> Tensor:
        raise NotImplementedError

    def _text(self, *prompts: Any) -> Tensor:
        return torch.cat([prompt[0][0] for prompt in prompts]).to(self.dtype)

    def _pass(self, network: Any, x: Tensor, t: int, context: Tensor, options: dict, **more: Any):  # noqa: ANN202
        times = torch.full((x.shape[0],), float(t))
        return network(
            x.to(self.dtype), times, context=context, transformer_options=options, **more
        ).float()  # fmt: skip


class OfficialLayout(Official):
    """The released layout procedure; without ``recompute`` the spatial maps are the pass's own."""

    def __init__(self, pair: Pair, recompute: bool = True) -> None:
        super().__init__(pair)
        self.recompute = recompute
        self.level = [site for site in self.sites if site.factor == 4]
        assert pair.grounding is not None
        self.gligen: Any = pair.grounding.model

    def _hook(self, grounded: bool) -> Callable[..., Tensor]:
        boxes = self.pair.spatial_positive[0][1]["gligen"][2]
        shape = (1, 4, self.size, self.size)
        if grounded:
            return self.gligen.set_position(shape, boxes, torch.device("cpu"))
        return self.gligen.set_empty(shape, torch.device("cpu"))

    def _spatial(self, x: Tensor, t: int, prompt: Any, grounded: bool, maps: Maps | None = None):  # noqa: ANN202
        """One pass of GLIGEN. The maps are computed again in every pass, wanted or not."""
        fuser, context = self._hook(grounded), self._text(prompt)
        options: dict[str, Any] = {}
        wanted = maps if maps is not None else []
        if maps is not None and not self.recompute:
            # the last site's block is not read in the released code either
            options = _reading(self.level[:-1], self.sites, wanted, detach=False)
        options["patches"] = {"middle_patch": [fuser]}
        with self._second_maps(fuser, context, wanted):
            return self._pass(self.spatial, x, t, context, options)

    @contextmanager
    def _second_maps(self, fuser: Any, context: Tensor, maps: Maps) -> Iterator[None]:
        """Every attention block's output goes through the block's attention once more."""
        if not self.recompute:
            yield
            return
        network, handles, index = self.spatial, [], 0
        cells = (self.size // 4) ** 2
        for blocks in (network.input_blocks, [network.middle_block], network.output_blocks):
            for block in blocks:
                transformers = [one for one in block if isinstance(one, SpatialTransformer)]
                for one in transformers:
                    if block is not network.middle_block:

                        def again(_: Any, __: Any, out: Tensor, one=one, index=index) -> None:  # noqa: ANN001
                            seen = _second_map(one, out, fuser, index, context)
                            if seen.shape[-2] == cells:
                                maps.append(seen)

                        handles.append(block[-1].register_forward_hook(again))
                    index += 1
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _realism(self, x: Tensor, t: int, prompt: Any, maps: Maps | None = None) -> Tensor:
        options = {} if maps is None else _reading(self.level, self.sites, maps, detach=True)
        return self._pass(self.realism, x, t, self._text(prompt), options)

    @torch.no_grad()
    def _guided(self, x: Tensor, t: int, mixed: bool, coefficients: _Coefficients) -> Tensor:
        pair = self.pair
        spatial = self._spatial(x, t, pair.positive, True)
        realism = self._realism(x, t, pair.positive)
        realism_empty = self._realism(x, t, pair.negative)
        spatial_empty = self._spatial(x, t, pair.negative, False)
        spatial = spatial_empty + CFG * (spatial - spatial_empty)
        realism = realism_empty + CFG * (realism - realism_empty)
        return coefficients.mix(realism, spatial) if mixed else spatial

    def _sample(self, steps: int, only: int) -> Tensor:
        pair, coefficients = self.pair, _Coefficients(self.size)
        times, alphas = _schedule(pair, steps)
        switch = round(0.4 * steps)
        rates = RATE * torch.linspace(1.0, 0.5, steps).sqrt()
        x, history = pair.noise(), []
        for i, t in enumerate(times[:only]):
            before = self.meter.read()
            following = times[i + 1] if i + 1 < steps else 0
            now, then = alphas[t].float(), alphas[following].float()
            coefficients.track()
            with torch.no_grad():
                spatial = self._spatial(x, t, pair.positive, True)
                realism = self._realism(x, t, pair.positive)
            probe = _ddim(x, coefficients.mix(realism, spatial), now, then)
            maps: list[Maps] = [[], []]
            self._spatial(probe, t, pair.positive, True, maps[0])
            self._realism(probe, t, pair.positive, maps[1])
            losses = [_loss(pair, some, self.size // 4) for some in maps]
            coefficients.descend(losses[0] + losses[1], float(rates[i]))
            noise = self._guided(x, t, i >= switch, coefficients)
            if not history:
                ahead = _ddim(x, noise, now, then)
                other = self._guided(ahead, following, i >= switch, coefficients)
                used = (noise + other) / 2
            else:
                used = _adams_bashforth(noise, history)
            history = [*history, noise][-3:]
            x = _ddim(x, used, now, then)
            self.meter.note("first" if i == 0 else "step", before)
        return x


def _adams_bashforth(noise: Tensor, history: list[Tensor]) -> Tensor:
    """The linear multistep combination of PLMS, order 2 to 4 by what is known."""
    weights = {1: (3, -1), 2: (23, -16, 5), 3: (55, -59, 37, -9)}[len(history)]
    known = [noise, *reversed(history)]
    total = sum((w * one for w, one in zip(weights, known, strict=True)), torch.zeros_like(noise))
    return total / sum(weights)


def _second_map(transformer: Any, h: Tensor, fuser: Any, index: int, context: Tensor) -> Tensor:
    """The cross-attention map (B, heads, N, T) of a transformer applied to ``h`` (B, C, H, W)."""
    block = transformer.transformer_blocks[0]
    x = transformer.proj_in(transformer.norm(h))
    x = x.movedim(1, 3).flatten(1, 2).contiguous()
    x = x + block.attn1(block.norm1(x))
    x = fuser(x, {"transformer_index": index})
    attention = block.attn2
    query, key = attention.to_q(block.norm2(x)), attention.to_k(context)
    return attention_probabilities(query, key, attention.heads)


class OfficialKeypoint(Official):
    """The released keypoint procedure: guidance at batch 2 in every pass."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        # the first level of the way up, 32x32 at 1024 px
        self.level = [site for site in self.sites if site.key[0] == "output" and site.factor == 4]
        self.net: nn.Module = pair.control.control_model
        self.hint = pair.spatial_positive[0][1]["control"].cond_hint_original

    def _branches(self, x: Tensor, sigma: float, t: int, maps: list[Maps] | None) -> list[Tensor]:
        """Noise of both branches after guidance; x in the host's sigma space."""
        pair = self.pair
        context = self._text(pair.negative, pair.positive)
        vector = torch.zeros(2, self.realism.label_emb[0][0].in_features, dtype=self.dtype)
        scaled = torch.cat([x / (sigma**2 + 1) ** 0.5] * 2)
        out = []
        for number in range(2):
            more: dict[str, Any] = {"y": vector}
            if number:
                more["control"] = self.net(
                    x=scaled.to(self.dtype), hint=torch.cat([self.hint] * 2).to(self.dtype),
                    timesteps=torch.full((2,), float(t)), context=context, y=vector,
                )  # fmt: skip
            options = {}
            if maps is not None:
                options = _reading(self.level, self.sites, maps[number], detach=False)
            empty, full = self._pass(self.realism, scaled, t, context, options, **more).chunk(2)
            out.append(empty + KEYPOINT_CFG * (full - empty))
        return out

    def _sample(self, steps: int, only: int) -> Tensor:
        pair, coefficients = self.pair, _Coefficients(self.size)
        times, alphas = _schedule(pair, steps)
        sigmas = [*(float((1 / alphas[t] - 1).sqrt()) for t in times), 0.0]
        rates = RATE * torch.linspace(1.0, 0.5, steps).sqrt()
        x = pair.noise() * sigmas[0]
        for i, t in enumerate(times[:only]):
            before = self.meter.read()
            sigma, falling = sigmas[i], sigmas[i + 1] - sigmas[i]
            coefficients.track()
            with torch.no_grad():
                realism, spatial = self._branches(x, sigma, t, None)
            probe = x + falling * coefficients.mix(realism, spatial)
            maps: list[Maps] = [[], []]
            self._branches(probe, sigma, t, maps)
            losses = [_loss(pair, some, self.size // 4) for some in maps]
            coefficients.descend(losses[0] + losses[1], float(rates[i]))
            with torch.no_grad():
                realism, spatial = self._branches(x, sigma, t, None)
                x = x + falling * coefficients.mix(realism, spatial)
            self.meter.note("step", before)
        return x


PROCEDURES: dict[str, Callable[[Pair], Official]] = {
    "official-layout": OfficialLayout,
    "official-layout-plain": lambda pair: OfficialLayout(pair, recompute=False),
    "official-keypoint": OfficialKeypoint,
}
"""``-plain``: the spatial maps are read in the pass; a cheaper procedure than the released one."""
