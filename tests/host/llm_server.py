"""A real HTTP server on this machine that speaks the chat completions protocol as it is told to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def format(self) -> str:
        """The kind of structured output that was asked for, '' for none."""
        return self.body.get("response_format", {}).get("type", "")


Answer = Callable[["Handler", Asked], None]


class Handler(BaseHTTPRequestHandler):
    """Gives every request the next answer of the server's script; the last one stays."""

    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        asked = Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body,
                      time.monotonic())  # fmt: skip
        with self.server.guard:
            self.server.asked.append(asked)
            script = self.server.script
            answer = script.pop(0) if len(script) > 1 else script[0]
        # A client that goes away is what some tests are about.
        with contextlib.suppress(ConnectionError):
            answer(self, asked)

    do_GET = do_POST

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Send a whole response; header names with '_' for '-'."""
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests' output is not a server's log."""


class Server(ThreadingHTTPServer):
    """``script`` holds the answers to come, ``asked`` the requests that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.guard = threading.Lock()
        self.script: list[Answer] = []
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        """The API's root."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def say(self, *answers: Answer | str) -> None:
        """Write the script: answers, or texts that a good server would send."""
        self.script = [text(a) if isinstance(a, str) else a for a in answers]


def text(content: Any, **extra: Any) -> Answer:
    """A good reply with this message content."""
    message = {"role": "assistant", "content": content, **extra}
    return value({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def value(body: Any, status: int = 200, **headers: str) -> Answer:
    """Any JSON as reply."""
    return raw(json.dumps(body).encode(), status, **headers)


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Any bytes as reply."""
    return lambda handler, _: handler.reply(status, body, **headers)


def error(status: int, message: str, **headers: str) -> Answer:
    """An error as OpenAI's API words it."""
    return value({"error": {"message": message, "type": "x"}}, status, **headers)


def redirect(status: int, location: str) -> Answer:
    """A redirect."""
    return raw(b"", status, Location=location)


def slow(seconds: float, released: threading.Event) -> Answer:
    """No reply for ``seconds``, or until ``released``."""

    def wait(handler: Handler, _: Asked) -> None:
        released.wait(seconds)
        handler.reply(200, b"{}")

    return wait


def drip(stop: threading.Event, chunk: bytes = b" " * (1 << 16)) -> Answer:
    """A body without end."""

    def pour(handler: Handler, _: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        while not stop.is_set():
            handler.wfile.write(chunk)

    return pour


def hang_up(handler: Handler, _: Asked) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
