"""One JSON request to one server: retries, limits, and a guarded key."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import aiohttp
import aiohttp.abc
from yarl import URL

from ...errors import RealCompoError, shown
from ...llm.endpoint import Endpoint
from ...llm.hosts import is_local_address
from ...llm.redaction import without_key
from ...values.foreign_json import parse_json

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; every further pause is twice as long."""
LARGEST = 2 << 20
"""Longest reply that is read, in bytes."""
LONGEST_PAUSE = 30.0
"""Seconds that a server may ask to wait; a longer wish is told to the user instead."""
_BUSY = {408, 425, 429, 500, 502, 503, 504, 529}


class _NeighboursOnly(aiohttp.abc.AbstractResolver):
    """Names resolve to addresses of this network, or not at all.

    A name says nothing about who answers to it: 'pc.local' may be resolved by a stranger's network,
    and a name server may point any name anywhere.
    """

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> Any:
        found = await self._inner.resolve(host, port, family)
        near = [entry for entry in found if is_local_address(entry["host"])]
        if found and not near:
            raise RealCompoError(
                "endpoint",
                f"'{host}' leads out of this network, where a key would travel unencrypted or to"
                " a stranger",
                "Use an https address, or the machine's own address, such as 192.168.0.2",
            )
        return near

    async def close(self) -> None:
        await self._inner.close()


@dataclass(frozen=True)
class Reply:
    """What a server sent; ``pause`` is how many seconds it asks to wait, if it does."""

    status: int
    kind: str
    text: str
    pause: float | None
    location: str


def _pause(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


@dataclass
class Connection:
    """The way to one ``endpoint``. ``timeout`` is in seconds and for each attempt.

    ``key`` goes into the header of requests to ``endpoint`` and nowhere else.
    """

    endpoint: Endpoint
    timeout: float
    key: str = field(default="", repr=False)

    def session(self) -> aiohttp.ClientSession:
        """No cookies, no environment proxies and no .netrc: only our requests, to this host."""
        if URL(self.endpoint.url).raw_host != self.endpoint.name:
            raise self.wrong("the address reads as two different hosts")
        near = _NeighboursOnly() if self.key and self.endpoint.stays_local else None
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=near),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def send(
        self, session: aiohttp.ClientSession, body: dict[str, Any],
        is_final: Callable[[Reply], bool],
    ) -> Reply:
        """One reply, after as many attempts as a busy or absent server may need.

        ``is_final`` says of a busy server's reply that to ask again is of no use. Raises
        RealCompoError for inputs 'endpoint' and 'timeout'.
        """
        for attempt in range(1, ATTEMPTS + 1):
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            try:
                reply = await self._post(session, body)
            except RealCompoError:
                raise
            except asyncio.TimeoutError:
                raise RealCompoError(
                    "timeout",
                    f"{self.endpoint.host} gave no answer within {self.timeout:g} seconds",
                    "Raise 'timeout', or use a smaller model",
                ) from None
            except aiohttp.ClientSSLError:
                raise self.wrong("the server's certificate or encryption is not valid") from None
            except aiohttp.ClientConnectionError:
                if attempt == ATTEMPTS:
                    raise self.wrong("no connection to the server") from None
            except (aiohttp.ClientError, ValueError):
                raise self.wrong("the server does not speak HTTP as it should") from None
            else:
                if reply.status not in _BUSY or is_final(reply):
                    return reply
                if attempt == ATTEMPTS or (reply.pause or 0.0) > LONGEST_PAUSE:
                    raise self._busy(reply)
                pause = max(pause, reply.pause or 0.0)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Reply:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        async with session.post(
            self.endpoint.url, json=body, headers=headers, allow_redirects=False
        ) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > LARGEST:
                    raise self.wrong(f"the reply is longer than {LARGEST >> 20} MB")
            reply = Reply(
                response.status,
                self.clean(response.headers.get("Content-Type", "").partition(";")[0]),
                data.decode("utf-8", errors="replace"),  # cleaned where it is decoded further
                _pause(response.headers.get("Retry-After")),
                response.headers.get("Location", ""),
            )
        if 300 <= reply.status < 400:
            raise self._redirected(reply)
        return reply

    def clean(self, text: str) -> str:
        """``text`` without the key in any spelling; before it is cut, which could leave a part."""
        return without_key(text, self.key)

    def wrong(self, problem: str) -> RealCompoError:
        """An error for input 'endpoint'."""
        return RealCompoError(
            "endpoint",
            f"{problem} ({self.endpoint.without_query})",
            "Check that this is the address of a running OpenAI-compatible server",
        )

    def _redirected(self, reply: Reply) -> RealCompoError:
        target = urljoin(self.endpoint.url, reply.location)
        where_to = "to another address of its own" if self.endpoint.same_origin(target) else (
            "to another host or protocol, and keys and prompts do not follow there"
        )  # fmt: skip
        return self.wrong(f"the server redirects (status {reply.status}) {where_to}")

    def said(self, reply: Reply) -> str:
        """The server's own words about an error, one line."""
        words: Any = reply.text
        try:
            value = parse_json(reply.text, finite=False)
            inner = value.get("error", value.get("detail", value.get("message")))
            words = inner.get("message", inner) if isinstance(inner, dict) else inner
        except (ValueError, AttributeError):
            words = "a web page" if reply.kind == "text/html" else reply.text
        text = self.clean(words if isinstance(words, str) else str(words))
        return shown(" ".join(text.split()), 200)

    def _busy(self, reply: Reply) -> RealCompoError:
        asks = f", and asks to wait {reply.pause:.0f} seconds" if reply.pause else ""
        return RealCompoError(
            "endpoint",
            f"{self.endpoint.host} is busy or failing: status {reply.status}{asks};"
            f" it says {self.said(reply)}",
            "Try again later, or use another server",
        )
