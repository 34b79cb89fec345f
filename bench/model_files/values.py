"""What stands in a random model file: values that keep signals at unit size, and their 8 bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .layouts import Contents
from .tensor_file import Entry

FORMAT = {"format": "float8_e4m3fn"}
LARGEST = torch.finfo(torch.float8_e4m3fn).max
QUANTISED = ("comfy_quant", "metadata", "scaled_fp8")
"""How a quantised file says so: a tensor beside each layer, as the host saves it; the header's
``_quantization_metadata``; or the form before these, a tensor ``scaled_fp8`` for all."""


def entries(
    contents: Contents, dtype: torch.dtype, quantised: str | None, seed: int
) -> tuple[dict[str, Entry], dict[str, str]]:
    """The file's tensors, and its metadata. Each value depends on ``seed`` and the tensor's name
    alone. ``quantised``: one of QUANTISED."""
    found = {
        name: _entry(name, tensor, dtype, seed, name in contents.empty)
        for name, tensor in contents.tensors.items()
    }
    about = dict(contents.about)
    if quantised is not None:
        # the older form's readers take every layer for one of 8 bits; today's files hold those
        # beside the transformers in full
        layers = [
            layer for layer in contents.linear
            if quantised == "scaled_fp8" or ".transformer_blocks." in layer
        ]  # fmt: skip
        for layer in layers:
            found |= _quantised(layer, contents.tensors[f"{layer}.weight"], quantised, seed)
        if quantised == "metadata":
            description = {"format_version": "1.0", "layers": {layer: FORMAT for layer in layers}}
            about["_quantization_metadata"] = json.dumps(description)
        elif quantised == "scaled_fp8":
            # two numbers in it: multiply in full precision
            found[contents.prefix + "scaled_fp8"] = _constant(
                torch.zeros(2, dtype=torch.float8_e4m3fn)
            )
    return found, about


def _constant(tensor: Tensor) -> Entry:
    return Entry(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _entry(name: str, tensor: Tensor, dtype: torch.dtype, seed: int, empty: bool) -> Entry:
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    shape = tuple(tensor.shape)
    if empty:
        return Entry(shape, wanted, None)
    if not tensor.is_meta:
        return _constant(tensor.to(wanted).contiguous())
    return Entry(shape, wanted, lambda: drawn(name, shape, seed).to(wanted))


def drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Matrices N(0, 1/fan_in), norms near 1, biases 0, gates half open; float32."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    if not shape:
        return torch.tensor(0.5)
    if len(shape) == 1:
        if name.endswith("bias"):
            return torch.zeros(shape)
        return torch.randn(shape, generator=generator).mul_(0.1).add_(1.0)
    return torch.randn(shape, generator=generator).div_(_root(shape))


def _root(shape: tuple[int, ...]) -> float:
    return math.sqrt(math.prod(shape[1:]))


def _quantised(layer: str, weight: Tensor, form: str, seed: int) -> dict[str, Entry]:
    """A layer's weight in 8 bits with the one scale that uses them all, and what says so."""
    name, shape = f"{layer}.weight", tuple(weight.shape)
    # no weight is drawn further than six deviations off
    scale = torch.tensor(6 / _root(shape) / LARGEST)
    values = _eight_bits(name, shape, seed, scale)
    found = {name: Entry(shape, torch.float8_e4m3fn, values)}
    if form == "scaled_fp8":
        return found | {f"{layer}.scale_weight": _constant(scale)}
    found[f"{layer}.weight_scale"] = _constant(scale)
    if form == "comfy_quant":
        description = torch.tensor(list(json.dumps(FORMAT).encode()), dtype=torch.uint8)
        found[f"{layer}.comfy_quant"] = _constant(description)
    return found


def _eight_bits(
    name: str, shape: tuple[int, ...], seed: int, scale: Tensor
) -> Callable[[], Tensor]:
    return lambda: (
        drawn(name, shape, seed).div_(scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    )
