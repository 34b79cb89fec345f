"""A guider that denoises one latent with several models and balances them per position.

Mixing denoised predictions with weights that sum to one is mixing noise (RealCompo Eq. 3), for
eps-, v- and flow models alike, and it commutes with guidance. So this is a guider, not a sampler:
every sampler and scheduler of the host works with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...attention.regions import LayoutBatch, Tokens
from ...layouts.layout import Layout
from ...realcompo.balancer import logit_gradient, probe_latent
from ...realcompo.settings import BalancerSettings
from ...realcompo.trace import StepRecord, Trace, kept_maps
from ..host.compat import has_outer_sample
from ..host.foreign_hooks import check_hooks
from ..inputs.checks import check_latent, check_layouts, check_pair, check_tokens
from ..inputs.values import check_conditioning, check_mask, check_present, check_sigmas
from ..patchers.pairing import own_patchers
from .branches import Branch, HostBranch
from .companion import Companion
from .prediction import Prediction, coefficients_of, mixed, weighted_sum
from .run import Call, Run

REALISM, SPATIAL = "realism", "spatial"
"""Roles of the branches, in their order."""


class RealCompoGuider(comfy.samplers.CFGGuider):
    """Two models, one latent (RealCompo, Alg. 1).

    ``realism`` and ``spatial`` are the host's model patchers, ``positive``/``negative`` and
    ``spatial_positive``/``spatial_negative`` their conditioning, ``tokens`` the token positions of
    each region of ``layout`` (not needed in mode ``fixed``), and ``spatial_tokens`` those in the
    spatial conditioning where they differ; ``layout`` and tokens may also be one per sample of the
    batch. ``trace`` is filled anew by every run, and every run starts with a fresh mix: two runs
    over the halves of one schedule have its phases, but the second does not know the first's maps.
    The patchers given are not changed. Raises RealCompoError for pairs that cannot share a latent,
    for inputs that cannot be sampled with, and for models whose attention the chosen mode cannot
    read.
    """

    def __init__(
        self,
        realism: ModelPatcher,
        spatial: ModelPatcher,
        positive: Any,
        negative: Any,
        spatial_positive: Any,
        spatial_negative: Any,
        layout: Layout | Sequence[Layout],
        tokens: Tokens | Sequence[Tokens],
        cfg: float,
        settings: BalancerSettings,
        trace: Trace | None = None,
        spatial_tokens: Tokens | Sequence[Tokens] | None = None,
    ) -> None:
        check_pair(realism, spatial, settings)
        for where, patcher, prompt, without in (
            ("", realism, positive, negative),
            ("spatial_", spatial, spatial_positive, spatial_negative),
        ):
            check_present(prompt, f"{where}positive")
            check_present(without, f"{where}negative", cfg)
            check_conditioning(prompt, f"{where}positive", patcher)
            check_conditioning(without, f"{where}negative", patcher)
        conds = [*positive, *negative], [*spatial_positive, *spatial_negative]
        check_hooks(realism, spatial, conds)
        first, second = own_patchers(
            realism, spatial, [positive, negative], [spatial_positive, spatial_negative]
        )
        super().__init__(first)
        # the host may exchange the patcher for the sake of the conditioning
        self.set_conds(positive, negative)
        self.set_cfg(cfg)
        self.settings, self.regions = settings, LayoutBatch.of(layout, tokens)
        self.spatial_regions = self.regions
        if spatial_tokens is not None:
            other = LayoutBatch.of(layout, spatial_tokens)
            # by value: who builds the guider names both, and they are mostly the same
            self.spatial_regions = self.regions if other.tokens == self.regions.tokens else other
        self.trace = trace if trace is not None else Trace()
        # a batch of layouts has no phrases in common to label a plot with
        if len(self.regions.layouts) == 1:
            self.trace.phrases = tuple(r.phrase for r in self.regions.layouts[0].regions)
        self.trace.settings = settings.to_dict()
        # id of the node that shows the run while it goes on; None: nobody watches
        self.node_id: str | None = None
        # one for every branch but the first, which the host itself looks after
        self.companions = (
            Companion(SPATIAL, self.model_patcher, second, spatial_positive, spatial_negative),
        )
        self.run: Run | None = None
        if settings.mode != "fixed":
            for spans in self.regions.tokens:
                check_tokens(spans, positive, "positive")
            for spans in self.spatial_regions.tokens:
                check_tokens(spans, spatial_positive, "spatial_positive")

    # -- the host's life cycle ------------------------------------------------------------------

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """As the host's guider; checks latent, mask and sigmas before any model is loaded.

        ``noise``, ``latent_image`` and the result are (B, C, H, W), ``sigmas`` (steps + 1,).
        """
        conds = dict(self.original_conds)
        for companion in self.companions:
            conds.update(companion.named_conds())
            companion.guider.cfg = self.cfg
        check_latent(self.model_patcher, conds, noise, latent_image, self.settings)
        check_layouts(self.regions, noise)
        check_sigmas(sigmas)
        given = (noise, latent_image, sampler, sigmas, check_mask(denoise_mask), *args)
        with ExitStack() as sessions:
            if not has_outer_sample():
                for companion in self.companions:
                    sessions.enter_context(companion.session(None))
            return super().sample(*given, **kwargs)

    def outer_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's guider, with the other models prepared and cleaned up around it."""
        run = super().outer_sample
        with ExitStack() as sessions:
            for companion in self.companions:
                run = sessions.enter_context(companion.inside(self, run))
            return run(*args, **kwargs)

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
        **extra: Any,
    ) -> Tensor:
        """As the host's guider; all models are loaded, sigmas and latents are on the device.

        Shapes as of ``sample``; the mask is (B, C, H, W) by now.
        """
        started = time.perf_counter()
        if not has_outer_sample():
            models = [self.model_patcher]
            for companion in self.companions:
                models += [] if companion.one_model else [companion.patcher]
                models += companion.additional_models()
            comfy.model_management.load_models_gpu(models)
        given = self.model_options
        with ExitStack() as ends:
            for companion in self.companions:
                ends.callback(companion.finish, self.model_patcher)
            ends.callback(setattr, self, "model_options", given)
            for companion in self.companions:
                companion.begin(noise, latent_image, device, denoise_mask, seed, sigmas, **extra)
            self.run = run = self.new_run(noise, sigmas)
            extras = run.host.sampler_extras
            try:
                for companion in self.companions:
                    extras.update(companion.sampler_extras({**given, **extras}))
                    sampler = companion.guider.sampling_inside(sampler, given)
                self.model_options = {**extras, **given} if extras else given
                return super().inner_sample(
                    noise, latent_image, device, sampler, sigmas, denoise_mask, callback,
                    disable_pbar, seed, **extra,
                )  # fmt: skip
            finally:
                self.run = None
                run.end()
                self.trace.seconds = time.perf_counter() - started

    def new_run(self, noise: Tensor, sigmas: Tensor) -> Run:
        """What lives for one run from ``noise`` (B, C, H, W) along ``sigmas`` (steps + 1,)."""
        return Run(
            HostBranch(REALISM, self, self.regions),
            [Branch(one.role, one.guider, self.spatial_regions, one) for one in self.companions],
            self.settings, self.trace, noise, sigmas, self.node_id,
        )  # fmt: skip

    # -- one prediction: Algorithm 1 --------------------------------------------------------------

    def outer_predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ``predict_noise``, without the first model's wrappers of a prediction: each model's
        are around its own."""
        return self.predict_noise(*args, **kwargs)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The mixed denoised latent (B, C, H, W) for x, z_t, at noise level ``timestep`` (B,)."""
        run = self.run
        assert run is not None, "outside of a run"
        call = run.call(x, timestep, {} if model_options is None else model_options, seed)
        record = StepRecord(call.step, call.sigma, call.phase.value, torch.empty(0))
        predictions = [run.predict(branch, call) for branch in call.branches]
        prediction, *others = predictions
        if not others:  # while t > t0: one model alone
            alone = float(call.branches[0] is run.host)
            record.mix = torch.full_like(run.balancer.mix(call.sigma), alone)
        else:
            amount = self.settings.match_background
            others = [one.with_background_of(prediction, run.outside, amount) for one in others]
            predictions = [prediction, *others]
            conditional = [p.conditional for p in predictions if p.conditional is not None]
            # a cache of another pack may spare a prediction: without its parts the mix is held
            if call.balances and len(conditional) == len(predictions):
                self._update_coefficients(run, call, conditional, record)
            record.mix = run.balancer.mix(call.sigma)
            prediction = mixed(predictions, coefficients_of(record.mix, x))
        if call.opens:
            self.trace.steps.append(record)
            run.reporter.show(record)
        # samplers ask the first model for its noise levels
        run.activate(run.host)
        return self._finish(prediction, call, run.host.options)

    def _update_coefficients(
        self, run: Run, call: Call, conditional: Sequence[Tensor], record: StepRecord
    ) -> None:
        """One update of the logit map by all models' attention (Alg. 1, lines 7-13).

        ``conditional`` are the models' predictions (B, C, H, W) at z_t. In mode ``lagged`` the maps
        were had at z_t itself, on the way to these.
        """
        z_t, sigma, sigma_next = call.x, call.sigma, run.clock.next_sigma(call.step)
        coefficients = coefficients_of(torch.sigmoid(run.balancer.restart(sigma)), z_t)  # Eq. 2
        denoised = weighted_sum(conditional, coefficients)  # Eq. 3
        z_probe, level = z_t, sigma
        if not call.lagged:
            z_probe, level = probe_latent(z_t, denoised, sigma, sigma_next), sigma_next  # Eq. 12
        results = run.probe(z_probe, call.timestep, sigma, level, call.lagged)  # Eq. 6
        for branch, result in zip(run.branches, results, strict=True):
            if result is not None:
                setattr(record, f"shares_{branch.role}", result.shares)
                setattr(record, f"loss_{branch.role}", result.loss)
                setattr(record, f"maps_{branch.role}", kept_maps(result.maps))
        known = [result for result in results if result is not None]
        if not known:
            return
        for result in known:
            if result.finite is not None:
                self.trace.note_finite(result.finite)
        gradients = [result.gradient for result in known if result.gradient is not None]
        total, (realism, spatial) = torch.stack(gradients).sum(dim=0), conditional
        gradient = logit_gradient(total, realism, spatial, coefficients[0], sigma, sigma_next)
        # the model that knows the layout least says how much is left to do
        remaining = torch.stack([result.remaining for result in known]).amax(dim=0)
        gradient = gradient.reshape(z_t.shape[0], 1, *z_t.shape[-2:])
        run.balancer.update(gradient, remaining, run.parts[call.step])  # Eq. 7

    def _finish(self, mixed: Prediction, call: Call, options: dict[str, Any]) -> Tensor:
        """Functions that the sampler itself appended (CFG++ reads the unconditional prediction)
        are called once, with the mixed predictions."""
        result = mixed.guided
        if mixed.conditional is None or mixed.unconditional is None:
            return result  # as the host's, whose functions are not called either then
        for function in call.appended:
            result = function(
                {
                    "denoised": result, "cond": self.conds.get("positive"),
                    "uncond": self.conds.get("negative"), "cond_scale": self.cfg,
                    "model": self.inner_model, "uncond_denoised": mixed.unconditional,
                    "cond_denoised": mixed.conditional, "sigma": call.timestep,
                    "model_options": options, "input": call.x,
                }
            )  # fmt: skip
        return result
