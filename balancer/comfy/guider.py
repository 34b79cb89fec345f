"""A guider that denoises one latent with two models and balances them per position.

Mixing denoised predictions with weights that sum to one is mixing noise (RealCompo Eq. 3), for
eps-, v- and flow models alike, and it commutes with guidance. So this is a guider, not a sampler:
every sampler and scheduler of the host works with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..equilibrium import Balancer, Phase, logit_gradient, probe_latent
from ..layout import Layout
from ..log import LOG
from ..regions import LayoutBatch, Tokens
from ..settings import BalancerSettings
from ..trace import StepRecord, Trace, kept_maps
from .agreement import POSITIVE, agreement, same_options
from .attention.families import find_sites
from .attention.family import choose_level
from .branch import SpatialBranch
from .cards import on_one_card
from .checks import check_latent, check_layouts, check_pair, check_tokens
from .clock import StepClock
from .compat import has_outer_sample
from .foreign_hooks import check_hooks
from .input_values import check_conditioning, check_mask, check_present, check_sigmas
from .kept_state import OwnStates, aside
from .live import LiveReporter
from .options import POST_CFG, inside_run, lent, marks, within
from .own_pass import LaggedProbe
from .pair_probe import PairProbe, can_share
from .pairing import own_patchers
from .prediction import Prediction, active_entry, input_scale, over_frames
from .probe import Probe, ProbeRequest, ProbeResult
from .schedule import NoiseSchedule
from .shared_encoder import CommonWork

_FLAG, _MASK = "disable_cfg1_optimization", "denoise_mask_function"


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
            # by value: who builds the guider tells both, and they are mostly the same
            self.spatial_regions = self.regions if other.tokens == self.regions.tokens else other
        self.trace = trace if trace is not None else Trace()
        # a batch of layouts has no phrases in common to label a plot with
        if len(self.regions.layouts) == 1:
            self.trace.phrases = tuple(r.phrase for r in self.regions.layouts[0].regions)
        self.trace.settings = settings.to_dict()
        # id of the node that shows the run while it goes on; None: nobody watches
        self.shown_on: str | None = None
        self.branch = SpatialBranch(
            self.model_patcher, second, spatial_positive, spatial_negative
        )  # fmt: skip
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
        """As the host's guider; checks latent, mask and sigmas before any model is loaded."""
        conds = {**self.original_conds, **self.branch.named_conds()}
        check_latent(self.model_patcher, conds, noise, latent_image, self.settings)
        check_layouts(self.regions, noise)
        check_sigmas(sigmas)
        given = (noise, latent_image, sampler, sigmas, check_mask(denoise_mask), *args)
        self.branch.guider.cfg = self.cfg
        if has_outer_sample():
            return super().sample(*given, **kwargs)
        with self.branch.session(None):
            return super().sample(*given, **kwargs)

    def outer_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's guider, with the second model prepared and cleaned up around it.

        The second model's own wrappers of a run are inside the first's.
        """
        beside, run = self.branch.guider, super().outer_sample

        def inside(*args: Any, **kwargs: Any) -> Tensor:
            beside.prepare_inside(self.model_options, self.branch.additional_models)
            return run(*args, **kwargs)

        with self.branch.session(self.conds):
            beside.pair = self
            try:
                theirs, ours = beside.model_options, self.model_options
                return inside_run("outer_sample", inside, beside, theirs, ours)(*args, **kwargs)
            finally:
                beside.pair = None

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
        """As the host's guider; both models are loaded, sigmas and latents are on the device."""
        started = time.perf_counter()
        if not has_outer_sample():
            own = [] if self.branch.one_model else [self.branch.patcher]
            comfy.model_management.load_models_gpu(
                [self.model_patcher, *own, *self.branch.additional_models()]
            )
        given = self.model_options
        try:
            self.branch.begin(noise, latent_image, device, denoise_mask, seed, sigmas, **extra)
            self._turn_to(False)
            self._begin_run(noise, sigmas)
            shown = self._of_the_run()
            self.model_options = {**shown, **given} if shown else given
            sampler = self.branch.guider.sampling_inside(sampler, given)
            try:
                return super().inner_sample(
                    noise, latent_image, device, sampler, sigmas, denoise_mask, callback,
                    disable_pbar, seed, **extra,
                )  # fmt: skip
            finally:
                self._end_run()
                self.trace.seconds = time.perf_counter() - started
        finally:
            self.model_options = given
            self.branch.finish(self.model_patcher)

    def _of_the_run(self) -> dict[str, Any]:
        """What the sampler is to find among the first model's options though it is the second's:
        a function for the mask of the one latent, and marks for other packs' hooks."""
        theirs = self.branch.options
        shown = {**marks(theirs), **{k: theirs[k] for k in (_MASK,) if k in theirs}}
        if _MASK in theirs and self.model_options.get(_MASK, theirs[_MASK]) is not theirs[_MASK]:
            LOG.warning(
                "RealCompo: both models bring a function for the noise mask, of which one latent"
                " has one: the realism model's is used."
            )
        self._shown = {k: v for k, v in shown.items() if k not in self.model_options}
        return self._shown

    def _begin_run(self, noise: Tensor, sigmas: Tensor) -> None:
        self.trace.reset()
        self._lowest_sigma = float(self.branch.patcher.get_model_object("model_sampling").sigma_min)
        self.clock = StepClock(sigmas.tolist())
        schedule = NoiseSchedule(self.model_patcher.get_model_object("model_sampling"))
        settings = self.settings
        # where each step's rate lies between the two that the settings name
        changing = settings.mode != "fixed" and settings.rate != settings.rate_end
        levels = sigmas[:-1].tolist()
        self._parts = schedule.parts(levels) if changing else [0.0] * len(levels)
        coverage = self.regions.coverage(*noise.shape[-2:]).to(noise.device, torch.float32)
        self.outside = 1.0 - coverage
        self.watch = LiveReporter(self.shown_on, self.regions.layouts[0], self.clock.steps)
        self.probes: tuple[Probe, Probe] | None = None
        self.common: CommonWork | None = None
        self.pair: PairProbe | None = None
        self.states: OwnStates | None = None
        # the host processes the first model's conditioning later, see predict_noise
        self._compared = not self.branch.shared
        factor = 1
        if settings.mode != "fixed":
            patchers = (self.model_patcher, self.branch.patcher)
            sites = [find_sites(p.get_model_object("diffusion_model")) for p in patchers]
            levels = [choose_level(found, settings.map_level) for found in sites]
            factor = max(levels)
            first, second = (
                Probe(regions, found, level)
                for regions, found, level in zip(
                    (self.regions, self.spatial_regions), sites, levels, strict=True
                )
            )
            self.probes = (first, second)
        self.balancer = Balancer(
            settings,
            noise.shape[0],
            coverage,
            window=(schedule.sigma(settings.start), schedule.sigma(settings.end)),
            alone=(
                schedule.sigma(settings.spatial_only),
                schedule.sigma(1.0 - settings.realism_only),
            ),
            prior_sigma=schedule.sigma(settings.prior_until),
            map_factor=factor,
        )
        # functions that a sampler appends at run time come after these, see predict_noise
        self._own_post_cfg = len(self.model_options.get(POST_CFG, []))

    def _find_common_work(self, options: dict[str, Any]) -> None:
        """With one checkpoint in both branches: what one pass can do for both."""
        self._compared = True
        if self.states:
            return  # a pass that is spared would leave a patch's state behind
        agreed = agreement(self.conds, options, self.branch.conds, self.branch.options)
        if agreed:
            self.common = CommonWork(self.inner_model.diffusion_model, agreed)
        one_text = self.spatial_regions is self.regions and POSITIVE in agreed.encoder
        if self.probes is not None and one_text and can_share(self.probes[0]):
            self.pair = PairProbe(*self.probes)

    def _know_states(self, options: dict[str, Any]) -> OwnStates:
        """What patches of both branches keep, from the first call of the run on."""
        if self.states is None:
            self.states = OwnStates(options, self.branch.options)
        return self.states

    def _are_alike(self, options: dict[str, Any]) -> bool:
        """Whether the branches' options still are, where there is common work."""
        some = self.common is not None or self.pair is not None
        return some and same_options(options, self.branch.options)

    def _end_run(self) -> None:
        if self.probes is not None:
            self.trace.partial_forwards = sum(probe.forwards for probe in self.probes)
            self.trace.backwards = sum(probe.backwards for probe in self.probes)
        if self.common is not None:
            self.trace.forwards -= self.common.negatives
            self.trace.shared_halves = self.common.encoders
        if self.pair is not None:
            self.trace.shared_halves += self.pair.halves
        self.trace.finish()
        del self.balancer, self.clock, self.probes, self.outside, self.common, self.pair
        del self.watch, self.states

    # -- one prediction -------------------------------------------------------------------------

    def outer_predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        """Without the first model's wrappers of a prediction: each model's are around its own."""
        return self.predict_noise(*args, **kwargs)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The mixed denoised latent (B, C, H, W) for x at noise level ``timestep`` (B,)."""
        options = {} if model_options is None else model_options
        self._know_states(options)
        if not self._compared:
            self._find_common_work(options)
        self._alike = self._are_alike(options)
        # the one scalar that is read back per call: samplers choose freely where to look
        sigma = float(timestep[0])
        step, opens = self.clock.tick(sigma)
        phase = self.balancer.phase(step, self.clock.level(sigma))
        alone = {Phase.SPATIAL: 0.0, Phase.REALISM: 1.0}
        whole = alone[phase] if phase in alone else self.balancer.constant_mix(sigma)
        appended = options.get(POST_CFG, [])[self._own_post_cfg :]
        record = StepRecord(step, sigma, phase.value, torch.empty(0))

        own: list[LaggedProbe] = []
        if opens and phase is Phase.BALANCE and self.settings.mode == "lagged":
            own = self._lagged_probes()
        realism = spatial = None
        if whole != 0.0:
            realism = self._predict(False, x, timestep, options, seed, own)
        if whole != 1.0:
            spatial = self._predict(True, x, timestep, options, seed, own)
        if spatial is None or realism is None:
            mixed = realism or spatial
            assert mixed is not None
            record.mix = torch.full_like(self.balancer.mix(sigma), float(realism is not None))
        else:
            spatial = spatial.with_background_of(
                realism, self.outside, self.settings.match_background
            )
            # a cache of another pack may spare a prediction: without its parts the mix is held
            known = realism.positive is not None and spatial.positive is not None
            if opens and phase is Phase.BALANCE and known:
                self._balance(x, timestep, step, sigma, realism, spatial, options, record, own)
            record.mix = self.balancer.mix(sigma)
            mixed = realism.mixed(spatial, record.mix)
        if opens:
            self.trace.steps.append(record)
            self.watch.show(record)
        # samplers ask the first model for its noise levels
        self._turn_to(False)
        return self._finish(mixed, appended, x, timestep, options)

    def _turn_to(self, spatial: bool) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
        """One branch's model and conditioning, after making it the one that the host asks."""
        own, other = self.model_patcher, self.branch.patcher
        if spatial:
            self.branch.activate(other, own)
            return self.branch.model, self.branch.conds
        self.branch.activate(own, other)
        return self.inner_model, self.conds

    def _lagged_probes(self) -> list[LaggedProbe]:
        """What makes this step's predictions looks as well, one for each branch."""
        assert self.probes is not None
        pair = self.pair if self._alike else None
        if pair is not None:
            pair.begin()
        return [LaggedProbe(probe, pair) for probe in self.probes]

    def _predict(
        self,
        spatial: bool,
        x: Tensor,
        timestep: Tensor,
        options: dict[str, Any],
        seed: int | None,
        own: Sequence[LaggedProbe] = (),
    ) -> Prediction:
        """One model's predictions through the host's own function, inside that model's own wrappers
        and with its own options, in which guidance functions keep their state.

        With ``own`` they are looks as well.
        """
        model, conds = self._turn_to(spatial)
        asked = self.branch.guider if spatial else self
        given = self.branch.options if spatial else options
        posts = options.get(POST_CFG, [])
        posts, appended = posts[: self._own_post_cfg], posts[self._own_post_cfg :]
        wanted = {k: v for k, v in given.items() if spatial or k not in self._shown}
        if spatial:
            posts = given.get(POST_CFG, [])
            # where the sampler asks for it: functions that it appends read the prediction
            own_wish = self.model_options.get(_FLAG, False) and not appended
            if options.get(_FLAG, False) and not own_wish:
                wanted[_FLAG] = True
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(args: dict[str, Any]) -> Tensor:
            seen.append((args["cond_denoised"], args["uncond_denoised"]))
            return args["denoised"]

        def predict(
            x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
        ) -> Tensor:
            single = abs(asked.cfg - 1.0) < 1e-9 and not model_options.get(_FLAG, False)
            self.trace.forwards += x.shape[0] * (1 if single else 2)
            return comfy.samplers.sampling_function(
                model, x, timestep, asked.conds.get("negative"), asked.conds.get("positive"),
                asked.cfg, model_options=model_options, seed=seed,
            )  # fmt: skip

        wanted[POST_CFG] = listed = [keep, *posts]
        if own or self.common is not None or self.branch.turns is not None:
            # what is seen or changed is this model's alone, not its copies'
            wanted = on_one_card(wanted)
        if own:
            wanted = own[int(spatial)].options(wanted, model, conds)
        if self.common is not None and self._alike:
            wanted = self.common.second(wanted) if spatial else self.common.first(wanted, bool(own))
        with self._know_states(options).of(spatial), lent(given, wanted) as live:
            call = within("predict_noise", predict, asked, asked.model_options)
            guided = call(x, timestep, live, seed)
        self._keep_posts(spatial, given, keep, listed, len(posts), appended)
        return Prediction(guided, *(seen[-1] if seen else (None, None)))

    def _keep_posts(
        self,
        spatial: bool,
        given: dict[str, Any],
        keep: Any,
        listed: list[Any],
        known: int,
        appended: list[Any],
    ) -> None:
        """Functions after guidance that a pack added during a prediction stay on."""
        now = given.get(POST_CFG, [])
        found = now if keep in now else listed if len(listed) != known + 1 else None
        if found is None:
            return
        own = [function for function in found if function is not keep]
        given[POST_CFG] = own if spatial else [*own, *appended]
        if not spatial:
            self._own_post_cfg = len(own)

    def _balance(
        self,
        x: Tensor,
        timestep: Tensor,
        step: int,
        sigma: float,
        realism: Prediction,
        spatial: Prediction,
        options: dict[str, Any],
        record: StepRecord,
        own: Sequence[LaggedProbe] = (),
    ) -> None:
        """One update of the logit map: probe, loss of both models, closed form (Alg. 1, 7-13).

        With ``own`` the looks were had at x itself, on the way to the predictions.
        """
        mix = torch.sigmoid(self.balancer.restart(sigma))
        wide = over_frames(mix, x)
        assert realism.positive is not None and spatial.positive is not None
        mixed = wide * realism.positive + (1.0 - wide) * spatial.positive
        sigma_next = self.clock.next_sigma(step)
        # lagged: where a look cannot ride on a prediction, it is had by itself at the same latent
        to = sigma if own else sigma_next
        latent = x if own else probe_latent(x, mixed, sigma, sigma_next)
        looks = self.look_at(latent, timestep, sigma, to, options, own)
        record.shares_realism, record.loss_realism = _seen(looks[0])
        record.shares_spatial, record.loss_spatial = _seen(looks[1])
        record.maps_realism, record.maps_spatial = map(_maps, looks)
        seen = [look for look in looks if look is not None]
        if not seen:
            return
        gradients = [look.gradient for look in seen if look.gradient is not None]
        for look in seen:
            if look.finite is not None:
                self.trace.note_finite(look.finite)
        total = torch.stack(gradients).sum(dim=0)
        gradient = logit_gradient(
            total, realism.positive, spatial.positive, wide, sigma, sigma_next
        ).reshape(mix.shape[0], 1, *x.shape[-2:])
        # the model that knows the place least says how much is left to do
        remaining = torch.stack([look.remaining for look in seen]).amax(dim=0)
        self.balancer.update(gradient, remaining, self._parts[step])

    def look_at(
        self,
        latent: Tensor,
        timestep: Tensor,
        sigma: float,
        at: float,
        options: dict[str, Any],
        own: Sequence[LaggedProbe] = (),
    ) -> list[ProbeResult | None]:
        """Probe both models at ``latent`` (B, C, H, W), whose noise level is ``at``, in a step at
        ``timestep`` (B,) = ``sigma``; one after the other, since each must be made the active one.

        ``own``: looks that were had on the way to the step's predictions.
        """
        assert self.probes is not None
        ask = partial(self._question, latent, timestep, sigma, at, options)
        looks: list[ProbeResult | None] = [one.look for one in own] or [None, None]
        if (
            own
            and self._alike
            and self.pair is not None
            and all(look is not None for look in looks)
        ):
            return self.pair.finish(looks)
        if self.pair is not None and self._are_alike(options):
            with aside(options), aside(self.branch.options):
                return self.pair.look(partial(ask, False), partial(ask, True))
        for number, probe in enumerate(self.probes):
            question = ask(bool(number)) if looks[number] is None else None
            if question is not None:
                states = self._know_states(options)
                with states.of(bool(number)), aside(question.model_options):
                    looks[number] = question.run(probe, probe.differentiate)
        return looks

    def _question(
        self,
        latent: Tensor,
        timestep: Tensor,
        sigma: float,
        sigma_next: float,
        options: dict[str, Any],
        spatial: bool,
    ) -> ProbeRequest | None:
        """What to probe one model with at the probe latent, after making it the active one."""
        model, conds = self._turn_to(spatial)
        sampling = model.model_sampling
        at, level = timestep, sigma
        if self.settings.probe_timestep == "next":
            level = max(sigma_next, self._lowest_sigma)
            at = torch.full_like(timestep, level)
        # the models see z' scaled for its own noise level, also when told the timestep of z_t
        scale = input_scale(sampling, sigma_next) / input_scale(sampling, level)
        entry = active_entry(conds.get("positive", []), level)
        if entry is None:
            return None
        mine = self.branch.options
        if not spatial:
            mine = {k: v for k, v in options.items() if k not in self._shown}
        return ProbeRequest(model, entry, latent, scale, at, mine)

    def _finish(
        self,
        mixed: Prediction,
        appended: list[Any],
        x: Tensor,
        timestep: Tensor,
        options: dict[str, Any],
    ) -> Tensor:
        """Functions that the sampler itself appended (CFG++ reads the unconditional prediction)
        are called once, with the mixed predictions."""
        result = mixed.guided
        if mixed.positive is None or mixed.negative is None:
            return result  # as the host's, whose functions are not called either then
        for function in appended:
            result = function(
                {
                    "denoised": result, "cond": self.conds.get("positive"),
                    "uncond": self.conds.get("negative"), "cond_scale": self.cfg,
                    "model": self.inner_model, "uncond_denoised": mixed.negative,
                    "cond_denoised": mixed.positive, "sigma": timestep,
                    "model_options": options, "input": x,
                }
            )  # fmt: skip
        return result


def _seen(look: ProbeResult | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if look is None else (look.shares, look.loss)


def _maps(look: ProbeResult | None) -> Tensor | None:
    return None if look is None else kept_maps(look.maps)
