"""Work for a table's files done by Ray workers; each table says what a piece of it is."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runner.cluster import Place, Workers
from ..runner.errors import RunnerError
from ..runner.main import positive
from .kept import claimed

HOST_ARGUMENTS = ("--cpu", "--use-pytorch-cross-attention")
"""For ComfyUI in the workers, as ``tools/run.py`` starts it for what comes with the pack."""


@dataclass(frozen=True)
class Piece:
    """A piece of work: ``key`` names the models that it needs, pieces of one key are kept on one
    worker; ``path`` is the file that the driver keeps the result in; ``content`` for the worker."""

    id: str
    key: str
    path: Path
    content: Any = None


def add_arguments(parser: argparse.ArgumentParser, unit: str) -> None:
    """The options that ``Crew.wanted`` reads. ``unit``: what a worker does at a time."""
    parser.add_argument("--ray", metavar="ADDRESS",
                        help=f"draw {unit} by workers of the Ray cluster there; 'local' starts one"
                        " on this machine")  # fmt: skip
    parser.add_argument("--workers", type=positive, metavar="N",
                        help="so many Ray workers; default: one per graphics card")  # fmt: skip


@dataclass(frozen=True)
class Crew:
    """Ray workers at ``place``, each with a ComfyUI of these command-line ``arguments`` that
    computes with so many ``threads``."""

    place: Place
    threads: int
    arguments: Sequence[str] = HOST_ARGUMENTS

    @classmethod
    def wanted(cls, choice: argparse.Namespace) -> Crew | None:
        """The workers that the options of ``add_arguments`` and --threads name, or None."""
        return cls(Place(choice.ray, choice.workers), choice.threads) if choice.ray else None

    def workers(self, factory: str, settings: Mapping[str, Any]) -> Workers:
        """Workers that all do what ``factory`` makes of ``settings``, 'threads' and 'arguments'."""
        own = {"threads": self.threads, "arguments": tuple(self.arguments)}
        return Workers(self.place, factory, {**settings, **own})


def start_worker(threads: int, arguments: Sequence[str]) -> None:
    """Start the ComfyUI of a worker's machine with ``arguments``. Raises ``RunnerError``."""
    import hostpack

    path = hostpack.host_path()
    if path is None:
        raise RunnerError("There is no ComfyUI here: set COMFYUI_PATH to its folder.")
    hostpack.start_host(path, tuple(arguments))
    import torch

    torch.set_num_threads(threads)


def finished(workers: Workers, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Every piece that no other process is at, with what its worker made of it, as they come.

    Raises ``RunnerError`` at the first that fails; the others' results have come by then.
    """
    with ExitStack() as stack:
        mine = [piece for piece in pieces if stack.enter_context(claimed(piece.path))]
        if not mine:  # no worker is started for nothing
            return
        for piece, answer, problem in workers.results(mine, threading.Event()):
            if problem is not None:
                raise RunnerError(f"{piece.id} cannot be drawn: {problem}.")
            yield piece, answer
            for other in mine:  # those that are still under way are not given up
                lock = other.path.with_suffix(".lock")
                if lock.exists():
                    lock.touch()
