"""One run of the guider: its branches, its balancer, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...realcompo.balancer import Balancer, Phase
from ...realcompo.settings import BalancerSettings
from ...realcompo.trace import Trace
from ..attention.families import find_sites
from ..attention.family import choose_level
from ..host.cards import on_one_card
from ..host.options import ASKS_BOTH
from ..host.schedule import NoiseSchedule
from ..patchers.kept_state import OwnStates, aside
from .agreement import POSITIVE, agreement, same_options
from .branches import Branch, HostBranch
from .clock import StepClock
from .lagged_probe import LaggedProbe
from .live import LiveReporter
from .pair_probe import PairProbe, can_share
from .prediction import Prediction, active_entry, input_scale
from .probe import Probe
from .probe_request import ProbeRequest, ProbeResult
from .shared_encoder import CommonWork


@dataclass(frozen=True)
class Call:
    """One call by the sampler, for the mixed prediction of ``x``, z_t, (B, C, H, W) at ``timestep``
    (B,), the host's sigma.

    It belongs to outer step ``step`` and may be the one that ``opens`` it. ``branches`` take part:
    a model whose coefficient is 0 everywhere does not. ``appended`` are the sampler's own functions
    after guidance, ``lagged`` what reads maps on the way to predictions.
    """

    x: Tensor
    timestep: Tensor
    seed: int | None
    sigma: float
    step: int
    opens: bool
    phase: Phase
    branches: Sequence[Branch]
    appended: list[Any]
    lagged: dict[str, LaggedProbe]

    @property
    def balances(self) -> bool:
        """Whether the coefficients are to be updated."""
        return self.opens and self.phase is Phase.BALANCE


class Run:
    """Everything that lives for one run; its models are loaded, their conditioning is processed.

    ``host`` is the branch that the host looks after, ``others`` are the further ones. ``outside``
    (1 or B, 1, H, W) in 0..1 is one minus the coverage of the regions.
    """

    def __init__(
        self,
        host: HostBranch,
        others: Sequence[Branch],
        settings: BalancerSettings,
        trace: Trace,
        noise: Tensor,
        sigmas: Tensor,
        node_id: str | None,
    ) -> None:
        self.host, self.branches = host, (host, *others)
        self.settings, self.trace = settings, trace
        self.activate(host)
        trace.reset()
        self._lowest_sigma = float(others[-1].patcher.get_model_object("model_sampling").sigma_min)
        self.clock = StepClock(sigmas.tolist())
        schedule = NoiseSchedule(host.patcher.get_model_object("model_sampling"))
        # where each step's rate lies between the two that the settings name
        changing = settings.mode != "fixed" and settings.rate != settings.rate_end
        levels = sigmas[:-1].tolist()
        self.parts = schedule.parts(levels) if changing else [0.0] * len(levels)
        coverage = host.regions.coverage(*noise.shape[-2:]).to(noise.device, torch.float32)
        self.outside = 1.0 - coverage
        self.reporter = LiveReporter(node_id, host.regions.layouts[0], self.clock.steps)
        self._common: CommonWork | None = None
        self._pair: PairProbe | None = None
        self._states: OwnStates | None = None
        # the host processes the first model's conditioning later, see ``call``
        self._compared = not all(one.companion and one.companion.shared for one in others)
        self._take_turns = any(one.companion and one.companion.turns for one in others)
        self._alike = False
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
            map_factor=1 if settings.mode == "fixed" else self._make_probes(),
        )

    def _make_probes(self) -> int:
        """Give every branch its probe; latent positions per cell of the coarsest maps."""
        networks = [one.patcher.get_model_object("diffusion_model") for one in self.branches]
        found = [find_sites(network) for network in networks]
        levels = [choose_level(sites, self.settings.map_level) for sites in found]
        for branch, sites, level in zip(self.branches, found, levels, strict=True):
            branch.probe = Probe(branch.regions, sites, level)
        return max(levels)

    @property
    def probes(self) -> list[Probe]:
        """The branches' probes; none where nothing is balanced."""
        return [branch.probe for branch in self.branches if branch.probe is not None]

    # -- what a call of the sampler begins with ---------------------------------------------------

    @property
    def states(self) -> OwnStates:
        """What patches of the branches keep, from the first call on."""
        if self._states is None:
            self._states = OwnStates({one.role: one.options for one in self.branches})
        return self._states

    def call(self, x: Tensor, timestep: Tensor, options: dict[str, Any], seed: int | None) -> Call:
        """What a call of the sampler, with ``x`` (B, C, H, W), is about; see ``Call``."""
        self.host.sampler_options = options
        states = self.states
        if not self._compared:
            self._compared = True
            # a pass that is spared would leave a patch's state behind
            if not states:
                self._find_common_work()
        self._alike = self._are_alike()
        # the one scalar that is read back per call: samplers choose freely where to call
        sigma = float(timestep[0])
        step, opens = self.clock.tick(sigma)
        phase = self.balancer.phase(step, self.clock.level(sigma))
        lagged = {}
        if self.settings.mode == "lagged" and opens and phase is Phase.BALANCE:
            lagged = self._lagged_probes()
        return Call(
            x, timestep, seed, sigma, step, opens, phase, self._taking_part(phase, sigma),
            self.host.appended(), lagged,
        )  # fmt: skip

    def _taking_part(self, phase: Phase, sigma: float) -> Sequence[Branch]:
        """The branches whose coefficient is not known to be 0 everywhere."""
        alone = {Phase.SPATIAL: 0.0, Phase.REALISM: 1.0}
        mix = alone.get(phase, self.balancer.constant_mix(sigma))
        if mix is None:
            return self.branches
        pairs = zip(self.branches, (mix, 1.0 - mix), strict=True)
        return [branch for branch, coefficient in pairs if coefficient != 0.0]

    def _lagged_probes(self) -> dict[str, LaggedProbe]:
        """What makes a step's predictions probes as well, by the branches' roles."""
        pair = self._pair if self._alike else None
        if pair is not None:
            pair.begin()
        roles = (branch.role for branch in self.branches)
        return {r: LaggedProbe(probe, pair) for r, probe in zip(roles, self.probes, strict=True)}

    def _find_common_work(self) -> None:
        """With one checkpoint in both branches: what one pass can do for both."""
        first, second = self.branches
        agreed = agreement(first.conds, first.options, second.conds, second.options)
        network = first.model.diffusion_model
        if agreed:
            self._common = CommonWork(network, agreed)
        one_text = first.regions is second.regions and POSITIVE in agreed.encoder
        if self.probes and one_text and can_share(self.probes[0], network):
            self._pair = PairProbe(self.probes)

    def _are_alike(self) -> bool:
        """Whether the branches' options still are, where there is common work."""
        some = self._common is not None or self._pair is not None
        _, *others = self.branches
        return some and all(same_options(self.host.options, one.options) for one in others)

    # -- one branch after the other ---------------------------------------------------------------

    def activate(self, branch: Branch) -> None:
        """Make ``branch`` the one whose model the host asks, where several branches have one."""
        first = self.host.patcher
        for other in self.branches:
            if other is not branch and other.companion is not None:
                other.companion.turn_to(first, other.patcher)
        if branch.companion is not None:
            branch.companion.turn_to(branch.patcher, first)

    def predict(self, branch: Branch, call: Call) -> Prediction:
        """One branch's predictions for the call; with ``call.lagged`` its probe as well."""
        self.activate(branch)
        lagged = call.lagged.get(branch.role)

        def prepare(wanted: dict[str, Any]) -> dict[str, Any]:
            if self.host.sampler_asks_both():
                wanted[ASKS_BOTH] = True
            if lagged is not None or self._common is not None or self._take_turns:
                # what is seen or changed is this model's alone, not its copies'
                wanted = on_one_card(wanted)
            if lagged is not None:
                wanted = lagged.options(wanted, branch.model, branch.conds)
            if self._common is not None and self._alike:
                if branch is self.host:
                    return self._common.leaving(wanted, lagged is not None)
                return self._common.taking(wanted)
            return wanted

        state = self.states.of(branch.role)
        return branch.predict(call.x, call.timestep, call.seed, prepare, state)

    def probe(
        self,
        latent: Tensor,
        timestep: Tensor,
        sigma: float,
        at: float,
        lagged: dict[str, LaggedProbe] | None = None,
    ) -> list[ProbeResult | None]:
        """Probe every branch at ``latent`` (B, C, H, W), whose noise level is ``at``, in a step at
        ``timestep`` (B,) = ``sigma``; one after the other, since each must be made the active one.

        ``lagged``: results that were had on the way to the step's predictions.
        """
        ask = partial(self._request, latent, timestep, sigma, at)
        results = [one.result for one in (lagged or {}).values()]
        if results and self._alike and self._pair is not None and all(results):
            return self._pair.finish(results)
        results = results or [None] * len(self.branches)
        if self._pair is not None and self._are_alike():
            first, second = self.branches
            with aside(first.options), aside(second.options):
                return self._pair.run([partial(ask, branch) for branch in self.branches])
        for index, branch in enumerate(self.branches):
            request = ask(branch) if results[index] is None else None
            if request is not None and branch.probe is not None:
                with self.states.of(branch.role), aside(request.model_options):
                    results[index] = branch.probe.run(request)
        return results

    def _request(
        self, latent: Tensor, timestep: Tensor, sigma: float, at: float, branch: Branch
    ) -> ProbeRequest | None:
        """What to probe one branch with, after making it the active one; None where no entry of its
        positive prompt is in force."""
        self.activate(branch)
        sampling = branch.model.model_sampling
        level = sigma
        if self.settings.probe_timestep == "next":
            level = max(at, self._lowest_sigma)
            timestep = torch.full_like(timestep, level)
        # the models see z' scaled for its own noise level, also when given the timestep of z_t
        scale = input_scale(sampling, at) / input_scale(sampling, level)
        entry = active_entry(branch.conds.get("positive", []), level)
        if entry is None:
            return None
        return ProbeRequest(branch.model, entry, latent, scale, timestep, branch.own_options())

    def end(self) -> None:
        """Complete the trace, in every case."""
        trace = self.trace
        trace.forwards = sum(branch.forwards for branch in self.branches)
        trace.partial_forwards = sum(probe.forwards for probe in self.probes)
        trace.backwards = sum(probe.backwards for probe in self.probes)
        if self._common is not None:
            trace.forwards -= self._common.negatives
            trace.shared_halves = self._common.encoders
        if self._pair is not None:
            trace.shared_halves += self._pair.halves
        trace.finish()
