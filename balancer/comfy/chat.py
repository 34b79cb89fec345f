"""Ask an OpenAI-compatible server for one answer: formats, retries, limits, and a guarded key."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import aiohttp
import aiohttp.abc
from yarl import URL

from ..endpoint import Endpoint
from ..errors import RealCompoError
from ..foreign_json import parse_json
from ..hosts import is_local_address
from ..planner import Message, answer_schema, quoted
from ..redaction import without_key
from .waiting import run_interruptible

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; every further pause is twice as long."""
LARGEST = 2 << 20
"""Longest reply that is read, in bytes."""
LONGEST_PAUSE = 30.0
"""Seconds that a server may ask to wait; a longer wish is told to the user instead."""
_BUSY = {408, 425, 429, 500, 502, 503, 504, 529}
_REFUSED = {400, 415, 422, 501}
_SEEDS = 1 << 31  # servers read 32-bit numbers
_FORMATS = ("a JSON schema", "JSON mode", "plain text")


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
class _Reply:
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


def _content(reply: _Reply) -> str:
    """The answer's text in a reply. Raises ValueError that says what is wrong with the reply."""
    try:
        value = parse_json(reply.text, finite=False)
    except ValueError:
        kind = reply.kind or "of no type"
        raise ValueError(f"the reply ({kind}) is no JSON that can be read") from None
    choices = value.get("choices") if isinstance(value, dict) else None
    message = choices[0].get("message") if (
        isinstance(choices, list) and choices and isinstance(choices[0], dict)
    ) else None  # fmt: skip
    if not isinstance(message, dict):
        raise ValueError("the reply has no 'choices' with a 'message'")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    # An empty answer is the model's failure, not the server's: it can be told so and try again.
    return content if isinstance(content, str) else ""


