"""Send the steps of a run to the page that started it, while somebody looks."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from ...layouts.layout import Layout
from ...realcompo.live import region_messages, step_message
from ...realcompo.trace import StepRecord

EVENT = "realcompo.progress"


def prompt_server() -> Any | None:
    """The host's running server, or None in a script or a test.

    Its module is never imported from here: only a host that serves has done so.
    """
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def display_node(node: str) -> str:
    """The node of the user's graph that stands for ``node``, which another may have made."""
    registry = getattr(sys.modules.get("comfy_execution.progress"), "get_progress_state", None)
    if registry is None:  # a host of before mid-2025
        return node
    prompt = getattr(registry(), "dynprompt", None)
    return node if prompt is None else str(prompt.get_display_node_id(node))


class LiveReporter:
    """One run as a page sees it; costs two look-ups a step while nobody listens.

    ``node`` is the id of the node that shows the run (None: none does), ``layout`` that of the
    first sample, ``steps`` the number of outer steps.
    """

    def __init__(self, node: str | None, layout: Layout, steps: int) -> None:
        self._node, self._layout, self._steps = node, layout, steps
        self._server = None if node is None else prompt_server()
        self._head: dict[str, Any] | None = None

    def listener(self) -> str | None:
        """Client id of the page that started the run, if its connection stands."""
        client = getattr(self._server, "client_id", None)
        return client if client in getattr(self._server, "sockets", ()) else None

    def show(self, record: StepRecord) -> None:
        """Send one step; nothing at all is computed or moved while nobody listens."""
        client = self.listener() if self._server is not None else None
        if client is None or self._server is None or self._node is None:
            return
        if self._head is None:
            self._head = {
                "node": display_node(self._node), "run": uuid.uuid4().hex, "steps": self._steps,
                "regions": region_messages(self._layout),
            }  # fmt: skip
        message = step_message(record, len(self._layout.regions))
        # a page that was loaded anew meanwhile knows nothing of the run, so that all is in each
        height, width = record.mix.shape[-2:]
        size = {"width": int(width), "height": int(height)}
        self._server.send_sync(EVENT, {**self._head, **size, **message}, client)
