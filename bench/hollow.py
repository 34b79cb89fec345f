"""Count what a run costs without paying for it: hollow runs, and what autograd keeps.

A hollow run is the real run of the host's sampler and of this pack's guider, on networks of true
size, in which only the heavy operations (matrix products, convolutions, fused attention, and their
backwards) are counted and not computed: each gives zeros of the right shape. So weights are never
read, and a network of 10 GiB costs neither memory nor time. Counting is torch's own FlopCounterMode
(2 FLOPs per multiply-add; products, convolutions and attention only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_aten = torch.ops.aten


def _as_registered(formula: Callable[..., int]) -> Callable[..., int]:
    """One of the registry's formulas, marked as one that takes tensors and need not be wrapped."""

    def count(*args: Any, **kwargs: Any) -> int:
        return formula(*args, **kwargs)

    count._get_raw = True  # type: ignore[attr-defined]
    return count


# The CPU's fused attention is counted by torch's own formulas for the GPU's: it does the same work
# under another name that the registry does not list.
CPU_ATTENTION: dict[Any, Any] = {
    getattr(_aten, f"{name}_for_cpu{way}"): _as_registered(
        flop_registry[getattr(_aten, f"{name}{way}")]
    )
    for name in ("_scaled_dot_product_flash_attention",)
    for way in ("", "_backward")
}
LARGEST = 2**17
"""Elements of the largest tensor that is not a network's inside: two latents of SDXL."""
HEAVY = frozenset(flop_registry) | frozenset(CPU_ATTENTION)


class _NoModules:
    """Stands in for FlopCounterMode's module tracker, which a forward that is left half-way, as
    the probe's is, would confuse, and whose hooks would take part in the graph."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FlopCount(FlopCounterMode):
    """torch's FlopCounterMode without a table by modules, with the CPU's fused attention."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=CPU_ATTENTION)
        self.mod_tracker = _NoModules()  # type: ignore[assignment]


