"""Finetuning a model of the host by losses of our own: adapters out, the model untouched.

The host loads and places the model and makes every prediction, so that LoRAs, hooks and other
packs' patches on it stay in force. Adapters act beside the layers for as long as a training
lasts; the network's own tensors are never written to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters import Adapters
from ..attention_maps import RegionMaps
from ..errors import RealCompoError
from ..training import Optimisation, TrainingSettings
from .capture import Site, StopProbe, differentiable_attention, find_sites, reading_options
from .checkpointing import activation_bytes, checkpointed, last_site
from .checks import model_name
from .compat import adds_in_place
from .forwards import other_forwards
from .gradients import gradient_mode, ordinary_weights, saved_copies
from .probe import HALF_PRECISION_SCALE, compute_dtype
from .progress import Progress
from .shared_encoder import call_model
from .training_file import Checkpoint

TARGETS = {
    "to_k": r"\.attn2\.to_k$",
    "to_q": r"\.attn2\.to_q$",
    "to_v": r"\.attn2\.to_v$",
    "cross-attention": r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$",
    "attention": r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$",
}
"""What may be trained, by the names of the layers. Separate-and-Enhance trains keys only."""

ON_CANCEL = ("resume next time", "finish with what was learned")
# the share of the free memory that activations may take before they are computed again instead
_SHARE = 0.5


@dataclass(frozen=True)
class Encoded:
    """An encoded prompt: (1, T, width), and the pooled vector (1, D) where the model has one."""

    text: Tensor
    pooled: Tensor | None = None


def encode(clip: Any, text: str) -> Encoded:
    """``text`` by the host's CLIP; ordinary tensors that autograd may save."""
    embedding, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    with torch.inference_mode(False):
        return Encoded(embedding.clone(), None if pooled is None else pooled.clone())


@dataclass
class Session:
    """A loaded model in the middle of a host's sampling call: asks it for predictions.

    ``generator`` is the one source of randomness, on the CPU. ``adapters`` are in force unless
    they are off.
    """

    patcher: ModelPatcher
    model: Any
    options: dict[str, Any]
    device: torch.device
    generator: torch.Generator
    sites: tuple[Site, ...]
    size: tuple[int, int]
    adapters: Adapters | None = None
    frugal: bool = False
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
        """Normal noise on the device."""
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

    def predict(
        self,
        x: Tensor,
        sigma: Tensor,
        prompts: Sequence[Encoded],
        maps: RegionMaps | None = None,
        factor: int = 0,
        whole: bool = True,
    ) -> Tensor | None:
        """The conditional prediction of the clean latent (B, C, H, W), in autograd's graph.

        ``x`` (B, C, H, W) at noise levels ``sigma`` (B,); one prompt per sample, all of one
        length. ``maps`` takes in the attention at the sites of level ``factor``; unless
        ``whole``, the pass ends with the last of them, and None comes back.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        seen: list[Tensor] = []
        options = self.options.copy()
        inner = options.get("model_function_wrapper")

        def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            conditions = {**args["c"]}
            given = conditions["transformer_options"]
            if maps is None:
                inside = _differentiable(given, self.sites)
            else:
                then = _go_on if whole else _stop
                inside = reading_options(given, self.sites, factor, maps, then)
            conditions["transformer_options"] = inside
            call = {**args, "c": conditions}
            network = self.model.diffusion_model
            last = None if whole or maps is None else last_site(self.sites, factor)
            frugal = self.frugal and torch.is_grad_enabled()
            with (
                checkpointed(
                    network,
                    last if frugal else None,
                    adds_in_place(),
                    whole=frugal and last is None,
                ),
                suppress(StopProbe),
            ):
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

    def backward(self, loss: Tensor, **told: Tensor) -> None:
        """Add the gradient of ``loss`` (a scalar); its graph is gone afterwards.

        ``told`` are named losses (scalars) to report for this step, before any weight.
        """
        (loss * self.scale).backward()
        self.backwards += 1
        total = self._values.get("loss", torch.zeros((), device=self.device))
        self._values["loss"] = total + loss.detach()
        self._values |= {name: value.detach() for name, value in told.items()}

    def take_values(self) -> dict[str, Tensor]:
        """The losses of the step that just ended."""
        values, self._values = self._values, {}
        return values


class Objective(Protocol):
    """What is trained for: one call is one step's losses and backward passes."""

    def __call__(self, session: Session) -> None: ...


