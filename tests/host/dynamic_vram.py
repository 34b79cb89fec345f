"""The host's dynamic VRAM on the CPU: its own casting code hands weights out as on a card.

On an NVIDIA card ComfyUI of 2026 keeps a network's weights in system memory. A layer that runs asks
for its page of video memory; a page that is there is used as it is, else the weights are copied
into it, or, where no page can be had, into one of two buffers that take turns. Pages may be taken
away as soon as they are not pinned, and a buffer is written over by the next layer but one.

Here the calls into comfy_aimdo's C library are replaced by plain memory and a policy, and the one
branch of ``cast_bias_weight`` that the CPU never takes is taken. All else is ``comfy/ops.py``. What
a card would lose is lost here as well: pages that are taken and buffers whose turn ends are filled
with NaN, so whoever kept such a weight finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

PAGES = ("resident", "evicted", "changing")
"""Pages always there; never there; or taken away at random as soon as nobody pins them."""

_ATTRIBUTES = (
    "comfy_cast_weights", "weight_function", "bias_function", "weight_lowvram_function",
    "bias_lowvram_function", "seed_key", "_v", "_v_signature", "_v_weight", "_v_bias", "_prefetch",
)  # fmt: skip


def available() -> bool:
    """Whether this host has dynamic VRAM at all."""
    import comfy.ops

    return hasattr(comfy.ops, "cast_modules_with_vbar")


class _Memory:
    """Bytes that tensors lie on; ``lose`` fills them with NaN in every float format."""

    def __init__(self, size: int) -> None:
        # a tensor made in inference mode could not be written to outside of it
        with torch.inference_mode(False):
            self.bytes = torch.empty(size, dtype=torch.uint8)
        self.lose()

    def lose(self) -> None:
        self.bytes.fill_(255)

    def view(self, start: int, size: int) -> Tensor:
        return self.bytes[start : start + size]


class Page(_Memory):
    """A layer's place in video memory."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.signature, self.there, self.pins = 0, False, 0


