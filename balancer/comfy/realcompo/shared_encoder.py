"""The first half of a U-Net's pass, made by one branch and taken over by the other.

A ControlNet adds to the skip connections and behind the middle block only. So for two branches of
one checkpoint that differ by a ControlNet, conv_in, down path and middle give the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from torch.nn import Module

from ..attention.families import family_of
from ..autograd.swapped_forwards import other_forwards
from ..host.options import lent
from .agreement import NEGATIVE, POSITIVE, Agreement

_BATCH = "sampler_calc_cond_batch_function"
# patches that look at attention or stand between its layers; others may write to activations
INSIDE_BLOCKS = {"attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch"}
_READING = INSIDE_BLOCKS | {"middle_patch"}


def encoder_length(network: Module) -> int:
    """Number of blocks in the first half; 0 for models without a common one."""
    return len(family_of(network).first_half(network))


@contextmanager
def recording(network: Any, copies: bool, stop: BaseException | None = None) -> Iterator[list[Any]]:
    """Gather what each block of the first half gives, in order, during one pass.

    ``copies``: keep copies, for passes that write to their activations afterwards. ``stop`` is
    raised behind the last block.
    """
    kept: list[Tensor] = []
    blocks = family_of(network).first_half(network)

    def keep(_module: Module, _args: Any, output: Tensor) -> None:
        kept.append(output.clone() if copies else output)
        if stop is not None and len(kept) == len(blocks):
            raise stop

    handles = [block[-1].register_forward_hook(keep) for block in blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def replaying(network: Any, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Let the blocks of the first half give ``tensors`` during one pass, without computing: one
    (B, C, h, w) for each block.

    The host's own forward stays in charge: it counts blocks, calls patches and adds ControlNets as
    in any pass. The tensors may be written to. Raises ValueError for another number of blocks.
    """
    blocks = family_of(network).first_half(network)
    if len(blocks) != len(tensors):
        raise ValueError(f"{len(tensors)} tensors for {len(blocks)} blocks")
    pairs = zip(blocks, tensors, strict=True)
    return other_forwards((layer, _giving(tensor)) for block, tensor in pairs for layer in block)


def _giving(tensor: Tensor) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: tensor


def alters_encoder(control: dict[str, list[Any]] | None) -> bool:
    """Whether a control signal reaches the down path itself (T2I-Adapters do)."""
    return control is not None and any(part is not None for part in control.get("input", []))