def _go_on() -> None:
    """The pass is wanted as a whole."""


def _stop() -> None:
    raise StopProbe


def _differentiable(given: dict[str, Any], sites: tuple[Site, ...]) -> dict[str, Any]:
    """Options with attention that autograd can go through, wherever nothing else stands."""
    options = given.copy()
    replaced = options["patches_replace"] = dict(options.get("patches_replace", {}))
    for kind in ("attn1", "attn2"):
        patches = dict(replaced.get(kind, {}))
        for site in sites:
            if site.key[:2] not in patches:
                patches.setdefault(site.key, differentiable_attention)
        replaced[kind] = patches
    return options


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    ``lora`` in the keys of a LoRA file; ``losses`` per name, one number a step; ``steps`` made.
    ``finished`` is False where it was cancelled and what was learned is handed out.
    """

    lora: dict[str, Tensor]
    losses: dict[str, list[float]]
    steps: int
    finished: bool = True


def require_trainable(patcher: ModelPatcher) -> tuple[Site, ...]:
    """The model's cross-attention sites; RealCompoError for a model that is no U-Net."""
    sites = find_sites(patcher.model.diffusion_model)
    if not sites:
        raise RealCompoError(
            "model", f"'{model_name(patcher)}' has no cross-attention blocks to train",
            "Use a U-Net model such as SD1.5, SD2 or SDXL; SD3, Flux and their like have joint"
            " attention",
        )  # fmt: skip
    return sites


def layers_of(patcher: ModelPatcher, targets: str) -> dict[str, torch.nn.Module]:
    """The linear layers of one of ``TARGETS``, by the names that LoRA files use."""
    pattern = re.compile(TARGETS[targets])
    return {
        f"diffusion_model.{name}": module
        for name, module in patcher.model.diffusion_model.named_modules()
        if pattern.search("." + name) and hasattr(module, "weight")
    }


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
    sites = require_trainable(patcher)
    channels = patcher.model.latent_format.latent_channels
    if memory:
        comfy.model_management.load_models_gpu([patcher], memory_required=memory)
    guider = comfy.samplers.CFGGuider(patcher)
    # the host wants conditioning to prepare; every prediction brings its own
    guider.inner_set_conds({})
    generator = torch.Generator().manual_seed(seed)

    class Worker(comfy.samplers.Sampler):
        def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
            noise: Tensor, latent_image: Any = None, denoise_mask: Any = None,
            disable_pbar: bool = False,
        ) -> Tensor:  # fmt: skip
            model = model_wrap.inner_model
            session = Session(
                patcher, model, extra_args["model_options"], noise.device, generator, sites, size
            )
            modules = (model.diffusion_model,)
            with (
                gradient_mode(),
                ordinary_weights(modules),
                saved_copies(modules, adds_in_place()),
            ):
                work(session)
            return noise

    blank = torch.zeros(batch, channels, *size)
    guider.sample(blank, blank, Worker(), torch.ones(2), disable_pbar=True, seed=seed)


