"""One model of a run: every branch is asked for its prediction and probed in the same way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import Tensor

from ...attention.regions import LayoutBatch
from ..host.options import ASKS_BOTH, POST_CFG, lent, within
from .agreement import Conds
from .companion import Companion
from .prediction import Prediction
from .probe import Probe


class Branch:
    """One model during one run.

    ``role`` is its name, ``guider`` the host's guider of this one model, which holds its patcher,
    conditioning, guidance scale and options, since wrappers of the model may exchange them there.
    ``regions`` are the layouts with the positions of their tokens in this model's prompt, and
    ``probe`` reads them, where the mode balances. ``companion`` looks after the model; None where
    the host does. ``forwards`` counts samples through the whole network.
    """

    def __init__(
        self, role: str, guider: CFGGuider, regions: LayoutBatch, companion: Companion | None
    ) -> None:
        self.role, self.guider, self.regions = role, guider, regions
        self.companion = companion
        self.probe: Probe | None = None
        self.forwards = 0
        self._own_post_cfg = len(self.guider.model_options.get(POST_CFG, []))

    @property
    def patcher(self) -> ModelPatcher:
        """The host's patcher of the model."""
        return self.guider.model_patcher

    @property
    def model(self) -> Any:
        """The host's model object (``BaseModel``)."""
        return self.guider.inner_model

    @property
    def conds(self) -> Conds:
        """The conditioning as the host has processed it for this run."""
        return self.guider.conds

    @property
    def options(self) -> dict[str, Any]:
        """The model's options as they stand, in which guidance functions keep their state."""
        return self.guider.model_options

    def own_options(self) -> dict[str, Any]:
        """A copy of what among ``options`` is this model's."""
        return dict(self.options)

    def appended(self) -> list[Any]:
        """Functions after guidance that are none of this model's, but the sampler's."""
        return []

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        seed: int | None,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        state: AbstractContextManager[None],
    ) -> Prediction:
        """The predictions for ``x`` (B, C, H, W) at ``timestep`` (B,), the host's sigma.

        They are made by the host's own function, inside the model's own wrappers and with its own
        options. ``prepare`` changes a copy of these for this one time; ``state`` is entered for it.
        """
        model, given, appended = self.model, self.options, self.appended()
        functions = given.get(POST_CFG, [])
        own = functions[: len(functions) - len(appended)]
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(args: dict[str, Any]) -> Tensor:
            seen.append((args["cond_denoised"], args["uncond_denoised"]))
            return args["denoised"]

        def predict(
            x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
        ) -> Tensor:
            cfg = self.guider.cfg
            single = abs(cfg - 1.0) < 1e-9 and not model_options.get(ASKS_BOTH, False)
            self.forwards += x.shape[0] * (1 if single else 2)
            return comfy.samplers.sampling_function(
                model, x, timestep, self.conds.get("negative"), self.conds.get("positive"), cfg,
                model_options=model_options, seed=seed,
            )  # fmt: skip

        listed = [keep, *own]
        wanted = prepare({**self.own_options(), POST_CFG: listed})
        with state, lent(given, wanted) as live:
            call = within("predict_noise", predict, self.guider, self.guider.model_options)
            guided = call(x, timestep, live, seed)
        now = given.get(POST_CFG, [])
        if keep in now or len(listed) != len(own) + 1:
            # functions that a pack added during the prediction stay on
            own = [f for f in (now if keep in now else listed) if f is not keep]
            given[POST_CFG] = [*own, *appended]
            self._own_post_cfg = len(own)
        return Prediction(guided, *(seen[-1] if seen else (None, None)))


class HostBranch(Branch):
    """The first branch, whose model is the host's own: the sampler asks with copies of its options.

    Samplers append functions to them that are meant for the mixed prediction, and what other
    branches bring for the sampler stands among them (``sampler_extras``).
    """

    def __init__(self, role: str, guider: CFGGuider, regions: LayoutBatch) -> None:
        super().__init__(role, guider, regions, None)
        self.sampler_options: dict[str, Any] = {}
        self.sampler_extras: dict[str, Any] = {}

    @property
    def options(self) -> dict[str, Any]:
        """What the sampler called with last."""
        return self.sampler_options

    def own_options(self) -> dict[str, Any]:
        """A copy of what among ``options`` is this model's."""
        extras = self.sampler_extras
        return {name: value for name, value in self.options.items() if name not in extras}

    def appended(self) -> list[Any]:
        """Functions after guidance that the sampler appended to the model's own."""
        return self.options.get(POST_CFG, [])[self._own_post_cfg :]

    def sampler_asks_both(self) -> bool:
        """Whether functions that the sampler appended read the unconditional prediction, which the
        model by itself would not make without guidance."""
        own_wish = self.guider.model_options.get(ASKS_BOTH, False) and not self.appended()
        return self.options.get(ASKS_BOTH, False) and not own_wish
