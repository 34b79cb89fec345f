"""What a ComfyUI server answers, read within bounds and taken for nothing that it is not."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from ..balancer.values.foreign_json import parse_json
from .errors import RowError, one_line, shown
from .messages import failed_node
from .pictures import LARGEST_FILE
from .table import broken_json

if TYPE_CHECKING:
    import aiohttp

ANSWER_SECONDS = 60.0
LARGEST_ANSWER = 1 << 28
"""Bytes of JSON: the queue holds all waiting workflows, the descriptions all nodes."""
LARGEST_MESSAGE = 1 << 26
"""Bytes of a message on the websocket; the largest are previews."""
PIECE = 1 << 16
AWAY = {502, 503, 504}
"""What a proxy answers for a server that is not there."""
DEEPEST = 256
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What a server may call a row: it becomes a part of an address."""
PAGES = {".htm", ".html", ".xhtml"}
ASK_AGAIN_SECONDS = 0.5
MOST_TIMES = 3
"""So often one answer is requested that is not as a ComfyUI's: a server may be short of breath."""

_Answer = TypeVar("_Answer")


class Lost(Exception):
    """The server does not answer any more, or does not know of the row."""


class Odd(Exception):
    """The server answers, but not as a ComfyUI does. The message is the end of a sentence."""


async def body(answer: aiohttp.ClientResponse, most: int = LARGEST_ANSWER) -> bytes:
    """An answer's bytes. Raises ``Odd`` for more than ``most`` of them, before they are read."""
    said = answer.content_length
    if said is not None and said > most:
        raise Odd(f"answers {said} bytes, and up to {most} are read")
    read = bytearray()
    async for piece in answer.content.iter_chunked(PIECE):
        read += piece
        if len(read) > most:
            raise Odd(f"answers more than {most} bytes")
    return bytes(read)


def check(answer: aiohttp.ClientResponse) -> None:
    """Raise ``Lost`` for a proxy that has no server behind it, ``Odd`` for any other refusal."""
    status = answer.status
    if status in AWAY:
        raise Lost(f"the proxy before it answers {status} {one_line(answer.reason or '')}")
    if 300 <= status < 400:
        there = answer.headers.get("Location", "")
        raise Odd(f"sends one on to {shown(there, 120)}: name that address, if it is meant")
    if status >= 400:
        raise Odd(f"answers {status} {one_line(answer.reason or '')}".rstrip())


async def get_json(session: aiohttp.ClientSession, url: str) -> Any:
    """The JSON at ``url``; redirections are not followed. Raises ``Odd`` and ``Lost``."""
    async with session.get(url, allow_redirects=False) as answer:
        check(answer)
        read = await body(answer)
    try:
        return await asyncio.to_thread(
            parse_json, read, longest=LARGEST_ANSWER, deepest=DEEPEST, finite=False
        )
    except ValueError as error:
        raise Odd(f"gives an answer that {broken_json(error)}") from None


async def get_info(session: aiohttp.ClientSession, url: str, names: Iterable[str]) -> Any:
    """The descriptions of a server's node classes, of all or, where another pack's cannot be read
    (a limit of 30 digits), of ``names`` alone. Raises as ``get_json``."""
    try:
        return await get_json(session, f"{url}/object_info")
    except Odd:
        found: dict[str, Any] = {}
        for name in {*names, "KSampler"}:
            try:
                one = await get_json(session, f"{url}/object_info/{quote(name, safe='')}")
            except Odd:
                one = None
            found |= one if isinstance(one, dict) else {}
        if "KSampler" not in found:
            raise
        return found


async def get_file(
    session: aiohttp.ClientSession, url: str, params: Mapping[str, str], suffix: str
) -> bytes:
    """A file from ``/view``. Raises ``RowError`` if the server does not have it, ``Odd`` if what
    it gives is none."""
    name = params["filename"]
    async with session.get(f"{url}/view", params=params, allow_redirects=False) as answer:
        if answer.status == 404:
            raise RowError(f"the server does not give out {shown(name)}", again=True)
        try:
            check(answer)
        except Odd as error:
            raise Odd(f"{error} when it is asked for {shown(name)}") from None
        if answer.content_type == "text/html" and suffix not in PAGES:
            raise Odd(f"gives a web page for {shown(name)}")
        return await body(answer, LARGEST_FILE)


def message_of(text: str) -> tuple[str, str, dict[str, Any]] | None:
    """(kind, row, data) of a message on the websocket, or None for what is none."""
    try:
        value = parse_json(text, longest=LARGEST_MESSAGE, deepest=DEEPEST, finite=False)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return None
    data = value.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("prompt_id"), str):
        return None
    return value["type"], data["prompt_id"], data


def queued_rows(queue: Any) -> tuple[set[str], set[str]]:
    """Names of the rows that run, and of all, in an answer of ``/queue``. Raises ``Odd``."""
    parts = []
    for part in ("queue_running", "queue_pending"):
        entries = queue.get(part) if isinstance(queue, dict) else None
        if not isinstance(entries, list):
            raise Odd("has a queue that is none")
        parts.append({
            one[1] for one in entries
            if isinstance(one, list) and len(one) > 1 and isinstance(one[1], str)
        })  # fmt: skip
    return parts[0], parts[0] | parts[1]


def entry_of(history: Any, prompt: str) -> dict[str, Any] | None:
    """A row's outputs from an answer of ``/history``, None if it is not there yet.

    Raises ``RowError`` if its messages tell of a failure, ``Odd`` for what is no history.
    """
    if not isinstance(history, dict):
        raise Odd("has a history that is none")
    if prompt not in history:
        return None
    entry = history[prompt]
    if not isinstance(entry, dict):
        raise Odd("has a row in its history that is none")
    status = entry.get("status")
    messages = status.get("messages") if isinstance(status, dict) else None
    for one in messages if isinstance(messages, list) else ():
        if isinstance(one, list) and len(one) == 2 and one[0] in (
            "execution_error", "execution_interrupted"
        ):  # fmt: skip
            raise RowError(failed_node(one[0], one[1]))
    outputs = entry.get("outputs")
    if not isinstance(outputs, dict):
        raise Odd("has a row without outputs in its history")
    return outputs


def why(error: BaseException) -> str:
    """What came instead of an answer."""
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    cause = getattr(error, "os_error", error)  # aiohttp's own text names the address once more
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 100:  # a handshake that was answered otherwise
        return f"it answers {status}"
    return one_line(error) or type(error).__name__


async def patiently(request: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """What ``request`` gives; an answer that is not as a ComfyUI's, or was cut off, is requested
    ``MOST_TIMES`` times. Raises ``Odd``, and whatever says that the server is away."""
    import aiohttp

    for left in reversed(range(MOST_TIMES)):
        try:
            return await request()
        except aiohttp.ClientPayloadError as error:
            if not left:
                raise Odd(f"breaks off its answer ({one_line(error)})") from None
        except Odd:
            if not left:
                raise
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    raise AssertionError("unreachable")


def read_object(said: bytes) -> dict[str, Any]:
    """The JSON object in an answer's bytes; an empty one where there is none."""
    try:
        value = parse_json(said, deepest=DEEPEST, finite=False)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
