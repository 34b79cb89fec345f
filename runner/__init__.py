"""One workflow over many rows: in this process, on ComfyUI servers, or on a Ray cluster.

``run`` fills the named inputs of an API-format workflow from a table, draws every row once and
writes pictures, metrics and a results table. Nothing here is imported by the pack's nodes; the
parts that need ComfyUI, aiohttp or Ray import it when they are used.
"""

from __future__ import annotations

from .best import best_of
from .errors import RunnerError
from .job import Backend, Outcome, Picture, Task
from .local import InProcess
from .run import Summary, run
from .servers import Servers
from .table import read_table

__all__ = [
    "Backend",
    "InProcess",
    "Outcome",
    "Picture",
    "RunnerError",
    "Servers",
    "Summary",
    "Task",
    "best_of",
    "read_table",
    "run",
]
