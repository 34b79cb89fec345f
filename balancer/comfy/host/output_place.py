"""A free name below the host's output folder, for the nodes that save files."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...errors import RealCompoError, shown
from ...values.whole_file import cannot_write, checked_name


def inside(folder: str, relative: str, where: str) -> Path:
    """The path ``relative`` below ``folder``; RealCompoError at ``where`` if it leads out of it.

    Links are not followed: a user may have linked a folder of theirs into the host's.
    """
    base = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(base, relative))
    if not path.startswith(base + os.sep):
        raise RealCompoError(
            where, f"{shown(relative)} leads out of ComfyUI's folder",
            "Name a place below it, without '..' and without a drive or a leading slash",
        )  # fmt: skip
    return Path(path)


def free_place(prefix: str, suffix: str, where: str = "filename_prefix") -> tuple[Path, str]:
    """The next free file of ``prefix`` with ``suffix``, and its name below the output folder.

    The host fills in dates (%year%) and numbers. Raises RealCompoError at ``where`` for a name that
    leads out of the folder or that some system cannot hold, and when a folder cannot be made.
    """
    output = folder_paths.get_output_directory()
    prefix = prefix.strip()
    if ".." in prefix or os.path.isabs(prefix):
        inside(output, prefix, where)
    inside(output, checked_name(prefix, where), where)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        # the host counts some files only
        while Path(folder, f"{name}_{counter:05}_{suffix}").exists():
            counter += 1
    except OSError as error:
        raise cannot_write(error, prefix, where) from error
    path = Path(folder, f"{name}_{counter:05}_{suffix}")
    return path, "/".join(p for p in (subfolder.replace(os.sep, "/"), path.name) if p)
