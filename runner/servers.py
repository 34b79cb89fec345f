"""Rows drawn by running ComfyUI servers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .addresses import server_address, without_password
from .answers import ANSWER_SECONDS, Odd, get_info, why
from .errors import RunnerError
from .job import Outcome, Task
from .metrics import load_metric
from .server_line import ServerLine
from .server_tasks import ServerTasks
from .values import info_of

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
        self.urls = list(dict.fromkeys(server_address(url) for url in urls))
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
            requests = [get_info(session, url, names) for url in self.urls]
            answers = await asyncio.gather(*requests, return_exceptions=True)
        infos: list[dict[str, Any]] = []
        for name, answer in zip(map(without_password, self.urls), answers, strict=True):
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
                await self._run(ServerTasks(tasks, len(self.urls), self._metrics, found))
            finally:
                self._loop = self._main = None

        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # raised in the thread that waits for results
            found.put(error)
        found.put(None)

    async def _run(self, tasks: ServerTasks) -> None:
        """Until every task has its outcome: a listener and ``DEPTH`` fetchers for every server.

        Raises ``RunnerError`` if no server is left.
        """
        lines = [ServerLine(tasks, url) for url in self.urls]
        workers = [asyncio.create_task(line.run()) for line in lines]
        workers.append(asyncio.create_task(self._watch(tasks, lines)))
        done = asyncio.create_task(tasks.waiting.join())
        try:
            await asyncio.wait([done, *workers], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()
        finally:
            for one in (done, *workers):
                one.cancel()
            await asyncio.gather(done, *workers, return_exceptions=True)

    async def _watch(self, tasks: ServerTasks, lines: Sequence[ServerLine]) -> None:
        """End the run when nobody has answered for as long as the user waits."""
        last_answer = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            if any(line.up for line in lines):
                last_answer = time.monotonic()
            elif time.monotonic() - last_answer > self.patience:
                names = " and ".join(map(without_password, self.urls))
                said = f"; the last one: {tasks.last_words}" if tasks.last_words else ""
                raise RunnerError(
                    f"No server has answered for {self.patience:.0f} s ({names}{said}):"
                    " start one, then run the same command again; what is finished stays."
                )


def _choices(info: Mapping[str, Any], name: str, section: str, key: str) -> Sequence[Any]:
    spec = (info[name]["input"].get(section) or {}).get(key)
    return spec[0] if spec and isinstance(spec[0], list) else []
