"""Rows drawn by actors of a Ray cluster: one per graphics card, each with its models loaded.

Ray places the workers, starts a new one where one has died, carries tasks and results, and limits
nothing but what is asked of it: at most ``DEPTH`` tasks are under way per worker, so that a driver
that is slower than its workers is not flooded.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import OutOfSpace, RunnerError, one_line
from .job import FAILED, Outcome, Shelf, Task
from .metrics import check_metric

DEPTH = 2
"""Tasks that a worker has: one that it does, and the next, so that it never waits."""
LOOK_SECONDS = 0.5
START_SECONDS = 600.0
KNOCK_SECONDS = 10.0
ROOT = Path(__file__).resolve().parent.parent
GRAPH_WORKER = "runner.host:GraphWorker"
# A worker's computation must not differ from the driver's: the number of threads changes sums.
PASSED_ON = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONWARNINGS", "TMPDIR")


@dataclass(frozen=True)
class Place:
    """Which cluster, and where the workers find what they need on their machines.

    ``address``: 'local' starts Ray on this machine, 'auto' or 'host:6379' or 'ray://...' joins a
    cluster. ``workers``: how many, default one per graphics card, one where there is none.
    ``processors``: what a Ray started here may use, default all, and one for each worker.
    ``pack`` and ``comfyui``: folders on the workers' machines, default as on this one.
    """

    address: str = "local"
    workers: int | None = None
    pack: Path = ROOT
    comfyui: Path | None = None
    processors: int | None = None


def _actor() -> type:
    """The worker's class. Made here, so that it travels to the workers by value: the pack has no
    name there until this class has given it one."""

    class Worker:
        def __init__(
            self, tools: str, environment: dict[str, str], factory: str, settings: dict[str, Any]
        ) -> None:
            import importlib
            import os
            import sys

            os.environ.update(environment)
            if tools not in sys.path:
                sys.path.insert(0, tools)
            hostpack = importlib.import_module("hostpack")
            hostpack.engine_package()
            module, _, name = factory.partition(":")
            self.made = getattr(importlib.import_module(f"{hostpack.PACK}.{module}"), name)
            self.made = self.made(**settings)

        def work(self, task: Any) -> Any:
            return self.made(task)

        def ask(self, name: str, *arguments: Any) -> Any:
            return getattr(self.made, name)(*arguments)

        def ready(self) -> int:
            import os

            return os.getpid()

    return Worker


class Workers:
    """Actors that all do the same: ``factory(**settings)`` makes a callable in each, whose calls
    ``results`` hands out. A context manager."""

    def __init__(self, place: Place, factory: str, settings: Mapping[str, Any]) -> None:
        """``factory``: 'module:name' below the pack."""
        self.place, self.factory, self.settings = place, factory, dict(settings)
        self._actors: list[Any] = []
        self._ours = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start Ray and the actors; once. Raises ``RunnerError``."""
        if self._actors:
            return
        ray = _ray()
        self._join(ray)
        cards = int(ray.cluster_resources().get("GPU", 0))
        wanted = self.place.workers or cards or 1
        cpus = int(ray.cluster_resources().get("CPU", 1))
        if cards and wanted > cards:
            raise RunnerError(f"The cluster has {cards} graphics cards, not {wanted}: ask for"
                              f" --workers {cards}.")  # fmt: skip
        if not cards and wanted > cpus:
            raise RunnerError(f"The cluster has {cpus} processors, not {wanted}: ask for"
                              f" --workers {cpus}.")  # fmt: skip
        # A worker that died is started anew by Ray as often as it takes. Its row is not retried by
        # Ray in the same place but goes back to the shelf: a machine may never come back.
        options = {"max_restarts": -1, "max_task_retries": 0, "num_cpus": 1}
        actor = ray.remote(**options, **({"num_gpus": 1} if cards else {}))(_actor())
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        comfyui = self.place.comfyui or os.environ.get("COMFYUI_PATH", "")
        environment["COMFYUI_PATH"] = str(comfyui)
        tools = str(self.place.pack / "tools")
        self._actors = [
            actor.remote(tools, environment, self.factory, self.settings) for _ in range(wanted)
        ]
        try:
            ray.get(self._actors[0].ready.remote(), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise RunnerError(
                f"No worker started within {START_SECONDS:.0f} s: see whether the cluster has a"
                " free graphics card ('ray status')."
            ) from None
        except ray.exceptions.RayError as error:
            raise RunnerError(f"A worker cannot start: {_cause(error)}.") from None

    def _join(self, ray: Any) -> None:
        if ray.is_initialized():
            return
        if self.place.address == "local":
            self._start_here(ray)
        else:
            try:
                _knock(self.place.address)
                ray.init(address=self.place.address, log_to_driver=False, logging_level="error")
            except Exception as error:  # of several kinds, by what does not answer
                raise RunnerError(
                    f"There is no Ray at '{self.place.address}' ({one_line(error)}): start it with"
                    " 'ray start', or use --ray local."
                ) from None
        self._ours = True

    def _start_here(self, ray: Any) -> None:
        processors = self.place.processors or max(self.place.workers or 1, os.cpu_count() or 1)
        for last in (False, True):
            try:
                ray.init(
                    address="local", include_dashboard=False, num_cpus=processors,
                    log_to_driver=False, logging_level="error",
                )  # fmt: skip
                return
            except Exception as error:
                # Ray gives its own processes half a minute, which a busy machine may not manage
                ray.shutdown()
                if last:
                    raise RunnerError(
                        f"Ray does not start on this machine ({one_line(error)}): free some of its"
                        " processor or memory, then run the same command again."
                    ) from None

    def pids(self) -> list[int]:
        """The workers' processes, once all of them have started."""
        self.start()
        return _ray().get([actor.ready.remote() for actor in self._actors])

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the first worker's callable."""
        self.start()
        ray = _ray()
        try:
            return ray.get(self._actors[0].ask.remote(name, *arguments))
        except ray.exceptions.RayError as error:
            raise RunnerError(f"A worker failed: {_cause(error)}.") from None

    def results(
        self, tasks: Sequence[Any], stop: threading.Event, most: int | None = None
    ) -> Iterator[tuple[Any, Any, str | None]]:
        """(task, its result, None) as they come; (task, None, sentence) for a task that its
        worker raised at, or that killed it too often.

        ``tasks`` have an ``id`` and a ``key``; those of one key are kept on one worker. ``most``:
        use so many of the workers.
        """
        self.start()
        round_ = _Round(self._actors[:most], tasks)
        while round_.unfinished and not stop.is_set():
            round_.hand_out()
            yield from round_.next()

    def interrupt(self) -> None:
        """Nothing beyond ``stop``: ``close`` ends the workers with what they do."""

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if not self._actors and not self._ours:
            return
        ray = _ray()
        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor, no_restart=True)
            if self._ours:
                ray.shutdown()
        self._actors, self._ours = [], False


