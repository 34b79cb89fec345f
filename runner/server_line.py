"""One ComfyUI server that draws rows, over its HTTP and websocket API."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .addresses import without_password
from .answers import (
    ANSWER_SECONDS,
    LARGEST_MESSAGE,
    NAME,
    Lost,
    Odd,
    body,
    check,
    entry_of,
    get_file,
    get_json,
    message_of,
    patiently,
    queued_rows,
    read_object,
    why,
)
from .errors import OutOfSpace, RowError, RunnerError, full_disk, one_line, shown
from .job import FAILED, Outcome, Picture, Task
from .messages import failed_node, refusal
from .pictures import as_picture
from .server_tasks import ServerTasks
from .shown import check_size, files_of

if TYPE_CHECKING:
    import aiohttp

DEPTH = 2
"""Rows that a server has at a time: one that it draws, one that it goes on with at once while the
first one's pictures are fetched."""
LOOK_SECONDS = 10.0
"""A row of which no message came for so long is looked up in the server's history."""
RETRY_SECONDS = 2.0
RECORD_SECONDS = 5.0
"""So long a server may take to write down a row that it has told of as done."""


class ServerLine:
    """One server: its websocket and the rows that it has."""

    def __init__(self, tasks: ServerTasks, url: str) -> None:
        self.tasks, self.url, self.up = tasks, url, False
        self.name = without_password(url)
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
                    self.tasks.last_words = why(error)
                    self.tasks.shelf.leave(self.url)
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
            await self.tasks.waiting.get()
            if self._rows and len(self.tasks.shelf) < self.tasks.servers:
                # the last rows are for servers that have none
                self.tasks.leave()
                await self._idle.wait()
                continue
            task: Task = self.tasks.shelf.take(self.url)
            self._rows += 1
            self._idle.clear()
            try:
                self.tasks.tell(await self._draw(session, task))
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Lost) as error:
                self.tasks.put_back(task, self._died(task, why(error)))
                raise
            except Odd as error:
                failed = Outcome(task.id, FAILED, self.name, error=f"the server {error}")
                failed.again = True
                if self.tasks.servers == 1:
                    self.tasks.tell(failed)
                else:  # another server may do better; meanwhile this one waits
                    self.tasks.put_back(task, failed)
                    await asyncio.sleep(RETRY_SECONDS)
            except RunnerError:
                raise  # of the whole run
            except Exception as error:  # nothing that one row brings is to end all others
                said = f"{type(error).__name__}: {one_line(error)}"
                self.tasks.tell(Outcome(task.id, FAILED, self.name, error=said))
            except asyncio.CancelledError:
                # the other fetcher found the server dead, or the user has stopped the run
                self.tasks.put_back(task, self._died(task, "the connection broke"))
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
        request = {"prompt": task.graph, "client_id": self.client, "prompt_id": prompt}
        end: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._ends[prompt] = end
        try:
            async with session.post(
                f"{self.url}/prompt", json=request, allow_redirects=False
            ) as answer:
                said = await body(answer)
                replied = read_object(said)
                if answer.status == 400 or replied.get("node_errors"):
                    await self._withdraw(session, replied.get("prompt_id"))
                    error = replied.get("error") or said[:2000].decode("utf-8", "replace")
                    raise RowError(refusal(error, replied.get("node_errors")))
                check(answer)
            named = replied.get("prompt_id")
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
            return await asyncio.to_thread(self.tasks.finish, task, outcome)
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
            outputs = await patiently(lambda: self._history(session, prompt))
            if outputs is not None:
                return outputs
            if end.done():  # the entry is written just after the last message is sent
                until = until or time.monotonic() + RECORD_SECONDS
                if time.monotonic() > until:
                    raise Odd("says that it has drawn the row, and has no record of it")
                await asyncio.sleep(0.02)
                continue
            _, known = await patiently(lambda: self._queued(session))
            if prompt not in known:
                outputs = await patiently(lambda: self._history(session, prompt))
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
        """A file of a row, fetched again where it does not come whole. Raises ``RowError``."""
        named = {key: entry.get(key) or "" for key in ("filename", "subfolder", "type")}
        if not all(isinstance(one, str) for one in named.values()) or not named["filename"]:
            raise RowError(f"node {node}: {shown(entry.get('filename'))} is no name of a file")
        suffix = PurePosixPath(named["filename"]).suffix.lower()

        async def whole() -> Picture:
            data = await get_file(session, self.url, named, suffix)
            try:
                return await asyncio.to_thread(as_picture, node, dict(entry), data)
            except RowError as error:
                if error.again:
                    raise Odd(f"gave a file that cannot be used: {error}") from None
                raise

        return await patiently(whole)

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
