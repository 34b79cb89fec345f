"""A server with ComfyUI's HTTP and websocket API that paints one colour per seed, in a thread.

It can refuse, fail, forget or die as real ones do, at once and without a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from .rows import INFO, picture

Odd = Callable[[web.Request], "web.StreamResponse | None | Awaitable[web.StreamResponse]"]
"""What a server answers in place of its own answer; None for its own."""


class FakeComfyUI:
    """A context manager; ``url`` is where it answers. ``drawn``: seeds, in order."""

    def __init__(self, port: int = 0, seconds: float = 0.0) -> None:
        self.port, self.seconds = port, seconds
        self.drawn: list[int] = []
        self.info: dict[str, Any] = {**INFO, "KSampler": {"input": {}, "output": ["LATENT"]}}
        self.die_at: int | None = None
        self.poison: int | None = None
        self.fail: dict[int, tuple[str, str]] = {}
        self.refuse: set[int] = set()
        self.half: set[int] = set()
        self.deaf: set[int] = set()
        self.odd: dict[str, Odd] = {}
        """Instead of its own answers: by 'view', 'history', 'queue', 'prompt', 'object_info'."""
        self.chatter: list[str | bytes] = []
        """Frames sent on the websocket before each message."""
        self.outputs: dict[int, Any] = {}
        """What a seed's nodes show, instead of its one picture."""
        self.withdrawn: list[str] = []
        self.interrupted: list[str] = []
        self._history: dict[str, Any] = {}
        self._waiting: list[tuple[str, str, dict[str, Any]]] = []
        self._running: list[str] = []
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._started = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeComfyUI:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """End at once: connections break, nothing is answered."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        app = web.Application(middlewares=[self._oddly])
        app.add_routes([
            web.get("/ws", self._ws), web.get("/object_info", self._object_info),
            web.post("/prompt", self._prompt), web.get("/history/{name}", self._entry),
            web.get("/queue", self._queue), web.post("/queue", self._delete),
            web.post("/interrupt", self._interrupt), web.get("/view", self._view),
        ])  # fmt: skip
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        worker = asyncio.create_task(self._work())
        self._started.set()
        await self._end.wait()
        worker.cancel()
        for socket in list(self._sockets.values()):
            if (transport := socket._req and socket._req.transport) is not None:
                transport.abort()
        await runner.cleanup()

    @web.middleware
    async def _oddly(self, request: web.Request, handler: Any) -> web.StreamResponse:
        odd = self.odd.get(request.path.split("/")[1])
        answer = odd(request) if odd is not None else None
        if isinstance(answer, Awaitable) and not isinstance(answer, web.StreamResponse):
            answer = await answer
        return answer if answer is not None else await handler(request)

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[request.query["clientId"]] = socket
        await socket.send_bytes(b"a preview")
        async for frame in socket:
            if frame.type == WSMsgType.ERROR:
                break
        return socket

    async def _object_info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _prompt(self, request: web.Request) -> web.Response:
        asked = await request.json()
        graph, name = asked["prompt"], asked["prompt_id"]
        if name != str(uuid.UUID(name)):  # as ComfyUI 0.33
            error = {"message": "prompt_id must be a valid UUID", "details": name}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        seed = graph["8"]["inputs"]["seed"]
        wrong = {"9": {"class_type": "Save", "errors": [
            {"message": "Value not in list", "details": "images: 'x' not in []"}
        ]}}  # fmt: skip
        if seed in self.refuse:
            error = {"message": "Prompt outputs failed validation", "details": ""}
            return web.json_response({"error": error, "node_errors": wrong}, status=400)
        self._waiting.append((name, asked["client_id"], graph))
        errors = wrong if seed in self.half else {}
        return web.json_response({"prompt_id": name, "node_errors": errors})

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                await asyncio.sleep(0.005)
                continue
            name, client, graph = self._waiting.pop(0)
            self._running.append(name)
            await self._tell(client, "execution_start", {"prompt_id": name})
            await asyncio.sleep(self.seconds)
            seed = graph["8"]["inputs"]["seed"]
            if seed == self.poison or len(self.drawn) == self.die_at:
                self._end.set()
                return
            self.drawn.append(seed)
            data: dict[str, Any] = {"prompt_id": name}
            if seed in self.fail:
                kind = "execution_error"
                data |= {"node_id": "8", "node_type": "Sampler"}
                data["exception_type"], data["exception_message"] = self.fail[seed]
                shown: dict[str, Any] = {}
            else:
                kind = "execution_success"
                entry = {"filename": f"{seed}.png", "subfolder": "", "type": "output"}
                shown = self.outputs.get(seed, {"9": {"images": [entry]}})
            status = {"messages": [[kind, data]]}
            self._history[name] = {"outputs": shown, "status": status}
            self._running.remove(name)
            if seed not in self.deaf:
                await self._tell(client, kind, data)

    async def _tell(self, client: str, kind: str, data: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            for frame in self.chatter:
                sent = self._sockets[client]
                await (sent.send_str(frame) if isinstance(frame, str) else sent.send_bytes(frame))
            await self._sockets[client].send_json({"type": kind, "data": data})

    async def _entry(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: self._history[name]} if name in self._history else {})

    async def _queue(self, request: web.Request) -> web.Response:
        waiting = [[0, name] for name, _, _ in self._waiting]
        running = [[0, name] for name in self._running]
        return web.json_response({"queue_running": running, "queue_pending": waiting})

    async def _delete(self, request: web.Request) -> web.Response:
        names = (await request.json())["delete"]
        self.withdrawn += names
        self._waiting = [one for one in self._waiting if one[0] not in names]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        self.interrupted.append((await request.json())["prompt_id"])
        return web.Response()

    async def _view(self, request: web.Request) -> web.Response:
        seed = int(request.query["filename"].split(".")[0])
        return web.Response(body=picture(seed)[0].data)
