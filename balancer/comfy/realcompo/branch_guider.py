"""A further branch as other packs' wrappers of its model see it: a guider of the host's.

What a pack lays around a whole sampling run, its preparation, its sampler or a guided prediction
asks the guider for its model, options and conditioning. For wrappers of a further branch's model
these are that branch's, while what runs inside them is the pair.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher

from ..host.options import has_wrapper, inside_run, within

PREPARE, SAMPLER = "prepare_sampling", "sampler_sample"


class BranchGuider(comfy.samplers.CFGGuider):
    """One branch's model, options, conditioning and guidance; called, it answers as the pair.

    ``options`` and ``conds`` of the branch live here, since wrappers exchange them here.
    """

    def __init__(self, patcher: ModelPatcher) -> None:
        super().__init__(patcher)
        self.conds: dict[str, list[dict[str, Any]]] = {}
        self.pair: Callable[..., Any] | None = None

    @property
    def inner_model(self) -> Any:
        """The host's model object (``BaseModel``)."""
        return self.model_patcher.model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self.pair is not None
        return self.pair(*args, **kwargs)

    def prepare_inside(
        self, options: dict[str, Any], additional_models: Callable[[], list[Any]]
    ) -> None:
        """Let the host's one preparation of a run happen inside this model's wrappers of it.

        ``options`` are the first model's for this run; ``additional_models`` tells which models
        come along with this branch, also where a wrapper has added to them.
        """
        if not has_wrapper(PREPARE, self.model_options):
            return
        kinds = options["transformer_options"].setdefault("wrappers", {}).setdefault(PREPARE, {})
        ours = f"realcompo_{id(self)}"

        def both(executor: Any, model: Any, shape: Any, conds: Any, *args: Any, **kwargs: Any):  # noqa: ANN202
            # needed once, and no difference between the branches' options
            kinds.pop(ours)
            done: list[Any] = []

            def prepare(patcher: Any, _shape: Any, own: Any, *_: Any, **__: Any) -> Any:
                self.conds = own
                entry = conds["positive"][0] if conds.get("positive") else {}
                listed = entry.get("additional_models") or []
                more = [m for m in additional_models() if not any(m is known for known in listed)]
                entry["additional_models"] = [*listed, *more]
                done[:] = [executor(model, shape, conds, *args, **kwargs)]
                return patcher.model, own, done[0][2]

            call = within(PREPARE, prepare, None, self.model_options)
            own = self.model_patcher, shape, self.conds
            _, self.conds, _ = call(*own, model_options=self.model_options)
            return done[0]

        kinds[ours] = [both]

    def sampling_inside(self, sampler: Any, first: dict[str, Any]) -> Any:
        """``sampler``, or one that samples inside this model's wrappers of it; ``first`` are the
        first model's options."""
        if not has_wrapper(SAMPLER, self.model_options):
            return sampler
        # a copy: wrappers ask it for its settings
        inner = copy.copy(sampler)
        sample = type(sampler).sample.__get__(inner)

        def both(
            guider: Any, sigmas: Any, extra_args: dict[str, Any], *args: Any, **kw: Any
        ) -> Any:
            def run(called: Any, sigmas: Any, extra: dict[str, Any], *args: Any, **kw: Any) -> Any:
                self.model_options = extra.get("model_options", self.model_options)
                back = {**extra, "model_options": extra_args["model_options"]}
                return sample(guider if called is self else called, sigmas, back, *args, **kw)

            own = {**extra_args, "model_options": self.model_options}
            call = inside_run(SAMPLER, run, inner, self.model_options, first)
            return call(self, sigmas, own, *args, **kw)

        inner.sample = both
        return inner
