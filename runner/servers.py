"""Rows drawn by running ComfyUI servers, over their HTTP and websocket API."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ..balancer.foreign_json import parse_json
from .answers import (
    ANSWER_SECONDS,
    DEEPEST,
    LARGEST_MESSAGE,
    NAME,
    Lost,
    Odd,
    body,
    check,
    entry_of,
    get_file,
    get_info,
    get_json,
    message_of,
    queued_rows,
    why,
)
from .errors import OutOfSpace, RowError, RunnerError, full_disk, one_line, shown
from .job import DONE, FAILED, Outcome, Picture, Shelf, Task
from .messages import failed_node, refusal
from .metrics import load_metric, measure
from .pictures import as_picture
from .shown import check_size, files_of
from .values import info_of

if TYPE_CHECKING:
    import aiohttp

_Answer = TypeVar("_Answer")

DEPTH = 2
"""Rows that a server has at a time: one that it draws, one that it goes on with at once while the
first one's pictures are fetched."""
LOOK_SECONDS = 10.0
"""A row of which no message came for so long is looked up in the server's history."""
RETRY_SECONDS = 2.0
RECORD_SECONDS = 5.0
"""So long a server may take to write down a row that it has told of as done."""
ASK_AGAIN_SECONDS = 0.5
MOST_ASKED = 3
"""So often one answer is asked for that is not as a ComfyUI's: a server may be short of breath."""
PATIENCE_SECONDS = 120.0
"""The run ends when no server has answered for so long."""


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
        infos = asyncio.run(self._infos(names))
        shared = {name: infos[0][name] for name in names if all(name in info for info in infos)}
        for name, entry in shared.items():
            for section in ("required", "optional"):
                for key, spec in (entry["input"].get(section) or {}).items():
                    if isinstance(spec[0], list):
                        offers = [_choices(info, name, section, key) for info in infos[1:]]
                        spec[0] = [one for one in spec[0] if all(one in some for some in offers)]
        return shared

    async def _infos(self, names: set[str]) -> list[dict[str, Any]]:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(trust_env=False, timeout=limit) as session:
            asked = [get_info(session, url, names) for url in self.urls]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        infos: list[dict[str, Any]] = []
        for name, answer in zip(map(_named, self.urls), answers, strict=True):
            if isinstance(answer, Odd):
                raise RunnerError(
                    f"What answers at {name} is no ComfyUI (it {answer}): check the address."
                )
            if isinstance(answer, BaseException):
                raise RunnerError(
                    f"The server {name} does not answer ({why(answer)}): start ComfyUI there, or"
                    " check the address."
                )
            if not isinstance(answer, dict) or "KSampler" not in answer:
                raise RunnerError(f"What answers at {name} is no ComfyUI: check the address.")
            infos.append(info_of(answer, names))
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
            outcome.error, outcome.again = one_line(error), error.again
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
        self.last_words = ""

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
                names = " and ".join(map(_named, self.servers.urls))
                said = f"; the last one: {self.last_words}" if self.last_words else ""
                raise RunnerError(
                    f"No server has answered for {self.servers.patience:.0f} s ({names}{said}):"
                    " start one, then run the same command again; what is finished stays."
                )

    def tell(self, outcome: Outcome) -> None:
        """A task is finished."""
        self.found.put(outcome)
        self.waiting.task_done()

    def put_back(self, task: Task, otherwise: Outcome) -> None:
        """A task whose server died, or is odd, goes to whoever is free, or is given up."""
        if self.shelf.put_back(task):
            self.waiting.put_nowait(None)
            self.waiting.task_done()
        else:
            self.tell(otherwise)


