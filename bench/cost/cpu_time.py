"""Seconds against FLOPs, and the balancer's own share of a step; in CPU time of one thread.

CPU time (``time.process_time``) instead of the clock's, because other programs on the machine do
not count in it. Both parts run on networks that can really be computed.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import comfy.samplers
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...balancer.attention.losses import realcompo_loss
from ...balancer.attention.maps import RegionMaps, inside_share, token_weights
from ...balancer.layouts.grid import region_grid
from .. import true_models as true
from ..hollow import Hollow, counted
from .networks import Pair, grounded_pair, steady_host
from .official import PROCEDURES
from .runs import PAPER, make, measure, sample

STEPS = 2
"""Steps of a timed run; with two of them every phase of a method occurs."""
Label = str
# operations that start no kernel on a graphics card
_FREE = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_strided", "empty_like", "set_", "item", "_local_scalar_dense",
                 "lift_fresh", "detach", "detach_", "scalar_tensor")
}  # fmt: skip


def timed_pair(quick: bool = False) -> Pair:
    """SD1.5's topology and GLIGEN with a tenth of the channels, on latents of 32x32; ``quick``: a
    residual block per level and 8x8."""
    if quick:
        return grounded_pair(true.small(true.SD15, 32, 32), 8, torch.float32, seed=1)
    return grounded_pair(true.narrow(true.SD15, 32, 128), 32, torch.float32, seed=1)


def _runner(pair: Pair, method: str, steps: int) -> Callable[[], Any]:
    if method in PROCEDURES:
        # its step count must divide the training timesteps; the first steps of such a run
        return lambda: PROCEDURES[method](pair).sample(10 * steps, steps)
    one = make(pair, method)
    return lambda: sample(one, pair, steps)


def _flops(pair: Pair, method: str, steps: int) -> int:
    if method not in PROCEDURES:
        run = measure(pair, method, steps)
        return sum(step.flops for step in run.steps)
    with steady_host(), counted() as count:
        PROCEDURES[method](pair).sample(10 * steps, steps)
        return count.get_total_flops()


@dataclass
class Timing:
    """CPU seconds of every method in every repetition, and its FLOPs, on one pair."""

    seconds: dict[str, list[float]]
    flops: dict[str, int]

    def known(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of ``pairs`` whose methods were both timed."""
        return [pair for pair in pairs if set(pair) <= set(self.seconds)]

    def times(self, method: str, other: str) -> float:
        """Median over repetitions of the ratio of two methods' CPU times."""
        pairs = zip(self.seconds[method], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def work(self, method: str, other: str) -> float:
        """The same ratio in FLOPs."""
        return self.flops[method] / self.flops[other]

    def excess(self, method: str, other: str) -> float:
        """How far the time ratio is from the FLOP ratio, as a share of it, with its sign."""
        return self.times(method, other) / self.work(method, other) - 1.0


def timing(pair: Pair, methods: Sequence[str], repetitions: int, steps: int = STEPS) -> Timing:
    """Run every method in turns, ``repetitions`` times.

    The order is turned round every time, so that a machine that slows down hits both sides of a
    ratio.
    """
    runners = {method: _runner(pair, method, steps) for method in methods}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    with steady_host():
        runners[methods[0]]()
        for number in range(repetitions):
            for method in methods if number % 2 == 0 else reversed(methods):
                began = time.process_time()
                runners[method]()
                seconds[method].append(time.process_time() - began)
    return Timing(seconds, {method: _flops(pair, method, steps) for method in methods})


@dataclass
class Ledger:
    """Charges CPU time, and the number of tensor operations, to whoever is at work."""

    seconds: dict[Label, float] = field(default_factory=lambda: defaultdict(float))
    operations: Counter[Label] = field(default_factory=Counter)
    _stack: list[Label] = field(default_factory=lambda: ["other"])
    _since: float = 0.0

    @property
    def label(self) -> Label:
        """Who is at work."""
        return self._stack[-1]

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    @contextmanager
    def at(self, label: Label) -> Iterator[None]:
        """Everything until the block's end is ``label``'s, except what is others' inside it."""
        self._charge()
        self._stack.append(label)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def charging(self, label: Label, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, charged to ``label``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.at(label):
                return function(*args, **kwargs)

        return run


@cache
def _launches(func: Any) -> bool:
    """Whether an operation is work for a device: neither a view nor bookkeeping."""
    returns = func._schema.returns
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return not views and func._overloadpacket not in _FREE


class _Operations(TorchDispatchMode):
    """Counts tensor operations for a ledger: on a graphics card each is about one launch."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _launches(func):
            self._ledger.operations[self._ledger.label] += 1
        return func(*args, **(kwargs or {}))


def _charged(pair: Pair, method: str, operations: bool) -> list[Ledger]:
    """One ledger per step: what ran in the networks, in the host's own step, and in between."""
    one = make(pair, method)
    ledger = Ledger()
    steps: list[Ledger] = []
    predict = one.predict_noise

    def step(*args: Any, **kwargs: Any) -> Tensor:
        ledger.seconds.clear()
        ledger.operations.clear()
        with ledger.at("balancer"):
            out = predict(*args, **kwargs)
        steps.append(Ledger(defaultdict(float, ledger.seconds), Counter(ledger.operations)))
        return out

    one.predict_noise = step
    targets: list[tuple[Any, str, Label]] = [
        (comfy.samplers, "sampling_function", "host"),
        (torch.autograd, "grad", "network"),
        (RegionMaps, "add", "balancer"),
        *((network, "forward", "network") for network in pair.networks),
    ]
    with ExitStack() as stack:
        stack.enter_context(steady_host())
        for owner, name, label in targets:
            function = getattr(owner, name)
            if owner is RegionMaps:
                replacement: Any = _method(ledger, function)
            else:
                replacement = ledger.charging(label, function)
            stack.enter_context(mock.patch.object(owner, name, replacement))
        if operations:
            # their number is the same, and the networks need not be waited for
            stack.enter_context(Hollow())
            stack.enter_context(_Operations(ledger))
        sample(one, pair, 3)
    return [
        ledger for ledger, record in zip(steps, one.trace.steps, strict=True)
        if record.phase == "balance"
    ]  # fmt: skip


def _method(ledger: Ledger, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *args: Any) -> Any:
        with ledger.at("balancer"):
            return function(self, *args)

    return run


def _loss_backward(regions: int, sites: int = 5, heads: int = 8, side: int = 16) -> float:
    """CPU seconds of the backward from the loss to one model's maps, apart from the network's."""
    from .networks import layout

    plan = layout(regions)
    weights = token_weights([region.tokens or () for region in plan.regions], 77)
    grid = region_grid(plan, side, side)
    maps = [torch.rand(1, heads, side * side, 77, requires_grad=True) for _ in range(sites)]
    seconds = []
    for _ in range(9):
        gathered = RegionMaps(weights)
        for one in maps:
            gathered.add(one, side, side)
        loss = realcompo_loss(inside_share(gathered.mean(), grid)).sum()
        began = time.process_time()
        torch.autograd.grad(loss, maps)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def product_rate(side: int = 1536) -> float:
    """FLOPs per CPU second of a large matrix product: no network runs faster than that here."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    rates = []
    for _ in range(5):
        began = time.process_time()
        torch.mm(a, b)
        rates.append(2 * side**3 / (time.process_time() - began))
    return max(rates)


@dataclass
class Share:
    """The balancer's own work in a balanced step.

    ``seconds``: CPU time outside the networks' passes and the host's own predictions, with the
    backward of the loss down to the maps; ``network_seconds``: the passes of a step of true size at
    the rate of a large matrix product; ``operations``: tensor operations of the balancer and of
    the networks.
    """

    seconds: float
    network_seconds: float
    rate: float
    operations: dict[str, int]

    @property
    def value(self) -> float:
        """The share of the step."""
        return self.seconds / (self.seconds + self.network_seconds)


def balancer_share(regions: int, step_flops: int, quick: bool = False) -> Share:
    """Measure ``Share`` with ``regions`` regions.

    The networks are narrow, since their time is not asked; latents and maps are SD1.5's at 512 px
    (5 sites, 8 heads, 16x16 cells, 77 tokens; ``quick``: fewer and smaller). ``step_flops``: FLOPs
    of a step of true size.
    """
    shrink = true.small if quick else true.narrow
    kind, size = shrink(true.SD15, 32, 32), 16 if quick else 64
    pair = grounded_pair(kind, size, torch.float32, seed=1, regions=regions)
    steps = _charged(pair, PAPER, operations=False)
    own = statistics.median(step.seconds["balancer"] for step in steps)
    rate = product_rate()
    operations = _charged(pair, PAPER, operations=True)[-1].operations
    return Share(
        own + 2 * _loss_backward(regions), step_flops / rate, rate,
        {label: operations[label] for label in ("balancer", "host", "network")},
    )  # fmt: skip
