"""A model of the host, loaded, with predictions that autograd can go through.

The host loads and places the model and makes every prediction, so that LoRAs, hooks and other
packs' patches on it stay in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...attention.maps import RegionMaps
from ...finetune.adapters import Adapters
from ..attention.families import family_of
from ..attention.family import Site, StopProbe, last_site
from ..autograd.checkpointing import checkpointed
from ..autograd.inference_weights import gradient_mode, saved_copies, without_inference_tensors
from ..host.cards import on_one_card, without_copies
from ..host.compat import adds_in_place
from ..host.function_sampler import FunctionSampler
from ..inputs.checks import require_ability
from ..inputs.encoded import checked_vectors
from ..realcompo.model_call import HALF_PRECISION_SCALE, compute_dtype
from ..realcompo.shared_encoder import call_model


@dataclass(frozen=True)
class Encoded:
    """An encoded prompt: (1, T, width), and the pooled vector (1, D) where the model has one."""

    text: Tensor
    pooled: Tensor | None = None


def encode(clip: Any, text: str) -> Encoded:
    """``text`` by the host's CLIP; ordinary tensors that autograd may save.

    Raises RealCompoError for an encoder that gives no vectors, or NaN.
    """
    embedding, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    checked_vectors(embedding)
    with torch.inference_mode(False):
        return Encoded(embedding.clone(), None if pooled is None else pooled.clone())


@dataclass
class Session:
    """A loaded model in the middle of a host's sampling call.

    ``size`` is the latents' height and width. ``generator`` is the one source of randomness, on
    the CPU. ``adapters`` are in force unless they are off. ``checkpointed``: activations are
    computed again in the backward.
    """

    patcher: ModelPatcher
    model: Any
    options: dict[str, Any]
    device: torch.device
    generator: torch.Generator
    sites: tuple[Site, ...]
    size: tuple[int, int]
    adapters: Adapters | None = None
    checkpointed: bool = False
    forwards: int = field(default=0, init=False)
    backwards: int = field(default=0, init=False)
    _values: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def sampling(self) -> Any:
        """The host's ``model_sampling``."""
        return self.model.model_sampling

    @property
    def scale(self) -> float:
        """Factor on losses before the backward; half precision would lose small gradients."""
        return HALF_PRECISION_SCALE if compute_dtype(self.model) == torch.float16 else 1.0

    def randn(self, *shape: int) -> Tensor:
        """Normal noise of ``shape``, mean 0 and deviation 1, float32 on the device."""
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def sigma_at(self, percent: float) -> float:
        """Noise level at a part of the schedule: 0 is only noise, 1 the finished picture."""
        low, high = float(self.sampling.sigma_min), float(self.sampling.sigma_max)
        return min(max(float(self.sampling.percent_to_sigma(percent)), low), high)

    def random_sigmas(self, count: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        """(count,) noise levels, uniform in the parts ``start`` to ``end`` of the schedule."""
        parts = torch.rand(count, generator=self.generator) * (end - start) + start
        return torch.tensor([self.sigma_at(float(p)) for p in parts], device=self.device)

    def noised(self, clean: Tensor, sigma: Tensor) -> Tensor:
        """``clean`` (B, C, H, W), in the model's own scale, with fresh noise of level ``sigma``."""
        noise = self.randn(*clean.shape)
        return self.sampling.noise_scaling(sigma[:, None, None, None], noise, clean, False)

    def predict(self, x: Tensor, sigma: Tensor, prompts: Sequence[Encoded]) -> Tensor:
        """The conditional prediction of the clean latent (B, C, H, W), in autograd's graph.

        ``x`` (B, C, H, W) at noise levels ``sigma`` (B,); one prompt per sample, all of one
        length.
        """
        family = family_of(self.model.diffusion_model)
        seen = self._forward(
            x, sigma, prompts, lambda given: family.differentiable_options(given, self.sites)
        )
        assert seen is not None
        return seen

    def read(
        self, x: Tensor, sigma: Tensor, prompts: Sequence[Encoded], maps: RegionMaps, factor: int
    ) -> None:
        """Take the attention at the sites of level ``factor`` into ``maps``, in autograd's graph.

        Inputs as of ``predict``; the pass ends with the last of these sites.
        """
        family = family_of(self.model.diffusion_model)
        self._forward(
            x, sigma, prompts,
            lambda given: family.reading_options(given, self.sites, factor, maps),
            last_site(self.sites, factor),
        )  # fmt: skip

    def _forward(
        self,
        x: Tensor,
        sigma: Tensor,
        prompts: Sequence[Encoded],
        attending: Callable[[dict[str, Any]], dict[str, Any]],
        last: Site | None = None,
    ) -> Tensor | None:
        """A conditional pass; None if it was left at ``last``.

        ``attending`` gives the transformer options of the pass for those that are there.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        seen: list[Tensor] = []
        options = on_one_card(self.options)
        inner = options.get("model_function_wrapper")

        def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            conditions = {**args["c"]}
            conditions["transformer_options"] = attending(conditions["transformer_options"])
            call = {**args, "c": conditions}
            saving = self.checkpointed and torch.is_grad_enabled()
            blocks = checkpointed(
                self.model.diffusion_model, last if saving else None, adds_in_place(),
                whole=saving and last is None,
            )  # fmt: skip
            with blocks, suppress(StopProbe):
                seen.append(call_model(inner, apply_model, call))
            return torch.zeros_like(args["input"])

        options["model_function_wrapper"] = wrapper
        self.forwards += len(x)
        entry = self._entry(x, prompts)
        comfy.samplers.calc_cond_batch(self.model, [[entry]], x, sigma, options)
        return seen[0] if seen else None

    def _entry(self, x: Tensor, prompts: Sequence[Encoded]) -> dict[str, Any]:
        text = torch.cat([prompt.text for prompt in prompts])
        about: dict[str, Any] = {"width": 8 * x.shape[-1], "height": 8 * x.shape[-2]}
        pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        if len(pooled) == len(prompts):
            about["pooled_output"] = torch.cat(pooled)
        conds = {"positive": comfy.sampler_helpers.convert_cond([[text, about]])}
        done = comfy.samplers.process_conds(self.model, x, conds, self.device, None, None, 0)
        return done["positive"][0]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Predictions of the untrained model, outside any graph."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.adapters is not None:
                stack.enter_context(self.adapters.off())
            yield

    def backward(self, loss: Tensor, **losses: Tensor) -> None:
        """Add the gradient of ``loss`` (a scalar); its graph is gone afterwards.

        ``losses`` are scalars to report for this step by name, before any weight.
        """
        (loss * self.scale).backward()
        self.backwards += 1
        total = self._values.get("loss", torch.zeros((), device=self.device))
        self._values["loss"] = total + loss.detach()
        self._values |= {name: value.detach() for name, value in losses.items()}

    def take_values(self) -> dict[str, Tensor]:
        """The losses of the step that just ended."""
        values, self._values = self._values, {}
        return values


def in_session(
    patcher: ModelPatcher,
    size: tuple[int, int],
    batch: int,
    seed: int,
    work: Callable[[Session], None],
    memory: float = 0.0,
) -> None:
    """Let the host load ``patcher`` and do ``work`` with gradients on, outside inference mode.

    ``size`` is the latent's height and width, ``memory`` bytes that are needed beside the model.
    The model is unpatched in every case.
    """
    sites = require_ability(patcher, "train")
    channels = patcher.get_model_object("latent_format").latent_channels
    if memory:
        comfy.model_management.load_models_gpu([patcher], memory_required=memory)
    patcher = without_copies(patcher)
    guider = comfy.samplers.CFGGuider(patcher)
    # the host wants conditioning to prepare; every prediction brings its own
    guider.inner_set_conds({})
    generator = torch.Generator().manual_seed(seed)

    def run(
        model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Any,
    ) -> Tensor:
        model = model_wrap.inner_model
        session = Session(
            patcher, model, extra_args["model_options"], noise.device, generator, sites, size
        )
        modules = (model.diffusion_model,)
        copies = saved_copies(modules, adds_in_place())
        with gradient_mode(), without_inference_tensors(modules), copies:
            work(session)
        return noise

    blank = torch.zeros(batch, channels, *size)
    sampler = FunctionSampler(run)
    guider.sample(blank, blank, sampler, torch.ones(2), disable_pbar=True, seed=seed)
