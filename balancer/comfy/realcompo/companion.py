"""A model that the host does not look after: prepared, loaded, sampled and cleaned up beside it.

The host's guider looks after one model, the first branch's. This does for another what the host
does for that one: register hooks, load in the same call, process conditioning, run callbacks, undo
all of it. Branches are alike everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...log import LOG
from ..host.cards import on_one_card
from ..host.compat import clone_model_options, has_outer_sample
from ..host.options import DENOISE_MASK, inside_run, marks
from ..patchers.pairing import joined
from .agreement import Conds
from .branch_guider import BranchGuider


class Companion:
    """The model of branch ``role`` during one or more runs of a guider, beside the host's own.

    ``first`` is the patcher that the host loads, ``second`` this branch's; both are the guider's
    own and may be changed. ``one_model`` tells that one model is behind both, ``shared`` that they
    want the very same of it. Conditioning is converted once; every run works on copies of it, which
    ``guider`` holds, with the model's options: wrappers of the model may exchange them there.
    """

    def __init__(
        self, role: str, first: ModelPatcher, second: ModelPatcher, positive: Any, negative: Any
    ) -> None:
        self.role = role
        self.patcher, self.turns = joined(first, second)
        self.one_model = first.model is self.patcher.model
        self.shared = self.one_model and self.turns is None
        self._rides = False
        if has_outer_sample() and not self.one_model:
            # with copies on several cards the host would copy what is tied to the patcher as well
            self._rides = bool(first.get_additional_models_with_key("multigpu"))
            if not self._rides:
                first.set_additional_models(f"realcompo_{role}", [self.patcher])
        self._original: Conds = {
            "positive": comfy.sampler_helpers.convert_cond(positive),
            "negative": comfy.sampler_helpers.convert_cond(negative),
        }
        self.guider = BranchGuider(self.patcher)
        self.guider.model_options = {}

    def named_conds(self) -> Conds:
        """The conditioning as it came, by the names of the nodes' inputs."""
        return {f"{self.role}_{key}": entries for key, entries in self._original.items()}

    @contextmanager
    def inside(self, pair: Any, run: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """``run``, a run of the guider ``pair``, with this model prepared and cleaned up around it.

        This model's own wrappers of a run are inside the first's.
        """

        def prepared(*args: Any, **kwargs: Any) -> Any:
            self.guider.prepare_inside(pair.model_options, self.additional_models)
            return run(*args, **kwargs)

        with self.session(pair.conds):
            self.guider.pair = pair
            own, first = self.guider.model_options, pair.model_options
            try:
                yield inside_run("outer_sample", prepared, self.guider, own, first)
            finally:
                self.guider.pair = None

    @contextmanager
    def session(self, first_conds: Conds | None) -> Iterator[None]:
        """Everything around one run. ``first_conds`` (new hosts): the first model's conditioning,
        which carries this branch's ControlNets and GLIGEN into the host's one load call."""
        guider = self.guider
        guider.model_patcher, guider.original_conds = self.patcher, self._original
        guider.conds = {key: [c.copy() for c in conds] for key, conds in self._original.items()}
        guider.model_options = on_one_card(clone_model_options(self.patcher.model_options))
        hook_mode = getattr(self.patcher, "hook_mode", None)
        try:
            if has_outer_sample():
                self._register_hooks()
            if first_conds is not None and first_conds.get("positive"):
                entry = first_conds["positive"][0]
                entry["additional_models"] = [
                    *_as_list(entry.get("additional_models")), *self.additional_models()
                ]  # fmt: skip
            yield
        finally:
            self._clean_up(hook_mode)

    def _register_hooks(self) -> None:
        from comfy.hooks import EnumHookMode

        conds, options = self.guider.conds, self.guider.model_options
        comfy.samplers.preprocess_conds_hooks(conds)
        if comfy.samplers.get_total_hook_groups_in_conds(conds) <= 1:
            # one set of hooks never changes during the run: do not keep its weights
            self.patcher.hook_mode = EnumHookMode.MinVram
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, conds, options)
        comfy.samplers.filter_registered_hooks_on_conds(conds, options)

    def additional_models(self) -> list[Any]:
        """Models that come along with this branch: ControlNets, GLIGEN, models of hooks.

        Also what the host does not find by the first patcher's additional models.
        """
        models, _ = comfy.sampler_helpers.get_additional_models(
            self.guider.conds, self.patcher.model_dtype()
        )
        if has_outer_sample() and (self.one_model or self._rides):
            models += [self.patcher] if self._rides else self.patcher.model_patches_models()
            models += self.patcher.get_nested_additional_models()
        from_hooks = getattr(
            comfy.sampler_helpers, "get_additional_models_from_model_options", None
        )
        models += from_hooks(self.guider.model_options) if from_hooks is not None else []
        return models

    def begin(
        self,
        noise: Tensor,
        latent_image: Tensor | None,
        device: torch.device,
        denoise_mask: Tensor | None,
        seed: int | None,
        sigmas: Tensor,
        **extra: Any,
    ) -> None:
        """Inside the host's ``inner_sample``, with both models loaded: process conditioning.

        It is this branch's turn afterwards; call ``finish`` in every case. ``noise`` and
        ``latent_image`` are (B, C, H, W), ``sigmas`` (steps + 1,).
        """
        if self.one_model:
            # the host has not loaded this patcher
            self.patcher.model_patches_to(device)
            self.patcher.model_patches_to(self.patcher.model_dtype())
        if self.turns is not None:
            self.turns.begin(device)
            self.turns.to(self.patcher)
        guider, model = self.guider, self.patcher.model
        if "latent_shapes" in extra:
            model.latent_shapes = extra["latent_shapes"]
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = model.process_latent_in(latent_image)
        if has_outer_sample():
            comfy.samplers.cast_to_load_options(
                guider.model_options, device=device, dtype=self.patcher.model_dtype()
            )
            self.patcher.pre_run()
        guider.conds = comfy.samplers.process_conds(
            model, noise, guider.conds, device, latent_image, denoise_mask, seed, **extra
        )
        guider.model_options = clone_model_options(guider.model_options)
        guider.model_options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas

    def sampler_extras(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the sampler is to find among ``options``, the first model's, though it is another's:
        a function for the mask of the one latent, and marks for other packs' hooks."""
        own = self.guider.model_options
        extras = {**marks(own), **{k: own[k] for k in (DENOISE_MASK,) if k in own}}
        mask = own.get(DENOISE_MASK)
        if DENOISE_MASK in own and options.get(DENOISE_MASK, mask) is not mask:
            LOG.warning(
                "RealCompo: both models bring a function for the noise mask, of which one latent"
                " has one: the realism model's is used."
            )
        return {name: value for name, value in extras.items() if name not in options}

    def turn_to(self, patcher: ModelPatcher, other: ModelPatcher) -> None:
        """Make it the turn of ``patcher``, this branch's or the first one, if one model is behind
        both. Hooks of the ``other`` are taken out of the weights first, and ``patcher`` is the one
        that the host asks about its model's hooks."""
        if not self.one_model:
            return
        if getattr(other, "current_hooks", None) is not None:
            other.patch_hooks(None)
        if self.turns is not None:
            self.turns.to(patcher)
        if hasattr(patcher.model, "current_patcher"):
            patcher.model.current_patcher = patcher

    def finish(self, first: ModelPatcher) -> None:
        """Leave the model to ``first``, before the host cleans up; the rest is the session's."""
        if not self.one_model:
            return
        try:
            self.turn_to(first, self.patcher)
            if self.turns is not None and getattr(first, "current_hooks", None) is not None:
                first.patch_hooks(None)
        finally:
            if self.turns is not None:
                self.turns.end()
            self.patcher.model_patches_to(self.patcher.offload_device)

    def _clean_up(self, hook_mode: Any) -> None:
        try:
            comfy.sampler_helpers.cleanup_models(self.guider.conds, [])
            if has_outer_sample():
                self.patcher.cleanup()
                comfy.samplers.cast_to_load_options(
                    self.guider.model_options, device=self.patcher.offload_device
                )
        finally:
            if has_outer_sample():
                self.patcher.hook_mode = hook_mode
                self.patcher.restore_hook_patches()
            self.guider.conds, self.guider.model_options = {}, {}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
