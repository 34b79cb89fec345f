"""Let a run fail at its k-th call of some kind, and see whether anything is left of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules import module as global_hooks

MODULE, BACKWARD, HOST, CALLBACK, AROUND = "module", "backward", "host", "callback", "around"
KINDS = (MODULE, BACKWARD, HOST, CALLBACK, AROUND)
"""A network's forward; a gradient on its way through an activation; one of the host's functions
that load, patch, cast or sample; the sampler's callback; what is around a network: modules and
functions of text encoder and VAE, previews, and what the page is shown."""

_NOTES = {"_v_signature", "comfy_patched_weights", "prev_comfy_cast_weights"}
"""What the host notes on a layer of how far it has loaded it; a load that is cut short goes on."""


class Faults:
    """Counts the calls of each kind, and raises ``error`` at call ``at`` (from 0) of ``kind``."""

    def __init__(self, kind: str = "", at: int = -1, error: BaseException | None = None) -> None:
        self.kind, self.at, self.error = kind, at, error
        self.seen: Counter[str] = Counter()
        self.raised, self.where = False, "nowhere"
        self.cleaning = self.in_cleaning = False

    def __str__(self) -> str:
        return f"{type(self.error).__name__} at {self.kind} {self.at} ({self.where})"

    def hit(self, kind: str, where: str) -> None:
        number = self.seen[kind]
        self.seen[kind] += 1
        if kind == self.kind and number == self.at and self.error is not None:
            self.raised, self.where, self.in_cleaning = True, where, self.cleaning
            raise self.error

    def callback(self, *_: Any) -> None:
        """For the sampler."""
        self.hit(CALLBACK, "the sampler")


def errors() -> list[Callable[[], BaseException]]:
    """A pack's own, the user's cancel, and memory that ran out."""
    import comfy.model_management as management

    def failed() -> BaseException:
        return ValueError("made up")

    def cancelled() -> BaseException:
        return management.InterruptProcessingException()

    def full() -> BaseException:
        return management.OOM_EXCEPTION("made up")

    return [failed, cancelled, full]


@contextmanager
def injected(faults: Faults, around: Sequence[torch.nn.Module] = ()) -> Iterator[None]:
    """Let ``faults`` see every call while this lasts; ``around`` are modules of kind AROUND."""
    from comfy.model_patcher import ModelPatcher

    others = {id(part) for module in around for part in module.modules()}

    def before(module: torch.nn.Module, args: Any) -> None:
        faults.hit(AROUND if id(module) in others else MODULE, type(module).__name__)

    def after(module: torch.nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda _: faults.hit(BACKWARD, type(module).__name__))

    handles = [
        global_hooks.register_module_forward_pre_hook(before),
        global_hooks.register_module_forward_hook(after),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for kind, places in ((HOST, _host_functions()), (AROUND, _around())):
            for place, name in places:
                patch.setattr(place, name, _watched(getattr(place, name), faults, kind))
        if hasattr(ModelPatcher, "cleanup"):
            patch.setattr(ModelPatcher, "cleanup", _marked(ModelPatcher.cleanup, faults))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _host_functions() -> list[tuple[Any, str]]:
    import comfy.model_base
    import comfy.model_management
    import comfy.ops
    import comfy.sampler_helpers
    import comfy.samplers
    from comfy.model_patcher import ModelPatcher

    places: list[tuple[Any, tuple[str, ...]]] = [
        (ModelPatcher, (
            "pre_run", "patch_model", "unpatch_model", "load", "model_patches_to", "patch_hooks",
            "apply_hooks", "patch_weight_to_device",
        )),
        (comfy.model_base.BaseModel, ("apply_model", "extra_conds")),
        (comfy.model_management, (
            "load_models_gpu", "throw_exception_if_processing_interrupted", "cast_to",
        )),
        (comfy.ops, ("cast_bias_weight", "uncast_bias_weight")),
        (comfy.samplers, (
            "process_conds", "calc_cond_batch", "sampling_function", "cast_to_load_options",
        )),
        (comfy.sampler_helpers, ("prepare_sampling", "convert_cond", "get_additional_models")),
    ]  # fmt: skip
    return [(place, name) for place, names in places for name in names if hasattr(place, name)]


def _around() -> list[tuple[Any, str]]:
    import comfy.sd
    import latent_preview
    from realcompo.balancer.comfy.realcompo.live import LiveReporter

    return [
        (comfy.sd.CLIP, "encode_from_tokens"), (comfy.sd.CLIP, "load_model"),
        (comfy.sd.VAE, "decode"), (comfy.sd.VAE, "encode"), (LiveReporter, "show"),
        (latent_preview.Latent2RGBPreviewer, "decode_latent_to_preview"),
    ]  # fmt: skip


def _watched(function: Any, faults: Faults, kind: str) -> Any:
    @wraps(function)  # who asks whether it is the host's own is told so
    def watched(*args: Any, **kwargs: Any) -> Any:
        faults.hit(kind, function.__qualname__)
        return function(*args, **kwargs)

    return watched


def _marked(cleanup: Any, faults: Faults) -> Any:
    @wraps(cleanup)
    def marked(*args: Any, **kwargs: Any) -> Any:
        faults.cleaning = True
        try:
            return cleanup(*args, **kwargs)
        finally:
            faults.cleaning = False

    return marked


def outline(value: Any) -> Any:
    """What a nested value of containers holds, leaves by identity: equal only if untouched."""
    if isinstance(value, dict):
        return {key: outline(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [outline(entry) for entry in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return type(value).__name__, id(value)


class State:
    """What models, patchers and the process are like, weights included."""

    def __init__(self, patchers: list[Any], modules: list[torch.nn.Module]) -> None:
        self.patchers, self.modules = patchers, modules
        self.values = [
            {name: value.clone() for name, value in module.state_dict().items()}
            for module in modules
        ]
        self.before = self._taken()

    def forgive_pages(self) -> None:
        """Unpin what the host's own layers pinned and did not give back.

        Where they fail between asking for a weight and giving it back, they leave it so: one page.
        """
        pages = {id(p): p for m in self.modules for part in m.modules() if (p := _page(part))}
        assert sum(page.pins for page in pages.values()) <= 1
        for module in self.modules:
            for part in module.modules():
                part.__dict__.pop("_prefetch", None)
        for page in pages.values():
            page.pins = 0

    def forgive_patcher(self) -> None:
        """Take back what the host notes of a patcher whose own clean-up failed, of no other."""
        models = {id(patcher.model): patcher.model for patcher in self.patchers}.values()
        noted = [model for model in models if getattr(model, "current_patcher", None) is not None]
        assert len(noted) <= 1
        for model in noted:
            model.current_patcher = None

    def assert_same(self) -> None:
        now = self._taken()
        for key, value in self.before.items():
            assert now[key] == value, f"{key}: {value} -> {now[key]}"
        assert now.keys() == self.before.keys()
        for module, values in zip(self.modules, self.values, strict=True):
            for name, value in module.state_dict().items():
                assert torch.equal(value, values[name]), name

    def _taken(self) -> dict[str, Any]:
        import comfy.cli_args
        import comfy.ldm.modules.attention as attention
        import comfy.model_management as management

        taken: dict[str, Any] = {
            "inference": torch.is_inference_mode_enabled(),
            "gradients": torch.is_grad_enabled(),
            "training": getattr(management, "in_training", None),
            "compiler": getattr(comfy.cli_args.args, "disable_comfy_compiler", None),
            "attention": id(attention.optimized_attention),
            "saved tensors": torch._C._autograd._top_saved_tensors_default_hooks(True),
        }
        for number, patcher in enumerate(self.patchers):
            for name in (
                "model_options", "object_patches", "object_patches_backup", "patches",
                "callbacks", "wrappers", "attachments", "injections", "additional_models",
                "hook_patches", "hook_patches_backup", "forced_hooks", "current_hooks",
                "hook_mode",
            ):  # fmt: skip
                taken[f"patcher {number}: {name}"] = outline(getattr(patcher, name, None))
            model = patcher.model
            taken[f"model {number}"] = outline(getattr(model, "current_patcher", None))
        for number, module in enumerate(self.modules):
            for path, part in module.named_modules():
                hooks = [
                    len(value) for name, value in vars(part).items()
                    if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
                ]  # fmt: skip
                own = {
                    name: id(value) for name, value in vars(part).items()
                    if callable(value) and not name.startswith("_")
                }  # fmt: skip
                tensors = {
                    name: (id(value), value.is_inference(), value.requires_grad)
                    for store in (part._parameters, part._buffers)
                    for name, value in store.items() if value is not None
                }  # fmt: skip
                names = sorted(vars(part).keys() - _NOTES)
                page = _page(part)
                pins = 0 if page is None else page.pins
                taken[f"module {number} {path}"] = (hooks, own, tensors, names, pins)
        return taken


def _page(part: torch.nn.Module) -> Any:
    return getattr(part, "_v", None)
