"""ComfyUI in this process, row after row: models and whatever has not changed stay loaded."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import importlib
import importlib.util
import inspect
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import OutOfSpace, RowError, RunnerError, Stopped, full_disk, one_line
from .executor import host_executor
from .job import DONE, FAILED, Graph, Outcome, Picture, Task
from .messages import failure, refusal
from .metrics import load_metric, measure
from .pictures import pixel_hash as pixel_hash
from .shown import Shown, collect, files_of, plain, read_file
from .values import info_of

CLEAN_UP_SECONDS = 10.0
"""How often unreachable objects are collected, which may hold models; as ComfyUI's server does."""


def host_arguments(wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """ComfyUI's command line for this machine: what is ``wanted``, and the CPU if there is
    nothing better."""
    import torch

    devices = [torch.cuda, torch.backends.mps, getattr(torch, "xpu", None)]
    found = any(device is not None and device.is_available() for device in devices)
    return tuple(wanted) if found or "--cpu" in wanted else ("--cpu", *wanted)


class Silent:
    """Stands where the host's executor expects its server: there is nobody to tell of steps."""

    client_id = None
    last_node_id = None
    last_prompt_id = None
    sockets_metadata: dict[str, Any] = {}  # noqa: RUF012 (never written to)

    def send_sync(self, *_: object, **__: object) -> None:
        """Nobody listens."""


class Host:
    """The host's nodes, this pack's and, once one of them is needed, the user's other packs."""

    def __init__(self, path: Path, base: Path, arguments: Sequence[str]) -> None:
        """Start the ComfyUI at ``path``; whatever nodes save goes below ``base``."""
        from execute import InProcess

        self.path, self.base = path, base
        self._folders = _folders() if "folder_paths" in sys.modules else {}
        self._nodes = InProcess(path, base, tuple(arguments))
        self._custom_nodes_loaded = False
        self._extra_model_paths()
        self._executor: Any = None
        self._memory: Any = None
        if importlib.util.find_spec("comfy_execution") is not None:
            self._execution = importlib.import_module("execution")
            self._executor = host_executor(path, self._execution, Silent())
        else:
            self._memory = self._new_memory()

    @staticmethod
    def _new_memory() -> Any:
        from execute import Memory

        return Memory()

    def close(self) -> None:
        """Give the host its folders back, where it had others before."""
        folder_paths = importlib.import_module("folder_paths")
        for name, folder in self._folders.items():
            setter = getattr(folder_paths, f"set_{name}_directory", None)
            if setter is not None:
                setter(folder)

    def _extra_model_paths(self) -> None:
        """The user's further model folders, which ComfyUI's own start reads before its nodes."""
        listing = self.path / "extra_model_paths.yaml"
        if listing.is_file():
            extra = importlib.import_module("utils.extra_config")
            extra.load_extra_path_config(str(listing))

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """As ``GET /object_info`` describes the classes; unknown ones are left out."""
        names = set(names)
        info = self._nodes.object_info(names)
        if names - set(info) and not self._custom_nodes_loaded:
            self._load_custom_nodes()
            info = self._nodes.object_info(names)
        return info

    def _load_custom_nodes(self) -> None:
        """Import the packs in the host's ``custom_nodes``, but for another copy of this one."""
        self._custom_nodes_loaded = True
        load = getattr(self._nodes.nodes, "init_external_custom_nodes", None)
        if load is None:
            return
        ours = dict(self._nodes.nodes.NODE_CLASS_MAPPINGS)
        # packs add routes to the server when they are imported
        server = importlib.import_module("server")
        made = server.PromptServer(asyncio.new_event_loop())
        made.send_sync = Silent().send_sync
        loading = load()
        if inspect.isawaitable(loading):
            asyncio.run(_finish(loading))
        self._nodes.nodes.NODE_CLASS_MAPPINGS.update(
            {name: node for name, node in ours.items() if name.startswith("RealCompo")}
        )

    def forget(self) -> None:
        """Compute everything anew from now on."""
        if self._executor is not None:
            self._executor.reset()
        else:
            self._memory = self._new_memory()

    def run(self, graph: Graph, name: str) -> Shown:
        """Run a graph; raises ``RowError`` if the host refuses it or a node fails, ``Stopped`` if
        it was interrupted."""
        if self._executor is not None:
            return self._run(copy.deepcopy(graph), name)
        return self._run_small(graph)

    def _run(self, graph: Graph, name: str) -> Shown:
        check = self._execution.validate_prompt
        wants = len(inspect.signature(check).parameters)  # releases before 0.3.45 take the graph
        checked = check(*((name, graph, None)[:wants] if wants > 1 else (graph,)))
        if inspect.isawaitable(checked):
            checked = asyncio.run(_finish(checked))
        valid, error, outputs, node_errors = checked
        if not valid or node_errors:
            raise RowError(refusal(error, node_errors))
        self._executor.execute(graph, name, {}, outputs)
        if not self._executor.success:
            kind, said = failure(self._executor.status_messages)
            raise Stopped(said) if kind == "execution_interrupted" else RowError(said)
        return dict(self._executor.history_result["outputs"])

    def _run_small(self, graph: Graph) -> Shown:
        management = importlib.import_module("comfy.model_management")
        try:
            graph = copy.deepcopy(graph)
            return dict(self._nodes.run(graph, memory=self._memory).shown)
        except management.InterruptProcessingException as error:
            raise Stopped("interrupted") from error
        except Exception as error:  # whatever a node raises; the other rows go on
            known = isinstance(error, ValueError)
            said = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
            raise RowError(said) from error


def _folders() -> dict[str, str]:
    folder_paths: Any = importlib.import_module("folder_paths")
    names = ("output", "temp", "input")
    return {name: getattr(folder_paths, f"get_{name}_directory")() for name in names}


async def _finish(awaitable: Any) -> Any:
    return await awaitable


class GraphWorker:
    """Draws one row after the other in this process. Callable with a ``Task``, gives its
    ``Outcome``; what makes every further row impossible is raised instead."""

    def __init__(
        self,
        path: Path | str | None = None,
        arguments: Sequence[str] = (),
        metrics: Sequence[str] = (),
        name: str = "",
    ) -> None:
        """``path``: the ComfyUI (default: ``COMFYUI_PATH``). ``arguments``: its command line.
        ``metrics``: names for ``load_metric``."""
        path = Path(path or os.environ.get("COMFYUI_PATH", ""))
        if not (path / "comfy").is_dir():
            raise RunnerError(f"There is no ComfyUI at '{path}': set COMFYUI_PATH to its folder.")
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._base = Path(tempfile.mkdtemp(prefix="realcompo-run-"))
        self._host = Host(path, self._base, host_arguments(arguments))
        self._management = importlib.import_module("comfy.model_management")
        self._metrics = {metric: load_metric(metric) for metric in metrics}
        # A search for unreachable objects would go through everything that was imported, each time
        # for a third of a second. What is there before the first model is loaded stays anyway.
        gc.collect()
        gc.freeze()
        self._cleaned = time.monotonic()
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(self._quiet_progress())

    def close(self) -> None:
        """Remove the working folder and give the host its progress bar back."""
        gc.unfreeze()
        self._quiet.close()
        self._host.close()
        shutil.rmtree(self._base, ignore_errors=True)

    @contextlib.contextmanager
    def _quiet_progress(self) -> Iterator[None]:
        """No bar per row; but the host looks for a stop where it would show a step."""
        utils: Any = importlib.import_module("comfy.utils")
        before = utils.PROGRESS_BAR_ENABLED, utils.PROGRESS_BAR_HOOK
        utils.PROGRESS_BAR_ENABLED = False
        utils.set_progress_bar_global_hook(
            lambda *_, **__: self._management.throw_exception_if_processing_interrupted()
        )
        try:
            yield
        finally:
            utils.PROGRESS_BAR_ENABLED, utils.PROGRESS_BAR_HOOK = before

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        """See ``Host.describe``; as plain values, as they come from a server."""
        names = set(names)
        return info_of(plain(self._host.describe(names)), names)

    def interrupt(self) -> None:
        """Make the row under way raise ``Stopped`` at its next step; from any thread."""
        self._management.interrupt_current_processing()

    def __call__(self, task: Task) -> Outcome:
        """Draw one row. Raises ``Stopped`` and ``OutOfSpace``; every other failure is in the
        outcome."""
        started = time.monotonic()
        outcome = Outcome(task.id, FAILED, self.name)
        row = {**task.values, "id": task.id, "workflow": task.graph}
        try:
            outcome.shown, outcome.pictures = self._draw(task)
            outcome.seconds = time.monotonic() - started
            outcome.metrics = measure(self._metrics, outcome.pictures, row)
            outcome.status = DONE
        except (RunnerError, Stopped):
            raise
        except Exception as error:  # whatever a node, or a file of its, brings; the others go on
            known = isinstance(error, (RowError, OSError))
            kind = "" if known else f"{type(error).__name__}: "
            outcome.error = one_line(f"{kind}{error}")
            outcome.again = isinstance(error, RowError) and error.again
            outcome.seconds = outcome.seconds or time.monotonic() - started
            if full_disk(str(error)):
                raise OutOfSpace(
                    f"The folder for temporary files ({self._base.parent}) is full: free some"
                    " space, or name another folder in TMPDIR, and start again to go on."
                ) from None
        finally:
            self._clear(outcome.shown)
            self._collect_garbage()
        return outcome

    def _draw(self, task: Task) -> tuple[Shown, list[Picture]]:
        shown = plain(self._host.run(task.graph, task.id))
        try:
            return shown, self._collect(shown)
        except FileNotFoundError:
            # the same row a moment ago: nothing had changed, so that nothing was saved anew
            self._host.forget()
            shown = plain(self._host.run(task.graph, task.id))
            return shown, self._collect(shown)

    def _collect(self, shown: Shown) -> list[Picture]:
        return collect(shown, lambda entry: read_file(self._base, entry))

    def _clear(self, shown: Shown) -> None:
        """Remove the row's files. A preview whose node need not run again stays: the next row
        shows the same file."""
        shutil.rmtree(self._base / "output", ignore_errors=True)
        (self._base / "output").mkdir(parents=True, exist_ok=True)
        kept: set[str] = set()
        with contextlib.suppress(RowError):
            kept = {str(entry["filename"]) for _, entry in files_of(shown)}
        for path in (self._base / "temp").glob("*"):
            if path.is_file() and path.name not in kept:
                path.unlink(missing_ok=True)

    def _collect_garbage(self) -> None:
        if time.monotonic() - self._cleaned > CLEAN_UP_SECONDS:
            gc.collect()
            self._management.soft_empty_cache()
            self._cleaned = time.monotonic()


def log_to(path: Path) -> logging.Handler:
    """Send the host's log to a file: beside the progress bar it could not be read."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    return handler
