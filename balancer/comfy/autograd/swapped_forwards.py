"""Other forwards for some layers, for as long as a pass lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module

Forward = Callable[..., Tensor]


@contextmanager
def other_forwards(exchanged: Iterable[tuple[Module, Forward]]) -> Iterator[None]:
    """Let each layer run the forward beside it; in every case the one that was there comes back.

    Another pack's own override of a layer, or an outer use of this, is such a one.
    """
    stored: list[tuple[Module, Any]] = []
    try:
        for layer, forward in exchanged:
            stored.append((layer, layer.__dict__.get("forward")))
            layer.forward = forward
        yield
    finally:
        for layer, before in reversed(stored):
            if before is None:
                del layer.__dict__["forward"]
            else:
                layer.forward = before