@dataclass
class ChatClient:
    """One model behind one endpoint. ``notes`` fills with what a user should know.

    ``timeout`` is in seconds and for each request. ``key`` goes into the header of requests to
    ``endpoint`` and nowhere else. ``schema`` is what an answer must look like, ``about`` its name.
    """

    endpoint: Endpoint
    model: str
    seed: int
    timeout: float
    key: str = field(default="", repr=False)
    notes: list[str] = field(default_factory=list)
    schema: dict[str, Any] = field(default_factory=answer_schema)
    about: str = "layout"
    _format: int = 0
    _seeded: bool = True

    def ask(self, messages: list[Message]) -> str:
        """The model's answer to ``messages``.

        It holds no key, and neither does an error: servers like to quote what they refuse. Raises
        RealCompoError for inputs 'endpoint', 'model', 'api_key_env' or 'timeout', and the host's
        own exception when the run is stopped.
        """
        try:
            return self._clean(run_interruptible(lambda: self._ask(messages)))
        except RealCompoError as error:
            said, remedy = self._clean(error.problem), self._clean(error.remedy)
            raise RealCompoError(error.where, said, remedy) from None

    async def _ask(self, messages: list[Message]) -> str:
        # No cookies, no environment proxies and no .netrc: nothing but this request, to this host.
        address = URL(self.endpoint.url)
        if address.raw_host != self.endpoint.name:
            raise self._wrong("the address reads as two different hosts")
        near = _NeighboursOnly() if self.key and self.endpoint.stays_local else None
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=near),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            while True:
                reply = await self._send(session, self._payload(messages))
                if reply.status == 200:
                    try:
                        return _content(reply)
                    except ValueError as error:
                        raise self._wrong(f"{error}: {self._said(reply)}") from None
                if not self._step_down(reply):
                    raise self._refusal(reply)

    def _payload(self, messages: list[Message]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": False}
        if self._seeded:
            body["seed"] = self.seed % _SEEDS
        if self._format == 0:
            named = {"name": self.about, "strict": True, "schema": self.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self._format == 1:
            body["response_format"] = {"type": "json_object"}
        return body

    def _step_down(self, reply: _Reply) -> bool:
        """Ask for less if the server refused what was asked; False if there is nothing less."""
        said = reply.text.lower()
        about_format = any(w in said for w in ("response_format", "schema", "grammar", "json"))
        if reply.status not in _REFUSED and not (reply.status == 500 and about_format):
            return False
        if self._seeded and "seed" in said:
            self._seeded = False
            self.notes.append(
                f"the server takes no seed: the same inputs may give other {self.about}s"
            )
            return True
        if self._format + 1 < len(_FORMATS):
            refused = _FORMATS[self._format]
            self._format += 1
            now = _FORMATS[self._format]
            self.notes.append(f"the server refused {refused}: asked for {now} instead")
            return True
        return False

    async def _send(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> _Reply:
        """One reply, after as many attempts as a busy or absent server may need."""
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
                raise self._wrong("the server's certificate or encryption is not valid") from None
            except aiohttp.ClientConnectionError:
                if attempt == ATTEMPTS:
                    raise self._wrong("no connection to the server") from None
            except (aiohttp.ClientError, ValueError):
                raise self._wrong("the server does not speak HTTP as it should") from None
            else:
                schema = reply.status == 500 and self._format + 1 < len(_FORMATS)
                if reply.status not in _BUSY or (schema and "schema" in reply.text.lower()):
                    return reply
                if attempt == ATTEMPTS or (reply.pause or 0.0) > LONGEST_PAUSE:
                    raise self._busy(reply)
                pause = max(pause, reply.pause or 0.0)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> _Reply:
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
                    raise self._wrong(f"the reply is longer than {LARGEST >> 20} MB")
            reply = _Reply(
                response.status,
                self._clean(response.headers.get("Content-Type", "").partition(";")[0]),
                data.decode("utf-8", errors="replace"),  # cleaned where it is decoded further
                _pause(response.headers.get("Retry-After")),
                response.headers.get("Location", ""),
            )
        if 300 <= reply.status < 400:
            raise self._redirected(reply)
        return reply

    def _clean(self, text: str) -> str:
        """``text`` without the key in any spelling; before it is cut, which could leave a part."""
        return without_key(text, self.key)

    def _wrong(self, problem: str) -> RealCompoError:
        return RealCompoError(
            "endpoint",
            f"{problem} ({self.endpoint.shown})",
            "Check that this is the address of a running OpenAI-compatible server",
        )

    def _redirected(self, reply: _Reply) -> RealCompoError:
        target = urljoin(self.endpoint.url, reply.location)
        place = "to another address of its own" if self.endpoint.same_origin(target) else (
            "to another host or protocol, and keys and prompts do not follow there"
        )  # fmt: skip
        return self._wrong(f"the server redirects (status {reply.status}) {place}")

    def _said(self, reply: _Reply) -> str:
        """The server's own words about an error, one line."""
        words: Any = reply.text
        try:
            value = parse_json(reply.text, finite=False)
            inner = value.get("error", value.get("detail", value.get("message")))
            words = inner.get("message", inner) if isinstance(inner, dict) else inner
        except (ValueError, AttributeError):
            words = "a web page" if reply.kind == "text/html" else reply.text
        return quoted(self._clean(words if isinstance(words, str) else str(words)), 200)

    def _busy(self, reply: _Reply) -> RealCompoError:
        asks = f", and asks to wait {reply.pause:.0f} seconds" if reply.pause else ""
        return RealCompoError(
            "endpoint",
            f"{self.endpoint.host} is busy or failing: status {reply.status}{asks};"
            f" it says {self._said(reply)}",
            "Try again later, or use another server",
        )

    def _refusal(self, reply: _Reply) -> RealCompoError:
        problem = f"{self.endpoint.host} refuses with status {reply.status}: {self._said(reply)}"
        if reply.status in (401, 403):
            have = "another key" if self.key else "the name of the variable that holds your key"
            return RealCompoError("api_key_env", problem, f"The server wants {have}")
        if reply.status == 404:
            return RealCompoError(
                "model", problem, "Check the model's name (and the path of 'endpoint')"
            )
        return RealCompoError("endpoint", problem, "Check endpoint and model")