class _Round:
    """One pass of tasks over actors: who is up, and what each of them has."""

    def __init__(self, actors: Sequence[Any], tasks: Sequence[Any]) -> None:
        self.ray, self.actors, self.shelf = _ray(), actors, Shelf(tasks)
        self.load = dict.fromkeys(actors, 0)
        # No worker gets a row before it is known to be up: one that starts slowly must not hold
        # rows back from the others.
        self.pending: dict[Any, tuple[Any, Any]] = {}
        for actor in actors:
            self._await(actor)
        self.up: set[Any] = set()

    def _await(self, actor: Any) -> None:
        """Have ``next`` hear of it when the actor is up."""
        self.pending[actor.ready.remote()] = (actor, None)

    @property
    def unfinished(self) -> bool:
        """Is there a task that nobody has taken, or one under way?"""
        return bool(len(self.shelf)) or any(task is not None for _, task in self.pending.values())

    def hand_out(self) -> None:
        """Tasks for every actor that is up and has room. Raises ``RunnerError`` if none is left."""
        for actor in self.up:
            while self.load[actor] < (DEPTH if len(self.shelf) > len(self.actors) else 1):
                task = self.shelf.take(actor)
                if task is None:
                    break
                self.pending[actor.work.remote(task)] = (actor, task)
                self.load[actor] += 1
        if not self.pending:
            raise RunnerError(
                "No worker is left: see 'ray status', then run the same command again; what is"
                " finished stays."
            )

    def next(self) -> Iterator[tuple[Any, Any, str | None]]:
        """What comes within ``LOOK_SECONDS``, as ``Workers.results`` gives it."""
        done, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=LOOK_SECONDS)
        for reference in done:
            actor, task = self.pending.pop(reference)
            if task is not None:
                self.load[actor] -= 1
            try:
                result = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                if isinstance(cause, OutOfSpace):
                    raise OutOfSpace(one_line(cause) + ".") from None
                yield task, None, f"{type(cause).__name__}: {one_line(cause)}"
            except self.ray.exceptions.RayError as error:
                self._lost(actor, task, error)
                if task is not None and not self.shelf.put_back(task):
                    yield task, None, f"its worker died each time ({_cause(error)})"
            else:
                if task is None:
                    self.up.add(actor)
                else:
                    yield task, result, None

    def _lost(self, actor: Any, task: Any, error: Exception) -> None:
        """An actor died: it answers when Ray has started it anew."""
        if actor in self.up:
            self.up.discard(actor)
            self.shelf.leave(actor)
            self._await(actor)
        elif task is None and isinstance(error, self.ray.exceptions.ActorUnavailableError):
            self._await(actor)  # other errors are for good: it is not started again


class Cluster:
    """Workflow rows on a Ray cluster; metrics are computed beside the pictures, by the workers."""

    def __init__(
        self,
        place: Place,
        arguments: Sequence[str] = (),
        metrics: Sequence[str] = (),
    ) -> None:
        """``arguments``: ComfyUI's command line; ``metrics``: see ``load_metric``."""
        names = [check_metric(metric) for metric in metrics]
        settings = {"arguments": tuple(arguments), "metrics": names}
        self.workers = Workers(place, GRAPH_WORKER, settings)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """See ``Backend``."""
        return self.workers.ask("describe", sorted(set(names)))

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        """See ``Backend``."""
        for task, outcome, problem in self.workers.results(tasks, stop):
            yield outcome or Outcome(task.id, FAILED, "ray", error=problem)

    def interrupt(self) -> None:
        """See ``Backend``."""
        self.workers.interrupt()


def _knock(address: str) -> None:
    """Raise ``OSError`` if nothing listens at 'host:port': Ray itself tries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _cause(error: BaseException) -> str:
    """The sentence inside Ray's report of a failure, which is a page long."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in said if line.split(":")[0].endswith(("Error", "Exception"))]
    return one_line((named or said or [type(error).__name__])[-1])


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise RunnerError("Ray is not installed: pip install 'ray>=2.40'.") from None
    return ray
