"""A gradient through a model of the host, whatever it keeps the model's weights in.

The host runs every node under ``torch.inference_mode()``; tensors made there cannot be saved for
a backward pass. Copying the weights would double their memory, so they are replaced, for the
length of one pass, by ordinary tensors on the very same storage. Layers that compute with a cast of
their weight, not with the tensor itself, are differentiated without keeping it (cast_layers.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.cli_args
import comfy.model_management
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from .cast_layers import casts, is_the_hosts, leaf_layers, ordinary

Aliases = dict[int, tuple[Tensor, Tensor]]
"""Tensors by id, each with its ordinary stand-in; keep one of these for the length of a run."""


@contextmanager
def without_inference_tensors(
    modules: Iterable[Module], known: Aliases | None = None
) -> Iterator[None]:
    """Let autograd work with the weights of ``modules``, without copying or keeping them.

    Layers that cast pass gradients on as ``leaf_layers`` says. Elsewhere parameters and buffers
    that are inference tensors, or ask for gradients of their own, are swapped for tensors that
    share their storage and ask for none; at the end, in every case, the very objects that were
    there are put back. Enter it outside inference mode. ``known`` keeps the stand-ins from one
    time to the next.
    """
    known = {} if known is None else known
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    roots = list(modules)
    found = list({id(m): m for root in roots for m in root.modules()}.values())
    casting = [layer for layer in found if casts(layer)]
    # their tensors are the host's affair; layers of other packs may use some as they are
    left_alone = {id(layer) for layer in casting if is_the_hosts(layer)}
    with leaf_layers(casting), without_prefetch(roots):
        try:
            for module in found:
                if id(module) in left_alone:
                    continue
                stores: Any = (module._parameters, module._buffers)
                for store in stores:
                    for name, tensor in store.items():
                        if tensor is None or not _needs_alias(tensor):
                            continue
                        swapped.append((store, name, tensor))
                        entry = known.get(id(tensor))
                        # weights that the host has moved since have another storage
                        if entry is None or entry[1].data_ptr() != tensor.data_ptr():
                            known[id(tensor)] = entry = (tensor, _alias(tensor))
                        store[name] = entry[1]
            yield
        finally:
            for store, name, tensor in swapped:
                store[name] = tensor


@contextmanager
def without_prefetch(networks: Iterable[Module]) -> Iterator[None]:
    """Let ``networks`` fetch each layer's weights when it is called, and not ahead (hosts of 2026).

    A forward that is left half-way would leave a queue of fetched pages behind, and a backward
    asks for weights in another order.
    """

    def plain(_: Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        options = kwargs.get("transformer_options")
        if not options or not options.get("prefetch_dynamic_vbars"):
            return None
        kwargs["transformer_options"] = {**options, "prefetch_dynamic_vbars": False}
        return args, kwargs

    handles = [n.register_forward_pre_hook(plain, with_kwargs=True) for n in networks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _needs_alias(tensor: Tensor) -> bool:
    # quantised weights of other packs are tensor subclasses without a plain storage; they are
    # unpacked by an operation in forward, whose result is an ordinary tensor
    plain = type(tensor) in (Tensor, Parameter)
    return plain and (tensor.is_inference() or tensor.requires_grad)


def _alias(tensor: Tensor) -> Tensor:
    alias: Any = ordinary(tensor)
    if isinstance(tensor, Parameter):
        alias = Parameter(alias, requires_grad=False)
    # the host notes a weight's other dtype on the tensor itself
    alias.__dict__.update(tensor.__dict__)
    return alias


def saved_copies(modules: Iterable[Module], needed: bool) -> AbstractContextManager[Any]:
    """Context in which autograd saves copies of activations, where ``needed``.

    ControlNet residuals, and the transformer blocks of hosts before mid-2025, add in place to
    tensors that autograd has saved. Weights are never changed in place and are not copied.
    """
    if not needed:
        return nullcontext()
    weights = {
        tensor.untyped_storage().data_ptr()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if type(tensor) in (Tensor, Parameter)
    }

    def pack(tensor: Tensor) -> Tensor:
        known = tensor.untyped_storage().data_ptr() in weights
        return tensor if known else tensor.clone()

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@contextmanager
def gradient_mode() -> Iterator[None]:
    """Outside inference mode, with gradients on, whatever the caller was in.

    The host is told that it trains (hosts of 2026): its transformers have fused kernels without a
    backward, and use differentiable ones only then. Its compiler (later hosts), which plans memory
    for forwards that nobody saves from or leaves half-way, is off for as long.
    """
    args: Any = comfy.cli_args.args
    flags = [(comfy.model_management, "in_training"), (args, "disable_comfy_compiler")]
    before = [(owner, name, getattr(owner, name)) for owner, name in flags if hasattr(owner, name)]
    try:
        for owner, name, _ in before:
            setattr(owner, name, True)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
