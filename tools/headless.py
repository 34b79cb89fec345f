"""What the headless copy of ComfyUI leaves out and a run without a server needs: its folders."""

from __future__ import annotations

import re
import types
from pathlib import Path


def give_folders(folder_paths: types.ModuleType, base: Path) -> None:
    """Let the host save below ``base`` (``output``, ``temp``, ``input``).

    A full host has setters. The headless copy has fixed, unused functions in their place, which
    its ``SaveImage`` cannot work with; they are replaced.
    """
    folders = {name: base / name for name in ("output", "temp", "input")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        setter = getattr(folder_paths, f"set_{name}_directory", None)
        if setter is not None:
            setter(str(folder))
        else:
            setattr(folder_paths, f"get_{name}_directory", lambda path=str(folder): path)
    if not hasattr(folder_paths, "set_output_directory"):
        folder_paths.get_save_image_path = save_image_path  # type: ignore[attr-defined]


def save_image_path(
    prefix: str, output: str, width: int = 0, height: int = 0
) -> tuple[str, str, int, str, str]:
    """Folder, file name, next free counter, subfolder and prefix for pictures named ``prefix``.

    Raises ``ValueError`` for a prefix that leaves ``output``.
    """
    prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
    relative = Path(prefix)
    folder = (Path(output) / relative.parent).resolve()
    if not folder.is_relative_to(Path(output).resolve()):
        raise ValueError(f"the file name prefix '{prefix}' leaves the output folder")
    folder.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(relative.name) + r"_(\d+)_?\.")
    names = [pattern.match(path.name) for path in folder.iterdir()]
    taken = [int(found.group(1)) for found in names if found]
    subfolder = "" if relative.parent == Path(".") else str(relative.parent)
    return str(folder), relative.name, max(taken, default=0) + 1, subfolder, prefix
