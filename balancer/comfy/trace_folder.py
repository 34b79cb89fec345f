"""Where traces lie: below the host's output and input folders, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..errors import RealCompoError
from ..trace_file import SUFFIX

NEWEST = "newest in output"


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
        if name.endswith(SUFFIX)
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
            "trace_file", f"'{name}' names no file and its folder",
            "Write it as 'name.trace.safetensors [output]' or '... [input]'.",
        )  # fmt: skip
    return _inside(folders[kind], relative, "trace_file")


def next_file(prefix: str) -> tuple[Path, str]:
    """A free place for ``prefix`` below the output folder, and its name for ``find_trace``.

    Raises RealCompoError for a prefix that leads out of the folder.
    """
    output = folder_paths.get_output_directory()
    _inside(output, prefix, "filename_prefix")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    file = f"{name}_{counter:05}_{SUFFIX}"
    shown = "/".join(part for part in (subfolder.replace(os.sep, "/"), file) if part)
    return Path(folder, file), f"{shown} [output]"


def _inside(folder: str, relative: str, where: str) -> Path:
    # without following links: a user may have linked a folder of theirs into the host's
    base = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(base, relative))
    if not path.startswith(base + os.sep):
        raise RealCompoError(
            where, f"'{relative}' leads out of ComfyUI's folder",
            "Name a place below it, without '..' and without a drive or a leading slash.",
        )  # fmt: skip
    return Path(path)