class _Line:
    """One server: its websocket and the rows that it has."""

    def __init__(self, round_: _Round, url: str) -> None:
        self.round, self.url, self.up = round_, url, False
        self.name = _named(url)
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
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Lost) as error:
                    self.round.last_words = why(error)
                    self.round.shelf.leave(self.url)
                self.up = False
                await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        address = f"{self.url}/ws?clientId={self.client}"
        async with session.ws_connect(address, max_msg_size=LARGEST_MESSAGE) as channel:
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
            message = message_of(frame.data)
            if message is None:
                continue  # of no row; what was lost with it the history tells
            kind, prompt, data = message
            end = self._ends.get(prompt)
            if kind == "execution_start" and end is not None:
                self._starts[prompt] = time.monotonic()
            # hosts before 0.3 tell of the end by an 'executing' without a node
            over = kind == "executing" and data.get("node") is None
            ends = ("execution_success", "execution_error", "execution_interrupted")
            if end is not None and not end.done() and (over or kind in ends):
                end.set_result((kind, data))
        raise Lost("the server closed the connection")

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
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Lost) as error:
                self.round.put_back(task, self._died(task, why(error)))
                raise
            except Odd as error:
                failed = Outcome(task.id, FAILED, self.name, error=f"the server {error}")
                failed.again = True
                if len(self.round.servers.urls) == 1:
                    self.round.tell(failed)
                else:  # another server may do better; meanwhile this one waits
                    self.round.put_back(task, failed)
                    await asyncio.sleep(RETRY_SECONDS)
            except RunnerError:
                raise  # of the whole run
            except Exception as error:  # nothing that one row brings is to end all others
                said = f"{type(error).__name__}: {one_line(error)}"
                self.round.tell(Outcome(task.id, FAILED, self.name, error=said))
            except asyncio.CancelledError:
                # the other fetcher found the server dead, or the user has stopped the run
                self.round.put_back(task, self._died(task, "the connection broke"))
                raise
            finally:
                self._rows -= 1
                if not self._rows:
                    self._idle.set()

    def _died(self, task: Task, how: str) -> Outcome:
        said = f"the server died each time that it drew this row ({how})"
        return Outcome(task.id, FAILED, self.name, error=said)

    async def _draw(self, session: aiohttp.ClientSession, task: Task) -> Outcome:
        started = time.monotonic()
        outcome = Outcome(task.id, FAILED, self.name)
        prompt = str(uuid.uuid4())  # newer hosts take a name in no other form
        asked = {"prompt": task.graph, "client_id": self.client, "prompt_id": prompt}
        end: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._ends[prompt] = end
        try:
            async with session.post(
                f"{self.url}/prompt", json=asked, allow_redirects=False
            ) as answer:
                said = await body(answer)
                told = _read(said)
                if answer.status == 400 or told.get("node_errors"):
                    await self._withdraw(session, told.get("prompt_id"))
                    error = told.get("error") or said[:2000].decode("utf-8", "replace")
                    raise RowError(refusal(error, told.get("node_errors")))
                check(answer)
            named = told.get("prompt_id")
            if not isinstance(named, str) or not NAME.fullmatch(named):
                raise Odd("takes the row and gives it no name")
            if named != prompt:  # hosts before 0.3.45 choose it themselves
                prompt = named
                self._ends[prompt] = end
            outcome.shown = await self._outputs(session, prompt, end)
            size = 0
            for node, one in files_of(outcome.shown):
                outcome.pictures.append(await self._picture(session, node, one))
                size = check_size(size + len(outcome.pictures[-1].data))
            outcome.seconds = time.monotonic() - self._starts.get(prompt, started)
            return await asyncio.to_thread(self.round.servers.finish, task, outcome)
        except RowError as error:
            if full_disk(str(error)):
                raise OutOfSpace(
                    f"The disk of the server {self.name} is full: free some space there, then run"
                    " the same command again; what is finished stays."
                ) from None
            outcome.error, outcome.again = one_line(error), error.again
            outcome.pictures = []
            outcome.seconds = time.monotonic() - self._starts.get(prompt, started)
            return outcome
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self._withdraw(session, prompt)), 2.0)
            raise
        finally:
            self._ends = {key: one for key, one in self._ends.items() if one is not end}
            self._starts.pop(prompt, None)

    async def _outputs(
        self,
        session: aiohttp.ClientSession,
        prompt: str,
        end: asyncio.Future[tuple[str, dict[str, Any]]],
    ) -> dict[str, Any]:
        """What the finished prompt's nodes showed. Raises ``RowError`` if it failed, ``Lost`` or
        ``Odd`` if the server does not know of it any more."""
        until = 0.0
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                kind, data = await asyncio.wait_for(asyncio.shield(end), LOOK_SECONDS)
                if kind in ("execution_error", "execution_interrupted"):
                    raise RowError(failed_node(kind, data))
            outputs = await _patiently(lambda: self._history(session, prompt))
            if outputs is not None:
                return outputs
            if end.done():  # the entry is written just after the last message is sent
                until = until or time.monotonic() + RECORD_SECONDS
                if time.monotonic() > until:
                    raise Odd("says that it has drawn the row, and has no record of it")
                await asyncio.sleep(0.02)
                continue
            _, known = await _patiently(lambda: self._queued(session))
            if prompt not in known:
                outputs = await _patiently(lambda: self._history(session, prompt))
                if outputs is None:
                    raise Lost("the server does not know of the row: its queue was cleared")
                return outputs

    async def _history(self, session: aiohttp.ClientSession, prompt: str) -> dict[str, Any] | None:
        return entry_of(await get_json(session, f"{self.url}/history/{prompt}"), prompt)

    async def _queued(self, session: aiohttp.ClientSession) -> tuple[set[str], set[str]]:
        return queued_rows(await get_json(session, f"{self.url}/queue"))

    async def _picture(
        self, session: aiohttp.ClientSession, node: str, entry: Mapping[str, Any]
    ) -> Picture:
        """A file of a row, asked for again where it does not come whole. Raises ``RowError``."""
        asked = {key: entry.get(key) or "" for key in ("filename", "subfolder", "type")}
        if not all(isinstance(one, str) for one in asked.values()) or not asked["filename"]:
            raise RowError(f"node {node}: {shown(entry.get('filename'))} is no name of a file")
        suffix = PurePosixPath(asked["filename"]).suffix.lower()

        async def whole() -> Picture:
            data = await get_file(session, self.url, asked, suffix)
            try:
                return await asyncio.to_thread(as_picture, node, dict(entry), data)
            except RowError as error:
                if error.again:
                    raise Odd(f"gave a file that cannot be used: {error}") from None
                raise

        return await _patiently(whole)

    async def _withdraw(self, session: aiohttp.ClientSession, prompt: object) -> None:
        """Take a prompt out of the server's queue, and stop it if it runs; nobody else's."""
        if not isinstance(prompt, str) or not prompt:
            return
        async with session.post(f"{self.url}/queue", json={"delete": [prompt]}):
            pass
        running, _ = await self._queued(session)
        if prompt in running:
            async with session.post(f"{self.url}/interrupt", json={"prompt_id": prompt}):
                pass


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """What ``ask`` gives; an answer that is not as a ComfyUI's, or was cut off, is asked for
    ``MOST_ASKED`` times. Raises ``Odd``, and whatever says that the server is away."""
    import aiohttp

    for left in reversed(range(MOST_ASKED)):
        try:
            return await ask()
        except aiohttp.ClientPayloadError as error:
            if not left:
                raise Odd(f"breaks off its answer ({one_line(error)})") from None
        except Odd:
            if not left:
                raise
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    raise AssertionError("unreachable")


def _read(said: bytes) -> dict[str, Any]:
    try:
        value = parse_json(said, deepest=DEEPEST, finite=False)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _choices(info: Mapping[str, Any], name: str, section: str, key: str) -> Sequence[Any]:
    spec = (info[name]["input"].get(section) or {}).get(key)
    return spec[0] if spec and isinstance(spec[0], list) else []


def _named(url: str) -> str:
    """An address as it may be shown and kept: without the user and password in it."""
    from yarl import URL

    return str(URL(url).with_user(None)).rstrip("/")


def _address(url: str) -> str:
    """``url`` with its scheme and without a closing slash. Raises ``RunnerError``."""
    from yarl import URL

    try:
        found = URL(url if "://" in url else f"http://{url}")
    except ValueError:
        found = URL("")
    bare = not found.query_string and not found.fragment
    if found.scheme not in ("http", "https") or not found.host or not bare:
        raise RunnerError(f"{shown(url, 120)} is no address of a server: write http://host:8188.")
    return str(found).rstrip("/")