class CommonWork:
    """What the realism branch's predictions leave for the spatial branch's, within one step.

    ``network`` stands behind both; only U-Nets have a common half. Ask for options in this order:
    ``leaving`` for the branch that computes, ``taking`` for the one that takes over; what was not
    left is computed anew.
    Only the one batch that guidance asks for takes part: packs that run the model again by
    themselves, with other patches, are left alone. ``encoders`` and ``negatives`` count the
    samples that were spared.
    """

    def __init__(self, network: Any, agreement: Agreement) -> None:
        self._blocks = encoder_length(network)
        if not self._blocks:
            agreement = replace(agreement, encoder=frozenset())
        self._network, self.agreement = network, agreement
        self.encoders = 0
        self.negatives = 0
        self.forget()

    def forget(self) -> None:
        """Drop what was left; it belongs to one latent at one noise level."""
        self._probed = False
        self._negative: Tensor | None = None
        # (marks of a call's rows, what each block gave)
        self._kept: list[tuple[list[int], list[Tensor]]] = []

    def leaving(self, options: dict[str, Any], probed: bool = False) -> dict[str, Any]:
        """Options of a prediction that leaves its common parts here.

        ``probed``: it is a probe as well, and what its positive prompt has in common is seen to
        elsewhere (see own_pass.py).
        """
        self.forget()
        self._probed = probed
        return once(options, self._leave)

    def taking(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a prediction that takes over what is here."""
        return once(options, self._take)

    def _leave(self, args: dict[str, Any]) -> list[Tensor]:
        options = args["model_options"]
        if self.agreement.encoder:
            options = _around(options, self._record)
        out = host_batch(args, args["conds"], options)
        if self.agreement.negative and args["conds"][NEGATIVE] is not None:
            # functions before guidance may write to what they are given
            self._negative = out[NEGATIVE].clone()
        return out

    def _take(self, args: dict[str, Any]) -> list[Tensor]:
        options, conds = args["model_options"], list(args["conds"])
        if self._kept:
            options = _around(options, self._play)
        negative = None if conds[NEGATIVE] is None else self._negative
        if negative is not None:
            conds[NEGATIVE] = None
        out = list(host_batch(args, conds, options))
        if negative is not None:
            out[NEGATIVE] = negative
            self.negatives += negative.shape[0]
        self.forget()
        return out

    def _record(self, call: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        conditions, marks = args["c"], list(args["cond_or_uncond"])
        fits = self.agreement.encoder.issuperset(marks)
        fits = fits and not (self._probed and POSITIVE in marks)
        if not fits or alters_encoder(conditions.get("control")):
            return call(args)
        with recording(self._network, _writes(conditions)) as tensors:
            out = call(args)
        if len(tensors) == self._blocks:
            self._kept.append((marks, tensors))
        return out

    def _play(self, call: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        tensors = self._rows(list(args["cond_or_uncond"]))
        if not tensors or alters_encoder(args["c"].get("control")):
            return call(args)
        with replaying(self._network, tensors):
            out = call(args)
        self.encoders += args["input"].shape[0]
        return out

    def _rows(self, marks: list[int]) -> list[Tensor]:
        """What the blocks gave for these rows, to be written to; empty if not all are here."""
        for kept in self._kept:
            if kept[0] == marks:
                # a ControlNet adds to the tensors in place: they serve once
                self._kept = [other for other in self._kept if other is not kept]
                return kept[1]
        parts: list[list[Tensor]] = []
        for mark in marks:
            for order, tensors in self._kept:
                if mark in order:
                    row = order.index(mark)
                    parts.append([tensor.chunk(len(order))[row] for tensor in tensors])
        if len(parts) != len(marks):
            return []
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def once(
    options: dict[str, Any], function: Callable[[dict[str, Any]], list[Tensor]]
) -> dict[str, Any]:
    """Options by which ``function`` answers the first batch asked for, and the host the others.

    A function that is in the options already is the one that ``function`` reaches by
    ``host_batch``. Hosts of 2024 never ask it.
    """
    inner = options.get(_BATCH)
    answered = False

    def answer(args: dict[str, Any]) -> list[Tensor]:
        nonlocal answered
        if answered:
            return host_batch({**args, _BATCH: inner}, args["conds"], args["model_options"])
        answered = True
        return function({**args, _BATCH: inner})

    return {**options, _BATCH: answer}


def _around(
    options: dict[str, Any],
    function: Callable[[Callable[..., Tensor], dict[str, Any]], Tensor],
) -> dict[str, Any]:
    """Options with ``function`` around every model call, outside other packs' wrappers."""
    inner = options.get("model_function_wrapper")

    def wrapper(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        return function(partial(call_model, inner, apply_model), args)

    return {**options, "model_function_wrapper": wrapper}


def call_model(
    inner: Callable[..., Tensor] | None, apply_model: Callable[..., Tensor], args: dict[str, Any]
) -> Tensor:
    """The model's prediction (B, C, H, W), run as the host does: by ``inner``, another pack's
    wrapper, if there is one."""
    if inner is not None:
        return inner(apply_model, args)
    return apply_model(args["input"], args["timestep"], **args["c"])


def host_batch(args: dict[str, Any], conds: list[Any], options: dict[str, Any]) -> list[Tensor]:
    """What a function given to ``once`` goes on with: other conditioning or options. Gives a
    prediction (B, C, H, W) for each of ``conds``.

    What wrappers of the batch write to the options stays in those that the function was given.
    """
    inner = args.get(_BATCH)
    with lent(args["model_options"], options) as live:
        if inner is not None:
            return inner({**args, "conds": conds, "model_options": live})
        return comfy.samplers.calc_cond_batch(
            args["model"], conds, args["input"], args["sigma"], live
        )


def _writes(conditions: dict[str, Any]) -> bool:
    """Whether the pass may write to activations behind the block that made them."""
    patches = conditions["transformer_options"].get("patches", {})
    return conditions.get("control") is not None or bool(set(patches) - _READING)
