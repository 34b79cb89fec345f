"""Where traces lie: below the host's output and input folders, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...errors import RealCompoError, shown
from ...realcompo.trace_file import SUFFIX
from ...values import checked
from ...values.foreign_json import has_surrogates
from ..host.output_place import free_place, inside

NEWEST = "newest in output"
LONGEST_NAME = 4096
"""Characters of a name that is looked for."""


def _folders() -> dict[str, str]:
    return {
        "output": folder_paths.get_output_directory(), "input": folder_paths.get_input_directory()
    }  # fmt: skip


def _traces(folder: str) -> list[str]:
    """Traces below a folder, as paths relative to it with forward slashes."""
    found = [
        os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
        for where, _, names in os.walk(folder)
        for name in names
        # a name that is no text cannot be chosen, and a link may lead nowhere
        if name.endswith(SUFFIX)
        and not has_surrogates(os.path.join(where, name))
        and os.path.isfile(os.path.join(where, name))
    ]
    return sorted(found)


def choices() -> list[str]:
    """What a user may choose: the newest, or a file by name and, in brackets, its folder."""
    named = [f"{name} [{kind}]" for kind, folder in _folders().items() for name in _traces(folder)]
    return [NEWEST, *named]


def find_trace(name: str) -> Path:
    """The file that a choice or a saved trace's name stands for.

    Raises RealCompoError for names that lead out of the host's folders, and when there is none.
    """
    folders = _folders()
    checked.text(name, "trace_file", LONGEST_NAME)
    if "\0" in name:
        raise RealCompoError(
            "trace_file", "it holds a control character, which no file's name can",
            "Take the name that RealCompo Save Trace gives",
        )  # fmt: skip
    if name == NEWEST:
        traces = [Path(folders["output"], entry) for entry in _traces(folders["output"])]
        if not traces:
            raise RealCompoError(
                "trace_file", "there is no trace in the output folder yet",
                "Save one with RealCompo Save Trace, or choose a file.",
            )  # fmt: skip
        return max(traces, key=lambda path: path.stat().st_mtime_ns)
    relative, _, kind = name.strip().rpartition(" [")
    kind = kind.removesuffix("]")
    if not relative or kind not in folders:
        raise RealCompoError(
            "trace_file", f"{shown(name)} names no file and its folder",
            "Write it as 'name.trace.safetensors [output]' or '... [input]'.",
        )  # fmt: skip
    return inside(folders[kind], relative, "trace_file")


def next_file(prefix: str) -> tuple[Path, str]:
    """A free place for ``prefix`` below the output folder, and its name for ``find_trace``.

    Raises RealCompoError as ``free_place``.
    """
    path, name = free_place(prefix, SUFFIX)
    return path, f"{name} [output]"
