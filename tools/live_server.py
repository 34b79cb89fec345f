"""A live ComfyUI on the loopback interface with this pack linked in, and a client for it.

Starting and stopping need the standard library only; following a prompt needs ``aiohttp``, which
the host brings.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK = "realcompo"
ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "build" / "host-base"
LEAVE_OUT = (".venv", ".git", "build", "out", "node_modules", "__pycache__")
START_SECONDS = 180
Event = Callable[[str, dict[str, Any]], None]


class ServerError(RuntimeError):
    """The server did not start, or refused or failed a prompt; the message says why."""


def free_port() -> int:
    """A TCP port on the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def link_pack(base: Path, source: Path = ROOT) -> Path:
    """Make ``source`` a custom node below ``base``: a link, or a copy where links fail."""
    link = base / "custom_nodes" / PACK
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(link):
        if not (link / "copied").exists() and link.resolve() == source.resolve():
            return link
        _unlink(link)
    try:
        link.symlink_to(source, target_is_directory=True)
    except OSError:
        # Windows gives symbolic links to administrators only, junctions to everybody.
        junction = ["cmd", "/c", "mklink", "/J", str(link), str(source)]
        if os.name != "nt" or subprocess.run(junction, capture_output=True).returncode != 0:
            shutil.copytree(source, link, ignore=shutil.ignore_patterns(*LEAVE_OUT))
            (link / "copied").touch()
    return link


def _unlink(link: Path) -> None:
    """Remove a link, a junction or an old copy, never what a link points to."""
    if link.is_symlink():
        link.unlink()
    elif (link / "copied").exists():
        shutil.rmtree(link)
    else:
        link.rmdir()  # a junction goes like an empty folder; a folder with content stays, loudly


class LiveServer:
    """``main.py --cpu`` with a base folder of its own; a context manager that always ends it."""

    def __init__(
        self,
        host: Path,
        python: Path,
        environment: dict[str, str],
        base: Path = BASE,
        port: int | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """``arguments`` are further ones for the host, such as ``--front-end-root``."""
        self.host, self.python, self.base = host, python, base
        self.arguments = arguments
        self.environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._on_terminate: Any = None

    def command(self) -> list[str]:
        """Command line; the user's own models, custom nodes and output folder stay out of it."""
        return [
            str(self.python), str(self.host / "main.py"), "--cpu", "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base), "--disable-api-nodes",
            "--disable-auto-launch", "--preview-method", "latent2rgb",
            *self._database(), *self.arguments,
        ]  # fmt: skip

    def _database(self) -> list[str]:
        """A database of the server's own: two servers that share the host's file stop each other,
        and it would be left in the host's folder."""
        known = (self.host / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        return ["--database-url", "sqlite:///:memory:"] if "--database-url" in known else []

    def prepare(self) -> None:
        """Make the base folder and link the pack. Newer hosts want every folder to be there."""
        for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link_pack(self.base)

    def __enter__(self) -> LiveServer:
        self.prepare()
        if threading.current_thread() is threading.main_thread():
            # A plain SIGTERM would end this process without ending the server.
            self._on_terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.host, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise ServerError(f"The server ended while starting.\n{self.log_tail()}")
            try:
                self.get("/system_stats", seconds=2)
                return
            except OSError:
                time.sleep(0.25)
        raise ServerError(f"No answer from the server in {START_SECONDS} s.\n{self.log_tail()}")

    def stop(self) -> None:
        """End the server, politely first."""
        if self._on_terminate is not None:
            signal.signal(signal.SIGTERM, self._on_terminate)
            self._on_terminate = None
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._process = None

    @property
    def pid(self) -> int | None:
        """The server's process, None while it does not run."""
        return self._process.pid if self._process is not None else None

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def get(self, path: str, seconds: float = 30) -> Any:
        """JSON answer to GET ``path``."""
        return json.loads(self.get_text(path, seconds))

    def get_text(self, path: str, seconds: float = 30) -> str:
        """Answer to GET ``path`` as text."""
        return self._ask(urllib.request.Request(self.url + path), seconds)

    def post(self, path: str, value: dict[str, Any], seconds: float = 30) -> Any:
        """JSON answer (or None) to POST ``path``.

        A refusal raises ``ServerError`` with the host's reason.
        """
        request = urllib.request.Request(
            self.url + path,
            json.dumps(value).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            said = self._ask(request, seconds)
            return json.loads(said) if said.strip() else None
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise ServerError(f"POST {path} was refused ({error.code}): {_reasons(said)}") from None

    @staticmethod
    def _ask(request: urllib.request.Request, seconds: float) -> str:
        # A proxy that the machine uses must not see loopback traffic.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=seconds) as answer:
            return answer.read().decode()

    def run_prompt(
        self, graph: dict[str, Any], on_event: Event | None = None, seconds: float = 1800
    ) -> dict[str, Any]:
        """Queue an API graph, follow it to its end, return its history entry.

        ``on_event(kind, data)`` sees the host's messages (``executing``, ``progress``, ...).
        Raises ``ServerError`` when the prompt is refused, fails, is interrupted or takes too long.
        """
        run = self._run_prompt(graph, on_event or (lambda kind, data: None))
        try:
            return asyncio.run(asyncio.wait_for(run, seconds))
        except asyncio.TimeoutError:
            raise ServerError(f"The prompt was not done after {seconds:.0f} s.") from None

    async def _run_prompt(self, graph: dict[str, Any], on_event: Event) -> dict[str, Any]:
        import aiohttp

        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as channel,
        ):
            prompt = self.post("/prompt", {"prompt": graph, "client_id": client})["prompt_id"]
            async for frame in channel:
                if frame.type != aiohttp.WSMsgType.TEXT:
                    continue  # binary frames are previews
                message = json.loads(frame.data)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id", prompt) != prompt:
                    continue
                on_event(kind, data)
                if kind in ("execution_error", "execution_interrupted"):
                    raise ServerError(_failure(kind, data))
                if kind == "execution_success":
                    break
            else:
                raise ServerError(f"The server closed the connection.\n{self.log_tail()}")
        # The entry is written just after the last message is sent.
        for _ in range(100):
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            await asyncio.sleep(0.1)
        raise ServerError(f"The server lost track of prompt {prompt}.\n{self.log_tail()}")


def _failure(kind: str, data: dict[str, Any]) -> str:
    """One paragraph on a failed or interrupted prompt."""
    where = f"node {data.get('node_id')} ({data.get('node_type')})"
    if kind == "execution_interrupted":
        return f"interrupted in {where}"
    trace = "".join(data.get("traceback", [])[-3:])
    return f"{where}: {data.get('exception_type')}: {data.get('exception_message')}\n{trace}"


def _reasons(said: str) -> str:
    """What is wrong with a prompt, from the body of the host's refusal."""
    try:
        value = json.loads(said)
    except json.JSONDecodeError:
        return said[:500]
    lines = [str(value.get("error", {}).get("message", value.get("error", "")))]
    for node, entry in (value.get("node_errors") or {}).items():
        for error in entry.get("errors", []):
            lines.append(
                f"node {node} ({entry.get('class_type')}): {error.get('message')}"
                f" - {error.get('details')}"
            )
    return "\n".join(lines)
