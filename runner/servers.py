"""Rows drawn by running ComfyUI servers, over their HTTP and websocket API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import OutOfSpace, RowError, RunnerError, full_disk, one_line
from .host import as_picture, files_of
from .job import DONE, FAILED, Outcome, Picture, Shelf, Task
from .messages import failed_node, refusal
from .metrics import load_metric, measure

if TYPE_CHECKING:
    import aiohttp

DEPTH = 2
"""Rows that a server has at a time: one that it draws, one that it goes on with at once while the
first one's pictures are fetched."""
ANSWER_SECONDS = 60.0
LOOK_SECONDS = 10.0
"""A row of which no message came for so long is looked up in the server's history."""
RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""The run ends when no server has answered for so long."""


class _Lost(Exception):
    """The server does not answer any more, or does not know of the row."""


class Servers:
    """One or several servers; rows of one set of models go to the same one as far as can be."""

    def __init__(
        self,
        urls: Sequence[str],
        metrics: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """``urls``: 'http://host:8188'; metrics are computed here, beside the requests."""
        if not urls:
            raise RunnerError("No server is named: give --server http://host:8188.")
        self.urls = list(dict.fromkeys(_address(url) for url in urls))
        self.patience = patience
        self._metrics = {metric: load_metric(metric) for metric in metrics}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt()

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """What every server has: classes that one lacks are left out, of choices those that all
        offer stay. Raises ``RunnerError`` if one does not answer."""
        names = set(names)
        infos = asyncio.run(self._infos())
        shared = {name: infos[0][name] for name in names if all(name in info for info in infos)}
        for name, entry in shared.items():
            for section in ("required", "optional"):
                for key, spec in (entry["input"].get(section) or {}).items():
                    if isinstance(spec[0], list):
                        offers = [_choices(info, name, section, key) for info in infos[1:]]
                        spec[0] = [one for one in spec[0] if all(one in some for some in offers)]
        return shared

    async def _infos(self) -> list[dict[str, Any]]:
        import aiohttp

        async with aiohttp.ClientSession(trust_env=False) as session:
            asked = [_json(session, f"{url}/object_info") for url in self.urls]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        infos: list[dict[str, Any]] = []
        for url, answer in zip(self.urls, answers, strict=True):
            if isinstance(answer, BaseException):
                raise RunnerError(
                    f"The server {url} does not answer ({_why(answer)}): start ComfyUI there, or"
                    " check the address."
                )
            if not isinstance(answer, dict) or "KSampler" not in answer:
                raise RunnerError(f"What answers at {url} is no ComfyUI: check the address.")
            infos.append(answer)
        return infos

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """See ``Backend``. The servers are served by a thread of their own."""
        found: queue.Queue[Outcome | BaseException | None] = queue.Queue()
        thread = threading.Thread(target=self._serve, args=(tasks, found), daemon=True)
        thread.start()
        try:
            while (one := found.get()) is not None:
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            self.interrupt()
            thread.join(timeout=ANSWER_SECONDS)

    def interrupt(self) -> None:
        """See ``Backend``: rows under way are taken out of the servers' queues."""
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(main.cancel)

    def _serve(self, tasks: Sequence[Task], found: queue.Queue[Any]) -> None:
        async def main() -> None:
            self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
            try:
                await _Round(self, tasks, found).run()
            finally:
                self._loop = self._main = None

        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # told in the thread that asked for results
            found.put(error)
        found.put(None)

    def finish(self, task: Task, outcome: Outcome) -> Outcome:
        """An outcome with its pictures' hashes and metrics; runs in a thread."""
        try:
            row = {**task.values, "id": task.id, "workflow": task.graph}
            outcome.metrics = measure(self._metrics, outcome.pictures, row)
            outcome.status = DONE
        except RowError as error:
            outcome.error = one_line(error)
        return outcome


