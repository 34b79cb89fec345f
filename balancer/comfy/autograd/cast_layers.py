"""Layers whose weights the host casts, moves or unpacks at every call, and gradients through them.

The host keeps a network's weights where and how it likes: in other dtypes, on the other device,
quantised, with LoRAs added on the fly, in pages of video memory that come and go (dynamic VRAM).
Its layers ask ``comfy.ops.cast_bias_weight`` at every call and are given a copy that belongs to
this call: the memory is a buffer that later layers write over, or a page that may be taken away.
If autograd kept such copies, the whole cast network would stay in memory, and gradients could come
from other layers' weights. So nothing of a weight is kept here: the backward asks the host again.
Frozen weights need no gradient, and a linear layer or a convolution needs nothing else than its
weight to pass one on (leaf differentiation); any other layer runs once more with copies of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import comfy.ops
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module, Parameter, grad
from torch.utils.checkpoint import checkpoint

CAST = "forward_comfy_cast_weights"
"""The method of the host's layers that casts; their ``forward`` decides whether it is called."""
_CONVOLUTIONS = {
    torch.nn.Conv1d: grad.conv1d_input,
    torch.nn.Conv2d: grad.conv2d_input,
    torch.nn.Conv3d: grad.conv3d_input,
}


def casts(layer: Any) -> bool:
    """Whether the layer computes with a cast of its weight rather than with its own tensor."""
    if not hasattr(type(layer), CAST):
        return False
    if layer.comfy_cast_weights or _is_quantised(layer):
        return True
    # hosts of 2024 (None instead of lists) ignore the functions of layers that do not cast
    listed = comfy.ops.CastWeightBiasOp.weight_function is not None
    return listed and bool(layer.weight_function or layer.bias_function)


def is_the_hosts(layer: Module) -> bool:
    """Whether the layer's casting is ComfyUI's own; other packs bring layers with theirs (GGUF)."""
    return getattr(type(layer), CAST).__module__ == comfy.ops.__name__


@contextmanager
def leaf_layers(layers: Iterable[Module]) -> Iterator[None]:
    """Let autograd pass through ``layers``, all of which cast, without keeping their weights.

    In every case the layers are put back as they were.
    """
    exchanged: list[tuple[Module, str]] = []
    try:
        for layer in layers:
            for name, value in _exchanges(layer).items():
                if name not in layer.__dict__:
                    exchanged.append((layer, name))
                    layer.__dict__[name] = value
        yield
    finally:
        for layer, name in reversed(exchanged):
            layer.__dict__.pop(name, None)


def _exchanges(layer: Module) -> dict[str, Any]:
    """Attributes to give the layer: the method by which it computes."""
    own = getattr(type(layer), CAST)
    if not is_the_hosts(layer):
        return {CAST: _again(own.__get__(layer))}
    found: dict[str, Any] = {CAST: _leaf(layer, own)}
    if _is_quantised(layer):
        # this layer's forward saves its weight for a backward of its own
        if "forward" in layer.__dict__:  # another pack's, which will call the class's in the end
            found["comfy_force_cast_weights"] = True
        else:
            found["forward"] = _leaf(layer, type(layer).forward)
    return found


