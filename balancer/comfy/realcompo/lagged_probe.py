"""Probes without a pass of their own: the step's conditional prediction is read on its way.

Mode ``lagged``: maps and gradient belong to the step's latent z_t instead of the probe latent,
which is one DDIM step further. So no model runs for them; only the backward is extra.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..host.options import joins_rows
from .agreement import NEGATIVE, POSITIVE, Conds
from .pair_probe import PairProbe
from .probe import Probe
from .probe_request import ProbeResult
from .shared_encoder import host_batch, once


class LaggedProbe:
    """The guided prediction of one branch, which is its probe as well.

    ``probe`` is the branch's; with ``pair`` the branches' first halves are one. ``result`` is there
    after the prediction, or None where the positive prompt has several entries, whose pass cannot
    be distinguished from the others', or where a patch needs all prompts' rows in one pass: then
    the caller has to probe by itself.
    """

    def __init__(self, probe: Probe, pair: PairProbe | None = None) -> None:
        self._probe, self._pair = probe, pair
        self.result: ProbeResult | None = None
        self._model: Any = None
        self._entry: dict[str, Any] = {}

    def options(self, options: dict[str, Any], model: Any, conds: Conds) -> dict[str, Any]:
        """Options of a prediction of ``model`` by the host's processed conditioning."""
        entries = conds.get("positive", [])
        if len(entries) != 1 or joins_rows(options, [*entries, *conds.get("negative", [])]):
            return options
        self._model, self._entry = model, entries[0]
        return once(options, self._answer)

    def _answer(self, args: dict[str, Any]) -> list[Tensor]:
        """The host's batch in two calls, since only the positive prompt's rows are differentiated.

        A backward through both would cost twice as much.
        """
        conds, options = args["conds"], args["model_options"]
        work = self._probe.differentiate if self._pair is None else self._pair.work(self._probe)
        reading, results = self._probe.passes.options(
            self._model, self._entry, args["input"], options, work, whole=True,
            copies_skips=self._pair is not None,
        )  # fmt: skip
        out = list(host_batch(args, [conds[POSITIVE], None], reading))
        if conds[NEGATIVE] is not None:
            out[NEGATIVE] = host_batch(args, [None, conds[NEGATIVE]], options)[NEGATIVE]
        self.result = results[0] if results else None
        return out