class _Round:
    """One pass over tasks: a listener and ``DEPTH`` fetchers for every server."""

    def __init__(self, servers: Servers, tasks: Sequence[Task], found: queue.Queue[Any]) -> None:
        self.servers, self.found = servers, found
        self.shelf = Shelf(tasks)
        # One entry per task on the shelf. The shelf says which task, the queue when there is one.
        self.waiting: asyncio.Queue[None] = asyncio.Queue()
        for _ in tasks:
            self.waiting.put_nowait(None)
        self.last_answer = time.monotonic()

    async def run(self) -> None:
        """Until every task has its outcome. Raises ``RunnerError`` if no server is left."""
        lines = [_Line(self, url) for url in self.servers.urls]
        workers = [asyncio.create_task(line.run()) for line in lines]
        workers.append(asyncio.create_task(self._watch(lines)))
        done = asyncio.create_task(self.waiting.join())
        try:
            await asyncio.wait([done, *workers], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()
        finally:
            for one in (done, *workers):
                one.cancel()
            await asyncio.gather(done, *workers, return_exceptions=True)

    async def _watch(self, lines: Sequence[_Line]) -> None:
        """End the run when nobody has answered for as long as the user waits."""
        while True:
            await asyncio.sleep(1.0)
            if any(line.up for line in lines):
                self.last_answer = time.monotonic()
            elif time.monotonic() - self.last_answer > self.servers.patience:
                names = " and ".join(self.servers.urls)
                raise RunnerError(
                    f"No server has answered for {self.servers.patience:.0f} s ({names}): start"
                    " one, then run the same command again; what is finished stays."
                )

    def tell(self, outcome: Outcome) -> None:
        """A task is finished."""
        self.found.put(outcome)
        self.waiting.task_done()

    def put_back(self, task: Task, why: str, worker: str) -> None:
        """A task whose server died goes to whoever is free, or is given up."""
        if self.shelf.put_back(task):
            self.waiting.put_nowait(None)
            self.waiting.task_done()
        else:
            said = f"the server died each time that it drew this row ({why})"
            self.tell(Outcome(task.id, FAILED, worker, error=said))


class _Line:
    """One server: its websocket and the rows that it has."""

    def __init__(self, round_: _Round, url: str) -> None:
        self.round, self.url, self.up = round_, url, False
        self.client = uuid.uuid4().hex
        self._rows = 0
        self._idle = asyncio.Event()
        self._starts: dict[str, float] = {}
        self._ends: dict[str, asyncio.Future[tuple[str, dict[str, Any]]]] = {}

    async def run(self) -> None:
        """Serve this server for ever, coming back after it has been away."""
        import aiohttp

        limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(trust_env=False, timeout=limit) as session:
            while True:
                try:
                    await self._serve(session)
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError, _Lost):
                    self.round.shelf.leave(self.url)
                self.up = False
                await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        address = f"{self.url}/ws?clientId={self.client}"
        async with session.ws_connect(address, max_msg_size=0) as channel:
            self.up = True
            jobs = [asyncio.create_task(self._listen(channel))]
            jobs += [asyncio.create_task(self._fetch(session)) for _ in range(DEPTH)]
            try:
                ended, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
                for job in ended:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)

    async def _listen(self, channel: aiohttp.ClientWebSocketResponse[bool]) -> None:
        import aiohttp

        async for frame in channel:
            if frame.type != aiohttp.WSMsgType.TEXT:
                continue  # binary frames are previews
            message = json.loads(frame.data)
            kind, data = message.get("type"), message.get("data") or {}
            prompt = data.get("prompt_id", "")
            end = self._ends.get(prompt)
            if kind == "execution_start" and end is not None:
                self._starts[prompt] = time.monotonic()
            # hosts before 0.3 tell of the end by an 'executing' without a node
            over = kind == "executing" and data.get("node") is None
            ends = ("execution_success", "execution_error", "execution_interrupted")
            if end is not None and not end.done() and (over or kind in ends):
                end.set_result((str(kind), data))
        raise _Lost("the server closed the connection")

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        """Draw rows until the server is gone."""
        import aiohttp

        while True:
            await self.round.waiting.get()
            if self._rows and len(self.round.shelf) < len(self.round.servers.urls):
                # the last rows are for servers that have none
                self.round.waiting.put_nowait(None)
                self.round.waiting.task_done()
                await self._idle.wait()
                continue
            task: Task = self.round.shelf.take(self.url)
            self._rows += 1
            self._idle.clear()
            try:
                self.round.tell(await self._draw(session, task))
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, _Lost) as error:
                self.round.put_back(task, _why(error), self.url)
                raise
            except asyncio.CancelledError:
                # the other fetcher found the server dead, or the user has stopped the run
                self.round.put_back(task, "the connection broke", self.url)
                raise
            finally:
                self._rows -= 1
                if not self._rows:
                    self._idle.set()

    async def _draw(self, session: aiohttp.ClientSession, task: Task) -> Outcome:
        started = time.monotonic()
        outcome = Outcome(task.id, FAILED, self.url)
        prompt = str(uuid.uuid4())  # newer hosts take a name in no other form
        asked = {"prompt": task.graph, "client_id": self.client, "prompt_id": prompt}
        end: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._ends[prompt] = end
        try:
            async with session.post(f"{self.url}/prompt", json=asked) as answer:
                body = await answer.text()
                told = _read(body)
                if answer.status == 400 or told.get("node_errors"):
                    await self._withdraw(session, told.get("prompt_id"))
                    error = told.get("error") or body
                    raise RowError(refusal(error, told.get("node_errors")))
                answer.raise_for_status()
            if told.get("prompt_id", prompt) != prompt:  # hosts before 0.3.45 choose it themselves
                prompt = str(told["prompt_id"])
                self._ends[prompt] = end
            entry = await self._entry(session, prompt, end)
            outcome.shown = entry.get("outputs") or {}
            outcome.pictures = [
                await self._picture(session, node, one) for node, one in files_of(outcome.shown)
            ]
            outcome.seconds = time.monotonic() - self._starts.get(prompt, started)
            return await asyncio.to_thread(self.round.servers.finish, task, outcome)
        except RowError as error:
            if full_disk(str(error)):
                raise OutOfSpace(
                    f"The disk of the server {self.url} is full: free some space there, then run"
                    " the same command again; what is finished stays."
                ) from None
            outcome.error = str(error)
            outcome.seconds = time.monotonic() - self._starts.get(prompt, started)
            return outcome
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self._withdraw(session, prompt)), 2.0)
            raise
        finally:
            self._ends = {key: one for key, one in self._ends.items() if one is not end}
            self._starts.pop(prompt, None)

    async def _entry(
        self,
        session: aiohttp.ClientSession,
        prompt: str,
        end: asyncio.Future[tuple[str, dict[str, Any]]],
    ) -> dict[str, Any]:
        """The finished prompt's history entry. Raises ``RowError`` if it failed, ``_Lost`` if the
        server does not know of it any more."""
        misses = 0
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                kind, data = await asyncio.wait_for(asyncio.shield(end), LOOK_SECONDS)
                if kind in ("execution_error", "execution_interrupted"):
                    raise RowError(failed_node(kind, data))
            history = await _json(session, f"{self.url}/history/{prompt}")
            if prompt in history:
                return _succeeded(history[prompt])
            if end.done():  # the entry is written just after the last message is sent
                misses += 1
                if misses > 200:
                    raise _Lost("the server lost track of the row")
                await asyncio.sleep(0.02)
                continue
            queued = await _json(session, f"{self.url}/queue")
            known = [one[1] for part in ("queue_running", "queue_pending") for one in queued[part]]
            if prompt not in known:
                history = await _json(session, f"{self.url}/history/{prompt}")
                if prompt not in history:
                    raise _Lost("the server does not know of the row: its queue was cleared")

    async def _picture(
        self, session: aiohttp.ClientSession, node: str, entry: Mapping[str, Any]
    ) -> Picture:
        asked = {key: str(entry.get(key, "")) for key in ("filename", "subfolder", "type")}
        async with session.get(f"{self.url}/view", params=asked) as answer:
            if answer.status == 404:
                raise RowError(f"node {node}: the server does not give out {entry['filename']}")
            answer.raise_for_status()
            data = await answer.read()
        return await asyncio.to_thread(as_picture, node, dict(entry), data)

    async def _withdraw(self, session: aiohttp.ClientSession, prompt: str | None) -> None:
        """Take a prompt out of the server's queue, and stop it if it runs; nobody else's."""
        if not prompt:
            return
        async with session.post(f"{self.url}/queue", json={"delete": [prompt]}):
            pass
        queued = await _json(session, f"{self.url}/queue")
        if any(one[1] == prompt for one in queued["queue_running"]):
            async with session.post(f"{self.url}/interrupt", json={"prompt_id": prompt}):
                pass


def _succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    """A history entry, unless its messages tell of a failure."""
    status = entry.get("status") or {}
    for kind, data in status.get("messages") or []:
        if kind in ("execution_error", "execution_interrupted"):
            raise RowError(failed_node(kind, data))
    return entry


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        answer.raise_for_status()
        return await answer.json()


def _read(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _choices(info: Mapping[str, Any], name: str, section: str, key: str) -> Sequence[Any]:
    spec = (info[name]["input"].get(section) or {}).get(key)
    return spec[0] if spec and isinstance(spec[0], list) else []


def _address(url: str) -> str:
    """``url`` with its scheme and without a closing slash. Raises ``RunnerError``."""
    from yarl import URL

    try:
        found = URL(url if "://" in url else f"http://{url}")
    except ValueError:
        found = URL("")
    if found.scheme not in ("http", "https") or not found.host:
        raise RunnerError(f"'{url}' is no address of a server: write http://host:8188.")
    return str(found).rstrip("/")


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    cause = getattr(error, "os_error", error)  # aiohttp's own text names the address once more
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    return one_line(error) or type(error).__name__