def _again(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer that nobody here knows runs once more in the backward, as it is."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return method(x, *args, **kwargs)
        return checkpoint(
            method, x, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )

    return forward


def _leaf(layer: Module, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def run(value: Tensor) -> Tensor:
            return method(layer, value, *args, **kwargs)

        if torch.is_grad_enabled() and x.requires_grad:
            return _Frozen.apply(x, layer, run, _closed_form(layer, bool(kwargs)))
        return _as_sampling(run, x)

    return forward


class _Frozen(torch.autograd.Function):
    """``run(x)`` as in sampling; its gradient by ``closed`` (layer, output's gradient, size of x),
    or by running the layer again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Module, run: Any, closed: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer, ctx.run, ctx.closed, ctx.size = layer, run, closed, x.shape
        if closed is None:
            ctx.save_for_backward(x)
        # the host's --fast layers clamp their input in place
        return _as_sampling(run, x.clone() if _clamps(layer) else x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.closed is not None:
            with torch.inference_mode(), fetched(ctx.layer, gradient) as (weight, _):
                out = ctx.closed(ctx.layer, gradient, weight, ctx.size)
            return ordinary(out), None, None, None
        (x,) = ctx.saved_tensors
        with torch.inference_mode(False), torch.enable_grad(), _own_weights(ctx.layer, x):
            x = x.detach().requires_grad_(True)
            (out,) = torch.autograd.grad(ctx.run(x), x, gradient)
        return out, None, None, None


def ordinary(tensor: Tensor) -> Tensor:
    """An ordinary tensor on the very memory of ``tensor``, of any shape, which may be an inference
    tensor."""
    out = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return out.set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def _as_sampling(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Exactly what the host does when it samples, as a tensor that autograd may work with."""
    with torch.inference_mode():
        out = run(x)
    return ordinary(out)


@contextmanager
def fetched(layer: Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The layer's weight and bias as the host casts them for an input like ``like``, in their
    own shapes, on its device and in its dtype.

    Scaled and quantised weights are unpacked. They are the host's and valid within the block only.
    """
    cast: Any = comfy.ops.cast_bias_weight
    if not _hands_back(cast):
        weight, bias = cast(layer, like)
        yield _unpacked(layer, weight, like.dtype), bias
        return
    weight, bias, stream = cast(layer, like, offloadable=True, compute_dtype=like.dtype)
    try:
        yield _unpacked(layer, weight, like.dtype), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


@lru_cache(maxsize=8)
def _hands_back(cast: Any) -> bool:
    """Whether the host wants to be told when a cast weight is not needed any more (2026 on)."""
    return "offloadable" in inspect.signature(cast).parameters


def _unpacked(layer: Module, weight: Tensor, dtype: torch.dtype) -> Tensor:
    if type(weight) not in (Tensor, Parameter) and hasattr(weight, "dequantize"):
        weight = weight.dequantize()
    weight = weight.to(dtype)
    # one factor for a whole weight of 8 bits, and one for each input of a smoothed layer
    for name in ("scale_weight", "pre_quant_scale"):
        scale = getattr(layer, name, None)
        if scale is not None:
            weight = weight * scale.to(weight)
    return weight


def _is_quantised(layer: Module) -> bool:
    return getattr(layer, "layout_type", None) is not None


def _clamps(layer: Module) -> bool:
    fast = getattr(comfy.ops, "fp8_ops", None)
    return fast is not None and isinstance(layer, fast.Linear)


def _closed_form(layer: Any, special: bool) -> Callable[..., Tensor] | None:
    """How the layer passes a gradient on with nothing but its weight; None where it cannot.

    ``special``: it was called with more than its input.
    """
    if hasattr(layer, "in_features") and len(layer.weight.shape) == 2:
        return _linear
    if isinstance(layer, tuple(_CONVOLUTIONS)) and not special:
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return _convolution if plain else None
    return None


def _linear(layer: Module, gradient: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
    return gradient @ weight


def _convolution(layer: Any, gradient: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
    (back,) = (way for kind, way in _CONVOLUTIONS.items() if isinstance(layer, kind))
    return back(
        size, weight, gradient, layer.stride, layer.padding, layer.dilation, layer.groups
    )


@contextmanager
def _own_weights(layer: Any, like: Tensor) -> Iterator[None]:
    """The layer with copies of its cast weights in place of the host's machinery."""
    kept, attributes = dict(layer._parameters), dict(layer.__dict__)
    copies = {}
    if getattr(layer, "weight", None) is not None:
        with torch.inference_mode(), fetched(layer, like) as pair:
            tensors = dict(zip(("weight", "bias"), pair, strict=True))
            copies = {name: t.clone() for name, t in tensors.items() if t is not None}
    try:
        for name, tensor in copies.items():
            layer._parameters[name] = Parameter(ordinary(tensor), requires_grad=False)
        # no functions: what that is changed in 2025
        none = comfy.ops.CastWeightBiasOp.weight_function
        layer.__dict__.update(comfy_cast_weights=False, weight_function=none, bias_function=none)
        layer.__dict__.pop("_v", None)  # by this the host knows a layer with pages
        yield
    finally:
        layer._parameters.update(kept)
        for name in ("comfy_cast_weights", "weight_function", "bias_function", "_v"):
            layer.__dict__.pop(name, None)
            if name in attributes:
                layer.__dict__[name] = attributes[name]