class Stream(_Memory):
    """One of the streams that copy weights over, with its buffer."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.as_context = lambda stream: nullcontext()

    def wait_stream(self, other: Any) -> None:
        """Nothing runs beside anything here."""

    def get(self, size: int, offset: int) -> tuple[Stream, int, int]:
        return self, offset, size

    def size(self) -> int:
        return len(self.bytes)


class Card:
    """The policy, and how often weights were ``faults`` (copied) and pages ``lost``."""

    def __init__(self, pages: str, seed: int = 0) -> None:
        assert pages in PAGES
        self.pages, self.faults, self.lost = pages, 0, 0
        self._random = torch.Generator().manual_seed(seed)
        self._streams: list[Stream] = []

    def fault(self, page: Page) -> int | None:
        """Pin the page; its signature, which changes whenever its content was lost."""
        if self.pages == "evicted":
            return None
        if not page.there:
            page.there, page.signature = True, page.signature + 1
        page.pins += 1
        return page.signature

    def unpin(self, page: Page) -> None:
        page.pins -= 1
        assert page.pins >= 0, "a page was unpinned twice"
        changing = self.pages == "changing" and page.pins == 0
        if changing and float(torch.rand((), generator=self._random)) < 0.5:
            page.there = False
            page.lose()
            self.lost += 1

    def next_stream(self, device: Any) -> Stream | None:
        self._streams.append(self._streams.pop(0))
        self._streams[0].lose()
        return self._streams[0]

    def prepare(self, size: int) -> None:
        """Two streams whose buffers hold the largest layer."""
        self._streams = [Stream(size) for _ in range(2)]


@contextmanager
def dynamic_vram(*modules: torch.nn.Module, pages: str, smallest: int = 0) -> Iterator[Card]:
    """Let every layer of ``modules`` be handed its weights as on a card, while this lasts.

    ``smallest``: bytes of a layer's weight from which on it has a page (16 KiB on a card; 0 here,
    so that norms go the same way). LoRAs: set the layer's ``weight_lowvram_function`` before.
    """
    card = Card(pages)
    layers = [
        layer
        for module in modules
        for layer in module.modules()
        if hasattr(layer, "comfy_cast_weights") and getattr(layer, "weight", None) is not None
    ]
    before = [(layer, dict(layer.__dict__)) for layer in layers]
    with pytest.MonkeyPatch.context() as patched:
        sizes = [_prepare(layer, smallest) for layer in layers]
        card.prepare(4 * max(sizes) + 4096)
        _patch(patched, card)
        try:
            yield card
        finally:
            for layer, attributes in before:
                for name in _ATTRIBUTES:
                    layer.__dict__.pop(name, None)
                    if name in attributes:
                        layer.__dict__[name] = attributes[name]


def _prepare(layer: Any, smallest: int) -> int:
    """What ``ModelPatcherDynamic.load`` does to a layer; the bytes that its weights take."""
    import comfy.memory_management as memory

    layer.comfy_cast_weights = True
    layer.weight_function, layer.bias_function = [], []
    for name in ("weight", "bias"):
        if getattr(layer, f"{name}_lowvram_function", None) is None:
            setattr(layer, f"{name}_lowvram_function", None)
    layer._v_signature, layer.seed_key = None, "layer"
    geometry = memory.tensors_to_geometries([layer.weight, layer.bias])
    size = memory.vram_aligned_size(geometry)
    if size > smallest:
        layer._v = Page(size)
    return size


def _patch(patched: pytest.MonkeyPatch, card: Card) -> None:
    import comfy.model_management as management
    import comfy.ops as ops
    import comfy.pinned_memory as pinned
    import comfy_aimdo.model_vbar as vbar
    import comfy_aimdo.torch as places

    plain = ops.cast_bias_weight

    def tensor_on(place: Any, device: Any) -> Tensor:
        if isinstance(place, Page):
            return place.view(0, len(place.bytes))
        stream, offset, size = place
        return stream.view(offset, size)

    def cast(
        s: Any, input: Any = None, dtype: Any = None, device: Any = None, bias_dtype: Any = None,
        offloadable: bool = False, compute_dtype: Any = None, want_requant: bool = False,
    ) -> Any:  # fmt: skip
        if not isinstance(getattr(s, "_v", None), Page):
            return plain(
                s, input, dtype, device, bias_dtype, offloadable, compute_dtype, want_requant
            )
        dtype = dtype or input.dtype
        device, bias_dtype = device or input.device, bias_dtype or dtype
        card.faults += 1
        stream = ops.cast_modules_with_vbar([s], dtype, device, bias_dtype, False)
        weight, bias = ops.resolve_cast_module_with_vbar(
            s, dtype, device, bias_dtype, compute_dtype, want_requant
        )
        there = device if s._prefetch["signature"] is not None else None
        for name in ("weight", "bias"):
            patch = getattr(s, f"{name}_lowvram_function", None)
            if patch is not None:
                patch.clear_prepared()
        del s._prefetch
        return (weight, bias, (stream, there, None)) if offloadable else (weight, bias)

    patched.setattr(ops, "cast_bias_weight", cast)
    patched.setattr(vbar, "vbar_fault", card.fault)
    patched.setattr(vbar, "vbar_unpin", card.unpin)
    patched.setattr(vbar, "vbar_signature_compare", lambda a, b: a is not None and a == b)
    patched.setattr(places, "aimdo_to_tensor", tensor_on)
    patched.setattr(management, "get_offload_stream", card.next_stream)
    patched.setattr(management, "get_aimdo_cast_buffer", lambda stream, device: stream)
    patched.setattr(management, "sync_stream", lambda *_: None)
    patched.setattr(pinned, "get_pin", lambda *_, **__: None)
    patched.setattr(pinned, "pin_memory", lambda *_, **__: None)
