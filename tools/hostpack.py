"""Load this pack the way ComfyUI does, outside ComfyUI's own start-up.

ComfyUI imports a pack from its file location under a name of its own, and never puts the pack's
root on ``sys.path`` (its ``nodes/`` would shadow the host's ``nodes.py``). Tests, training and the
demo go through the functions below, so that they see the same module tree as a running ComfyUI.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

PACK = "realcompo"
ROOT = Path(__file__).resolve().parent.parent


def engine_package() -> types.ModuleType:
    """Make ``realcompo.balancer`` and friends importable without running the pack's registration.

    Returns the (empty) package module. Needs no host.
    """
    module = sys.modules.get(PACK)
    if module is None:
        module = types.ModuleType(PACK)
        module.__path__ = [str(ROOT)]
        sys.modules[PACK] = module
    return module


def host_path() -> Path | None:
    """Folder of the ComfyUI that ``dev.py`` chose (environment ``COMFYUI_PATH``), or None."""
    value = os.environ.get("COMFYUI_PATH", "")
    path = Path(value) if value else None
    return path if path is not None and (path / "comfy").is_dir() else None


def start_host(path: Path, arguments: tuple[str, ...] = ("--cpu",)) -> None:
    """Put ComfyUI's root first on ``sys.path`` and switch its command line parsing on.

    ``utils.extra_config`` is imported before ``nodes``: ``nodes.py`` puts ``comfy/`` on the path,
    whose ``utils.py`` would otherwise shadow ComfyUI's own ``utils`` package.
    """
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    saved, sys.argv = sys.argv, [str(path / "main.py"), *arguments]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401
    finally:
        sys.argv = saved
    if (path / "utils" / "extra_config.py").exists():
        importlib.import_module("utils.extra_config")


def load_pack() -> types.ModuleType:
    """Run the pack's ``__init__`` as ComfyUI's loader does; the host must have been started."""
    module = engine_package()
    if not hasattr(module, "NODE_CLASS_MAPPINGS"):
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"no pack at {ROOT}")
        module.__spec__, module.__file__ = spec, str(ROOT / "__init__.py")
        spec.loader.exec_module(module)
    return module
