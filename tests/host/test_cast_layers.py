"""Every layer of the host that casts, differentiated: autograd's own gradient, no weight kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.older_hosts

CASES: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "linear": (lambda ops: ops.Linear(8, 6), (2, 5, 8)),
    "linear without bias": (lambda ops: ops.Linear(8, 6, bias=False), (5, 8)),
    "conv1d": (lambda ops: ops.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda ops: ops.Conv2d(4, 6, 3, padding=1), (2, 4, 9, 7)),
    "conv2d, strided": (lambda ops: ops.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    "conv2d, grouped": (lambda ops: ops.Conv2d(4, 8, 3, groups=2, dilation=2), (1, 4, 9, 8)),
    "conv2d, same": (lambda ops: ops.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 7)),
    "conv2d, reflecting": (
        lambda ops: ops.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 7),
    ),
    "conv3d": (lambda ops: ops.Conv3d(4, 6, 3, padding=1), (1, 4, 3, 6, 5)),
    "transposed": (lambda ops: ops.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 6)),
    "group norm": (lambda ops: ops.GroupNorm(2, 8), (2, 8, 5, 6)),
    "layer norm": (lambda ops: ops.LayerNorm(8), (2, 5, 8)),
    "layer norm without weights": (
        lambda ops: ops.LayerNorm(8, elementwise_affine=False), (2, 5, 8),
    ),
    "rms norm": (lambda ops: ops.RMSNorm(8), (2, 5, 8)),
}  # fmt: skip


QUANTISED = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "nvfp4", "mxfp8")
# what remembers its input: it runs again in the backward
AGAIN = ("norm", "transposed", "same", "reflecting")


def made(name: str, stored: torch.dtype = torch.float32, fast: bool = False) -> Any:
    """The layer with weights that live in inference mode and are cast at every call."""
    import comfy.ops

    build, _ = CASES[name]
    kinds = comfy.ops.fp8_ops if fast else comfy.ops.manual_cast
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        if "rms" in name and not hasattr(kinds, "RMSNorm"):
            pytest.skip("this ComfyUI has no RMSNorm of its own")
        layer = build(kinds)
        for key, weight in list(layer._parameters.items()):
            if weight is not None:
                value = torch.randn(weight.shape, generator=generator).to(stored)
                layer._parameters[key] = torch.nn.Parameter(value, requires_grad=False)
    return layer


def plainly(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient by torch's own layer, with copies of the weights in the dtype of x."""
    kind = next(k for k in type(layer).__mro__ if k.__module__.startswith("torch.nn.modules"))
    kept = dict(layer._parameters)
    with torch.inference_mode(False), torch.enable_grad():
        for key, weight in kept.items():
            if weight is not None:
                # written and read again, so that nothing of inference mode is left on it
                value = torch.tensor(weight.float().tolist()).to(x.dtype)
                layer._parameters[key] = torch.nn.Parameter(value, requires_grad=False)
        try:
            x = x.clone().requires_grad_(True)
            out = kind.forward(layer, x)
            (gradient,) = torch.autograd.grad(out, x, pattern(out))
        finally:
            layer._parameters.update(kept)
    return out.detach(), gradient