def train(
    patcher: ModelPatcher,
    objective: Objective,
    settings: TrainingSettings,
    size: tuple[int, int],
    targets: str = "to_k",
    about: str = "",
    on_cancel: str = ON_CANCEL[0],
    save_every: int = 0,
    whole: bool = True,
    extra_memory: float = 0.0,
) -> Trained:
    """Train adapters on ``targets`` of a model by ``objective``; the model stays as it is.

    ``size``: height and width of the latents. ``about`` describes everything, beside the
    settings and the model, that decides the result: a stopped training is taken up only by the
    same one. ``save_every`` steps a checkpoint is written (0: when cancelled only). ``whole``: the
    objective differentiates whole forwards; ``extra_memory``: bytes that it needs beside them.

    Raises RealCompoError for models that cannot be trained and for trainings that diverge, and
    lets the host's cancelling through, unless ``on_cancel`` says to finish.
    """
    sites = require_trainable(patcher)
    layers = layers_of(patcher, targets)
    shapes = {name: _shape(layer) for name, layer in layers.items()}
    network = patcher.model.diffusion_model
    latent = (settings.batch_size, patcher.model.latent_format.latent_channels, *size)
    keeps = activation_bytes(
        network, sites, None if whole else min(s.factor for s in sites), latent,
        compute_dtype(patcher.model),
    )  # fmt: skip
    free = float(comfy.model_management.get_free_memory(patcher.load_device))
    frugal = settings.checkpointing == "on" or (
        settings.checkpointing == "auto" and keeps + extra_memory > _SHARE * free
    )
    # blocks of hosts before mid-2025 write to what a second run of them needs
    frugal = frugal and not adds_in_place()
    memory = extra_memory + (keeps / 8 if frugal else keeps)
    start = torch.Generator().manual_seed(settings.seed)
    with torch.inference_mode(False):
        adapters = Adapters(shapes, settings.rank, settings.alpha, start, patcher.load_device)
        run = Optimisation(adapters, settings)
    checkpoint = Checkpoint(_fingerprint(patcher, layers, settings, targets, about, size))
    finished = True

    def work(session: Session) -> None:
        nonlocal finished
        session.adapters, session.frugal = adapters, frugal
        session.generator = run.generator
        checkpoint.load_into(run)
        progress = Progress(settings.steps, run.steps)
        beside = ((layer, _beside(layer, adapters, name)) for name, layer in layers.items())
        with other_forwards(beside):
            try:
                while run.steps < settings.steps:
                    objective(session)
                    told = run.step(session.take_values(), session.scale)
                    progress.step(told, run.losses)
                    if save_every and run.steps % save_every == 0 < settings.steps - run.steps:
                        checkpoint.save(run)
            except comfy.model_management.InterruptProcessingException:
                if not run.steps:
                    raise
                if on_cancel == ON_CANCEL[0]:
                    checkpoint.save(run)
                    raise
                finished = False
            except RealCompoError:
                checkpoint.save_lora(run)
                raise
            finally:
                progress.close()

    in_session(patcher, size, settings.batch_size, settings.seed, work, memory)
    checkpoint.remove()
    return Trained(run.learned(), run.losses, run.steps, finished)


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """(outputs, inputs); quantised weights may be packed, and say their size by attributes."""
    inputs = getattr(layer, "in_features", None)
    outputs = getattr(layer, "out_features", None)
    if inputs is None or outputs is None:
        weight: Any = layer.weight
        outputs, inputs = weight.shape
    return int(outputs), int(inputs)


def _beside(layer: torch.nn.Module, adapters: Adapters, name: str) -> Callable[..., Tensor]:
    """The layer's forward with its adapter's output added, while adapters are active."""
    inner, adapter = layer.forward, adapters.modules[name]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = inner(x, *args, **kwargs)
        if not adapters.active:
            return out
        return out + adapter(x).to(out.dtype)

    return forward


def _fingerprint(
    patcher: ModelPatcher,
    layers: dict[str, torch.nn.Module],
    settings: TrainingSettings,
    targets: str,
    about: str,
    size: tuple[int, int],
) -> str:
    """Name of a training, told by all that decides its course (not by its number of steps)."""
    digest = hashlib.sha256()
    told = {**settings.__dict__, "steps": 0}
    digest.update(repr((model_name(patcher), sorted(told.items()), targets, about, size)).encode())
    weight = next((layer.weight for layer in layers.values()), None)
    if isinstance(weight, Tensor):
        numbers = weight.detach().flatten()[:4096].float().cpu().contiguous()
        digest.update(numbers.numpy().tobytes())
    # LoRAs and the like on the model are told apart by what they change
    digest.update(repr(sorted(getattr(patcher, "patches", {}))).encode())
    return digest.hexdigest()[:20]
