"""DenseDiffusion on hosts of 2024, which name no entry to a model call and know no wrappers.

There the plan goes among the entry's model inputs, and the one slot for a function around the model
finds it. Entries with and without a plan then run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...dense.plan import DensePlan
from ...errors import RealCompoError
from .entries import KEY, modulation_at
from .patch import Rows, modulated_options


class PlanCond:
    """Plans among the model inputs, one for every entry of a batch, of ``batch`` rows each."""

    def __init__(self, plans: list[DensePlan], batch: int = 0) -> None:
        self.plans, self.batch = plans, batch

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> PlanCond:
        """The plan for a batch; the host cuts its inputs to the entry's area here."""
        if area is not None:
            raise RealCompoError(
                "positive", "this ComfyUI is too old to modulate a conditioning with an area",
                "Update ComfyUI, or take the area away", self.plans[0].node,
            )  # fmt: skip
        return PlanCond(self.plans, batch_size)

    def can_concat(self, other: PlanCond) -> bool:
        """Whatever the plans are."""
        return True

    def concat(self, others: list[PlanCond]) -> PlanCond:
        """Of several entries in one batch."""
        plans = [plan for part in (self, *others) for plan in part.plans]
        return PlanCond(plans, self.batch)


def function_wrapper(inner: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """A model function wrapper that modulates the rows of entries with a plan, around ``inner``.

    As the host's wrappers it gives the model's prediction, of the shape (B, C, H, W) of the input.
    """

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        conditions = dict(args["c"])
        found = conditions.pop(KEY, None)
        x, model = args["input"], getattr(apply_model, "__self__", None)
        if found is not None and model is not None:
            sigma, size = float(args["timestep"][0]), (x.shape[-2], x.shape[-1])
            sampling = model.model_sampling
            parts = [modulation_at(plan, sampling, sigma, size, None) for plan in found.plans]
            if any(part is not None for part in parts):
                rows = Rows.of(parts, found.batch, x)
                conditions["transformer_options"] = modulated_options(
                    model.diffusion_model, conditions["transformer_options"], rows
                )
        if inner is not None:
            return inner(apply_model, {**args, "c": conditions})
        return apply_model(x, args["timestep"], **conditions)

    return wrapper
