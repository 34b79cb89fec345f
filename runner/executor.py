"""The host's prompt executor, with the node cache that the host's own server gives it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from .errors import RunnerError

WORKER = "prompt_worker"
"""The function of ComfyUI's ``main.py`` that makes the executor and then waits for prompts."""


class _Made(BaseException):
    """Ends the worker where it makes the executor; not for a handler of its own to catch."""


class _Execution:
    """Stands for the host's ``execution`` module in the worker: notes how the executor is made."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.received: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def PromptExecutor(self, *args: Any, **more: Any) -> None:  # noqa: N802 (the host's name)
        self.received = args, more
        raise _Made


def host_executor(host: Path, execution: Any, server: Any) -> Any:
    """An executor such as the server of the ComfyUI at ``host`` makes for itself.

    The kind and size of its cache follow from the command line and the machine, by rules that
    differ from release to release; importing ``main.py`` would start custom nodes. So its own
    worker is run up to the point where it has made up its mind. ``execution``: the host's module.
    Raises ``RunnerError`` where the worker is not to be found or does something else.
    """
    stand_in = _Execution(execution)
    try:
        _worker(host / "main.py", stand_in)(None, server)
        raise RuntimeError(f"{WORKER} makes none")
    except _Made:
        args, more = stand_in.received
    except Exception as error:  # whatever another release does there
        raise RunnerError(
            f"The ComfyUI at '{host}' makes its executor in a way that is not known here"
            f" ({type(error).__name__}: {error}): start its server and name it with --server."
        ) from error
    return execution.PromptExecutor(*args, **more)


def _worker(main: Path, execution: _Execution) -> Any:
    """The function alone, with the modules that it names (those which are loaded)."""
    tree = ast.parse(main.read_text(encoding="utf-8"))
    worker = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == WORKER]
    code = compile(ast.Module(list(worker), []), str(main), "exec")
    names: dict[str, Any] = dict(sys.modules)
    names.update(execution=execution, args=sys.modules["comfy.cli_args"].args)
    exec(code, names)  # noqa: S102 (the code of the host itself)
    return names[WORKER]
