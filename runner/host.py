"""ComfyUI in this process, row after row: models and whatever has not changed stay loaded."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import importlib
import importlib.util
import inspect
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import OutOfSpace, RowError, RunnerError, Stopped, full_disk, one_line, tidy
from .errors import shown as quoted
from .executor import host_executor
from .job import DONE, FAILED, Graph, Outcome, Picture, Task
from .messages import failure, refusal
from .metrics import load_metric, measure
from .pictures import LARGEST_FILE, LARGEST_ROW, MOST_FILES, as_picture
from .pictures import pixel_hash as pixel_hash
from .values import info_of

CLEAN_UP_SECONDS = 10.0
"""How often unreachable objects are collected, which may hold models; as ComfyUI's server does."""
Shown = dict[str, Any]
"""What the nodes of a run showed: ``{node: {key: [entries]}}``."""


def host_arguments(asked: Sequence[str] = ()) -> tuple[str, ...]:
    """ComfyUI's command line for this machine: what was ``asked`` for, and the CPU if there is
    nothing better."""
    import torch

    devices = [torch.cuda, torch.backends.mps, getattr(torch, "xpu", None)]
    found = any(device is not None and device.is_available() for device in devices)
    return tuple(asked) if found or "--cpu" in asked else ("--cpu", *asked)


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
        from execute import InProcess  # pyright: ignore[reportMissingImports]

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
        from execute import Memory  # pyright: ignore[reportMissingImports]

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
        try:
            outcome.shown, outcome.pictures = self._draw(task)
            row = {**task.values, "id": task.id, "workflow": task.graph}
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
            outcome.pictures = []
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


def plain(value: Any, deepest: int = 64) -> Any:
    """``value`` as it comes through JSON: classes of the host mean nothing where it is not.

    What JSON cannot write (a key that is no text, a list in itself, more than ``deepest`` levels)
    becomes text.
    """
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError, RecursionError):
        pass
    if deepest and isinstance(value, dict):
        return {tidy(key, 200): plain(one, deepest - 1) for key, one in value.items()}
    if deepest and isinstance(value, (list, tuple)):
        return [plain(one, deepest - 1) for one in value]
    return f"({type(value).__name__})"


def files_of(shown: Any) -> list[tuple[str, dict[str, Any]]]:
    """(node, entry) of the files that a run made: those saved, or, without any, the previews.

    What has not the form of an entry, as nodes of others show it, is none. Raises ``RowError`` for
    more than ``MOST_FILES``.
    """
    shows_of = shown.items() if isinstance(shown, dict) else ()
    entries = [
        (str(node), entry)
        for node, shows in sorted(shows_of, key=lambda pair: _natural(str(pair[0])))
        if isinstance(shows, dict)
        for key in sorted(shows, key=str)
        for entry in (shows[key] if isinstance(shows[key], (list, tuple)) else ())
        if isinstance(entry, dict) and {"filename", "type"} <= set(entry)
    ]
    saved = [(node, entry) for node, entry in entries if entry["type"] == "output"]
    found = saved or [(node, entry) for node, entry in entries if entry["type"] == "temp"]
    if len(found) > MOST_FILES:
        raise RowError(f"it made {len(found)} files, and up to {MOST_FILES} of a row are taken")
    return found


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Node ids are numbers as text, in subgraphs several with colons; 9 comes before 10."""
    parts = [(part, len(part) < 20 and part.isascii() and part.isdigit())
             for part in name.split(":")]  # fmt: skip
    return [(not number, int(part) if number else 0, part) for part, number in parts]


def collect(shown: Shown, fetch: Callable[[dict[str, Any]], bytes]) -> list[Picture]:
    """A run's files, whole, by ``fetch(entry)``. Raises ``RowError``."""
    found, size = [], 0
    for node, entry in files_of(shown):
        found.append(as_picture(node, entry, fetch(entry)))
        size = check_size(size + len(found[-1].data))
    return found


def check_size(size: int) -> int:
    """``size``, unless it is too much for one row."""
    if size > LARGEST_ROW:
        raise RowError(f"its files take more than {LARGEST_ROW >> 20} MiB, which is too much")
    return size


def read_file(base: Path, entry: dict[str, Any]) -> bytes:
    """A file that a node saved below ``base``. Raises ``RowError`` for one that is elsewhere or too
    large, ``FileNotFoundError`` if there is none."""
    parts = [entry["type"], entry.get("subfolder") or "", entry["filename"]]
    if not all(isinstance(part, str) and "\0" not in part for part in parts) or not parts[2]:
        raise RowError(f"a node gave {quoted(entry['filename'])} as the name of a file")
    path = base.joinpath(*parts)
    if not path.resolve().is_relative_to(base.resolve()):
        raise RowError(f"a node saved {quoted(path)}, which is not below the output folder")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise RowError(
            f"{quoted(path.name)} has {size >> 20} MiB, and up to {LARGEST_FILE >> 20} are taken"
        )
    return path.read_bytes()


def log_to(path: Path) -> logging.Handler:
    """Send the host's log to a file: beside the progress bar it could not be read."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    return handler
