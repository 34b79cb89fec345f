"""What the pack's page asks the host's server: do these phrases stand in this prompt?

The page must not guess: a word that it marks as found is one that the sampler finds, because the
answer comes from the same tokenizer and the same matcher. Whoever reaches the host's port can ask,
so a question is counted before it is read, and reading and answering are done by one thread beside
the server's loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..errors import RealCompoError
from ..log import LOG
from ..values.foreign_json import read_json

MATCH = "/realcompo/match"
LARGEST_BODY = 1 << 20
"""Bytes of a question that are read."""
LONGEST_PHRASES = 8000
"""Characters of all different phrases of one question together: they are words of the prompt."""
MOST_WAITING = 8
"""Questions that are being answered or wait for their turn."""
_PIECE = 1 << 16


def _without_masks(regions: list[Any]) -> list[Any]:
    """``regions`` with boxes only: what stands in the prompt does not depend on a place."""
    return [
        {**region, "mask": None, "box": region.get("box") or [0, 0, 1, 1]}
        if isinstance(region, Mapping) and region.get("mask") is not None
        else region
        for region in regions
    ]


def match(value: object) -> dict[str, Any]:
    """Answer to one question: a layout's JSON value with its prompt, in ``describe_match``'s form.

    Masks are passed over. Raises RealCompoError for anything that is no layout, or is larger than
    any that is meant.
    """
    # Here and not above: this module is imported when the pack is registered.
    from ..attention.prompt_words import describe_match
    from ..layouts.layout import MOST_REGIONS, Layout

    if isinstance(value, Mapping) and isinstance(value.get("regions"), list):
        regions = value["regions"]
        if len(regions) <= MOST_REGIONS:  # more of them are refused below
            value = {**value, "regions": _without_masks(regions)}
    layout = Layout.from_dict(value)
    letters = sum(map(len, {region.phrase for region in layout.regions}))
    if letters > LONGEST_PHRASES:
        raise RealCompoError(
            "layout",
            f"its phrases have {letters} characters in all",
            f"Up to {LONGEST_PHRASES} are looked up",
        )
    from .text.tokenizer import encode_prompt

    try:
        return describe_match(layout, encode_prompt(layout.prompt), encode_prompt)
    except RealCompoError:
        raise
    except Exception as error:
        # The tokenizer opens the user's embedding files, and any of them may be broken.
        LOG.warning("RealCompo: the page's prompt cannot be read", exc_info=True)
        raise RealCompoError(
            "prompt",
            f"ComfyUI's tokenizer cannot read it ({type(error).__name__})",
            "Look at the textual embeddings that it names; the log says more",
        ) from None


def answer_text(body: bytes) -> str:
    """The answer to the question ``body`` (JSON), as JSON; RealCompoError as ``match``."""
    value = read_json(
        body, "layout", "the question", "Send a layout as JSON", longest=LARGEST_BODY
    )
    return json.dumps(match(value))


class Desk:
    """Answers questions one after the other, and refuses those that would wait too long."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._open = 0
        self._guard = threading.Lock()
        # One thread: the questions of one page come in a row, and the sampler needs the rest.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="realcompo-match")

    def put(self, work: Callable[..., Any], *given: Any) -> Future[Any] | None:
        """The result to come of ``work(*given)``; None if too many questions wait already."""
        with self._guard:
            if self._open >= self._most:
                return None
            self._open += 1
        try:
            future = self._worker.submit(work, *given)
        except RuntimeError:  # the host is shutting down
            self._done(None)
            return None
        # Not where it is awaited: a question whose page has gone is still being worked on.
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Any) -> None:
        with self._guard:
            self._open -= 1


async def _read(request: Any) -> bytes | None:
    """The request's body, or None as soon as it is known to be larger than LARGEST_BODY."""
    if (request.content_length or 0) > LARGEST_BODY:
        return None
    body = bytearray()
    async for piece in request.content.iter_chunked(_PIECE):
        body += piece
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def register() -> bool:
    """Add the route to the running server; False where there is none (a script, a test).

    The server module is never imported from here: only a host that serves has done so.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    routes = getattr(getattr(server, "instance", None), "routes", None)
    if routes is None:
        return False
    from aiohttp import web

    desk = Desk()

    def refusal(status: int, sentence: str) -> Any:
        answer = web.json_response({"error": sentence}, status=status)
        if status == 413:
            answer.force_close()  # the rest of the body is not waited for
        return answer

    @routes.post(MATCH)
    async def answer(request: Any) -> Any:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return refusal(415, "The question is compressed. Send it as plain JSON.")
        body = await _read(request)
        if body is None:
            return refusal(
                413, f"The question is too large. Up to {LARGEST_BODY >> 10} kB are read."
            )
        future = desk.put(answer_text, body)
        if future is None:
            return refusal(503, "Too many questions wait already. Ask again in a moment.")
        try:
            # Off the event loop: the first question loads the tokenizer.
            text = await asyncio.wrap_future(future)
        except RealCompoError as error:
            return refusal(400, str(error))
        return web.Response(text=text, content_type="application/json")

    return True