def pattern(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(like.shape, generator=generator).to(like.dtype)


def through(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output and gradient with the host's layer in the engine's hands, and what autograd kept."""
    from realcompo.balancer.comfy.autograd.inference_weights import (
        gradient_mode,
        without_inference_tensors,
    )

    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.inference_mode(), gradient_mode(), without_inference_tensors([layer]):
        x = x.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = layer(x)
        (gradient,) = torch.autograd.grad(out, x, pattern(out))
    return out.detach(), gradient, kept


def functions(function: Any) -> Any:
    """A layer's weight functions, as this host has them: a list, or (2024) the only one."""
    import comfy.ops

    return function if comfy.ops.CastWeightBiasOp.weight_function is None else [function]


def random(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(CASES[name][1], generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_autograds_and_weights_are_not_kept(name: str, stored: torch.dtype) -> None:
    layer, x = made(name, stored), random(name)
    before = dict(layer.__dict__)
    out, gradient, kept = through(layer, x)
    expected, wanted = plainly(layer, x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert layer.__dict__.keys() == before.keys()
    again = any(word in name for word in AGAIN)
    assert [tensor.shape for tensor in kept] == ([x.shape] if again else [])


def test_the_output_is_the_samplers_own_bit_for_bit() -> None:
    for name in CASES:
        layer, x = made(name, torch.bfloat16), random(name)
        with torch.inference_mode():
            expected = layer(x)
        out, _, _ = through(layer, x)
        assert torch.equal(out, expected) and not out.is_inference(), name


def test_weight_functions_take_part() -> None:
    """LoRAs added on the fly, and the host's wrappers around weights."""
    layer, x = made("linear"), random("linear")
    layer.weight_function = functions(lambda weight: weight * 2.0)
    _, gradient, _ = through(layer, x)
    _, wanted = plainly(layer, x)
    torch.testing.assert_close(gradient, 2.0 * wanted, rtol=1e-5, atol=1e-6)
    norm, x = made("layer norm"), random("layer norm")
    norm.weight_function = functions(lambda weight: weight * 2.0)
    _, gradient, _ = through(norm, x)
    torch.testing.assert_close(gradient, 2.0 * plainly(norm, x)[1], rtol=1e-5, atol=1e-6)
    assert "weight_function" in norm.__dict__


def test_functions_on_layers_that_do_not_cast_by_themselves() -> None:
    import comfy.ops

    with torch.inference_mode():
        layer = comfy.ops.disable_weight_init.Linear(8, 6)
        layer.weight = torch.nn.Parameter(torch.randn(6, 8), requires_grad=False)
        layer.bias = torch.nn.Parameter(torch.randn(6), requires_grad=False)
    x = random("linear")
    wanted = plainly(layer, x)[1]
    torch.testing.assert_close(through(layer, x)[1], wanted, rtol=1e-5, atol=1e-6)
    if comfy.ops.CastWeightBiasOp.weight_function is None:
        return  # such hosts of 2024 have functions on layers that cast only
    layer.weight_function = functions(lambda weight: -weight)
    torch.testing.assert_close(through(layer, x)[1], -wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_weights_of_eight_bits(fast: bool) -> None:
    """Stored as float8 and computed in bfloat16; ``--fast`` multiplies in float8 where it can."""
    layer = made("linear", torch.float8_e4m3fn, fast)
    x = random("linear", torch.bfloat16) * 3.0
    given = x.clone()
    with torch.inference_mode():
        expected = layer(x.clone())
    out, gradient, _ = through(layer, x)
    assert torch.equal(out, expected) and torch.equal(x, given)
    wanted = plainly(layer, x)[1]
    torch.testing.assert_close(gradient, wanted, rtol=2e-2, atol=2e-2)


def test_an_inner_change_of_the_input_is_not_seen_outside() -> None:
    """The --fast layer clamps what it is given to float8's range, in place."""
    layer = made("linear", torch.float8_e4m3fn, fast=True)
    x = random("linear", torch.bfloat16) * 1e4
    given = x.clone()
    through(layer, x)
    assert torch.equal(x, given)


def quantised(name: str, full: bool) -> Any:
    """One of the host's own quantised linear layers, 32 to 64, weights made in inference mode."""
    import comfy.ops

    quant = pytest.importorskip("comfy.quant_ops")
    if not hasattr(comfy.ops, "mixed_precision_ops") or name not in quant.QUANT_ALGOS:
        pytest.skip(f"this ComfyUI has no weights in {name}")
    layout = quant.QUANT_ALGOS[name]["comfy_tensor_layout"]
    ops = comfy.ops.mixed_precision_ops(compute_dtype=torch.bfloat16, full_precision_mm=full)
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        layer = ops.Linear(32, 64, bias=True, device="cpu", dtype=torch.bfloat16)
        weight = torch.randn(64, 32, generator=generator).bfloat16()
        try:
            packed = quant.QuantizedTensor.from_float(weight, layout, scale="recalculate")
        except (TypeError, NotImplementedError, RuntimeError):
            packed = quant.QuantizedTensor.from_float(weight, layout)
        layer.weight = torch.nn.Parameter(packed, requires_grad=False)
        layer.quant_format, layer.layout_type = name, layout
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights(name: str, full: bool) -> None:
    layer = quantised(name, full)
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(5)).bfloat16()
    with torch.inference_mode():
        try:
            expected = layer(x.clone())
        except (RuntimeError, NotImplementedError, ValueError) as error:
            pytest.skip(f"the host itself cannot run {name} on a CPU: {str(error)[:60]}")
        weight = layer.weight.dequantize().float()
    out, gradient, kept = through(layer, x)
    assert torch.equal(out, expected) and not kept
    wanted = pattern(out).float() @ torch.tensor(weight.tolist())
    torch.testing.assert_close(gradient.float(), wanted, rtol=3e-2, atol=3e-2)


def test_quantised_weights_under_another_packs_forward() -> None:
    layer = quantised("float8_e4m3fn", False)
    inner = layer.forward
    layer.forward = lambda x: inner(x) + 1.0
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(5)).bfloat16()
    own = layer.forward
    _, gradient, _ = through(layer, x)
    assert layer.forward is own and not hasattr(layer, "comfy_force_cast_weights")
    with torch.inference_mode():
        weight = torch.tensor(layer.weight.dequantize().float().tolist())
    wanted = pattern(torch.empty(4, 64).bfloat16()).float() @ weight
    torch.testing.assert_close(gradient.float(), wanted, rtol=3e-2, atol=3e-2)


def test_layers_of_another_pack_run_once_more() -> None:
    """A pack with a storage of its own (GGUF-like): its way of unpacking is unknown here."""
    import comfy.ops

    class Packed(comfy.ops.manual_cast.Linear):
        calls = 0

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            Packed.calls += 1
            return torch.nn.functional.linear(input, self.weight.to(input.dtype) * 0.5)

    with torch.inference_mode():
        layer = Packed(8, 6, bias=False)
        value = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
        layer.weight = torch.nn.Parameter(value, requires_grad=False)
    x = random("linear")
    _, gradient, kept = through(layer, x)
    torch.testing.assert_close(gradient, 0.5 * plainly(layer, x)[1], rtol=1e-5, atol=1e-6)
    assert Packed.calls == 2 and not [t for t in kept if t.shape == layer.weight.shape]


def test_nothing_is_left_on_a_layer_that_fails() -> None:
    layer = made("linear")
    layer.weight_function = functions(lambda weight: 1 / 0)
    before = dict(layer.__dict__)
    with pytest.raises(ZeroDivisionError):
        through(layer, random("linear"))
    assert layer.__dict__.keys() == before.keys()
    norm = made("group norm")
    calls = []

    def in_the_backward(weight: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise InterruptedError
        return weight

    norm.weight_function = functions(in_the_backward)
    before = dict(norm.__dict__)
    with pytest.raises(InterruptedError):
        through(norm, random("group norm"))
    assert dict(norm.__dict__) == before
