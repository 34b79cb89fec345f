"""The least that counts as a ComfyUI, for tests of finding one."""

from __future__ import annotations

from pathlib import Path


def comfyui(folder: Path, main: bool = True) -> Path:
    """The least that counts as a ComfyUI."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "samplers.py").write_text("samplers = 1\n")
    (folder / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    if main:
        (folder / "main.py").write_text("main = 1\n")
    return folder
