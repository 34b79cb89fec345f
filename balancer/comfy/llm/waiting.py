"""Wait for the network in a node that the host's stop button can still reach."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import comfy.model_management

T = TypeVar("T")
_POLL = 0.05
"""Seconds between two looks at the stop button."""


def run_interruptible(
    work: Callable[[], Coroutine[Any, Any, T]],
    interrupted: Callable[[], bool] = comfy.model_management.processing_interrupted,
) -> T:
    """The result of ``work``, run in an event loop of its own; its exceptions are raised here.

    The host calls nodes inside a running event loop, so that the work gets a thread. When
    ``interrupted`` turns true, the work is cancelled and the host's own exception for a stopped
    run is raised (or RuntimeError, if the flag was somebody else's).
    """
    done = threading.Event()
    outcome: dict[str, Any] = {}
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())

    def serve() -> None:
        asyncio.set_event_loop(loop)
        try:
            outcome["value"] = loop.run_until_complete(task)
        except BaseException as error:  # noqa: B036 - a cancelled task counts, too
            outcome["error"] = error
        finally:
            done.set()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    # A daemon: a name server that does not answer must not keep the host from ending.
    thread = threading.Thread(target=serve, name="realcompo-network", daemon=True)
    thread.start()
    while not done.wait(_POLL):
        if interrupted():
            loop.call_soon_threadsafe(task.cancel)
            done.wait(2.0)
            comfy.model_management.throw_exception_if_processing_interrupted()
            raise RuntimeError("the wait was interrupted")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