class Hollow(TorchDispatchMode):
    """Heavy operations give zeros of the right shape instead of being computed.

    To be entered before a FlopCount, which takes composite operations apart. Operations that are
    not counted are computed, except on tensors of more than ``largest`` elements: those are
    activations of a network of true size, which nothing but the network reads, and they stay
    unwritten memory.
    """

    def __init__(self, largest: float = LARGEST) -> None:
        super().__init__()
        self._largest = largest
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        heavy = func._overloadpacket in HEAVY
        if not heavy:
            if not self._is_large((args, kwargs)):
                return func(*args, **kwargs)
            if _writes_to_first(func) and self._is_large(args[0]):
                return args[0]
            if not _makes_tensors(func):
                return func(*args, **kwargs)
        shells = self._shells(func, args, kwargs)
        if heavy or self._is_large(shells):
            return tree_map_only(Tensor, self._unwritten, shells)
        return func(*args, **kwargs)

    def _is_large(self, values: Any) -> bool:
        return any(isinstance(v, Tensor) and v.numel() > self._largest for v in tree_leaves(values))

    def _shells(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operation would give, on the meta device."""
        described = tree_map_only(Tensor, _described, (args, kwargs))
        key = (func, repr(described))
        if key not in self._known:
            plain, named = tree_map_only(Tensor, _shell, (args, kwargs))
            named = tree_map_only(torch.device, lambda _: torch.device("meta"), named)
            self._known[key] = func(*plain, **named)
        return self._known[key]

    def _unwritten(self, shell: Tensor) -> Tensor:
        out = torch.empty_strided(shell.shape, shell.stride(), dtype=shell.dtype)
        return out if shell.numel() > self._largest else out.zero_()


def _described(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _shell(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@cache
def _writes_to_first(func: Any) -> bool:
    """Whether the operation changes its first argument and gives it back: ``x += y``."""
    alias = func._schema.arguments[0].alias_info if func._schema.arguments else None
    return alias is not None and alias.is_write and len(func._schema.returns) == 1


@cache
def _makes_tensors(func: Any) -> bool:
    """Whether the operation gives new tensors, neither views nor plain numbers."""
    schema = func._schema
    return (
        not schema.is_mutable
        and bool(schema.returns)
        and all(r.alias_info is None and "Tensor" in str(r.type) for r in schema.returns)
    )


@contextmanager
def counted(hollow: bool = True, largest: float = LARGEST) -> Iterator[FlopCount]:
    """Count FLOPs while the block runs; ``hollow``: without computing what is counted."""
    with ExitStack() as stack:
        if hollow:
            stack.enter_context(Hollow(largest))
        yield stack.enter_context(FlopCount())


@dataclass
class Kept:
    """Activations that were kept for backward passes.

    ``saved``: bytes of the distinct storages that autograd was given to save and that were alive
    when each backward began, weights left out. ``alive``: bytes of everything that was made during
    the run and was alive then, however it was held (a checkpoint's inputs, for instance, are not
    told to autograd's hooks). One number per backward pass.
    """

    saved: list[int] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)


class _Births(TorchDispatchMode):
    """Weak references to the storage of everything that operations make."""

    def __init__(self, weights: Set[int]) -> None:
        super().__init__()
        self.born: dict[int, tuple[StorageWeakRef, int]] = {}
        self._weights = weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                _note(self.born, tensor, self._weights)
        return out


@dataclass
class Peak:
    """Most bytes at once of all that was made during a run, weights left out."""

    bytes: int = 0


class _Watch(_Births):
    """Looks after every operation at what is alive; an operation's own scratch is not seen."""

    def __init__(self, weights: Set[int], peak: Peak) -> None:
        super().__init__(weights)
        self._peak = peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not _is_view(func):
            self._peak.bytes = max(self._peak.bytes, _living_bytes(self.born))
        return out


@cache
def _is_view(func: Any) -> bool:
    """Whether the operation makes nothing that takes memory."""
    return all(r.alias_info is not None for r in func._schema.returns)


@contextmanager
def peak_memory(modules: Iterable[torch.nn.Module]) -> Iterator[Peak]:
    """Measure the peak of activations, gradients and cast weights while the block runs.

    ``modules`` hold the weights as they are stored.
    """
    peak = Peak()
    with _Watch(_storages(modules), peak):
        yield peak


def _storages(modules: Iterable[torch.nn.Module]) -> set[int]:
    return {
        tensor.untyped_storage().data_ptr()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }


def _note(store: dict[int, tuple[StorageWeakRef, int]], tensor: Tensor, weights: Set[int]) -> None:
    storage = tensor.untyped_storage()
    if storage.data_ptr() in weights:
        return
    reference = StorageWeakRef(storage)
    if reference.cdata not in store:
        store[reference.cdata] = (reference, storage.nbytes())


def _living_bytes(store: dict[int, tuple[StorageWeakRef, int]]) -> int:
    """Bytes of what is still held by somebody; the rest is forgotten."""
    for key in [key for key, (reference, _) in store.items() if reference.expired()]:
        del store[key]
    return sum(size for _, size in store.values())


@contextmanager
def kept_activations(modules: Iterable[torch.nn.Module]) -> Iterator[Kept]:
    """Measure what is kept for every backward pass (``torch.autograd.grad`` or ``backward``) while
    the block runs.

    ``modules`` hold the weights. Hooks of the code under measurement stay in force; what they
    make of a tensor is what counts.
    """
    weights = _storages(modules)
    kept, births = Kept(), _Births(weights)
    saved: dict[int, tuple[StorageWeakRef, int]] = {}
    original_hooks = torch.autograd.graph.saved_tensors_hooks
    original_grad, original_backward = torch.autograd.grad, torch.autograd.backward

    def noted(value: Any) -> Any:
        if isinstance(value, Tensor):
            _note(saved, value, weights)
        return value

    class Hooks(original_hooks):
        # only the innermost pair of hooks is asked, so that theirs must also tell ours
        def __init__(self, pack: Any, unpack: Any) -> None:
            super().__init__(lambda tensor: noted(pack(tensor)), unpack)

    def beginning(way: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            kept.saved.append(_living_bytes(saved))
            kept.alive.append(_living_bytes(births.born))
            return way(*args, **kwargs)

        return run

    torch.autograd.graph.saved_tensors_hooks = Hooks  # type: ignore[misc]
    torch.autograd.grad = beginning(original_grad)
    # what Tensor.backward calls
    torch.autograd.backward = beginning(original_backward)
    try:
        with original_hooks(noted, lambda value: value), births:
            yield kept
    finally:
        torch.autograd.graph.saved_tensors_hooks = original_hooks  # type: ignore[misc]
        torch.autograd.grad = original_grad
        torch.autograd.backward = original_backward
