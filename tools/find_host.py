"""Find a ComfyUI to run in, or bring one here. Standard library only.

Order: ``COMFYUI_PATH``; the ComfyUI that this clone sits in; the cached copy; a clone of the pinned
release into the cache; last a headless copy of ComfyUI's modules of autumn 2024 from the package
index, which serves tests and the demo on a machine that reaches nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import environment
import git_copy

RELEASE = "0.33.0"
SOURCE = "https://github.com/comfyanonymous/ComfyUI.git"
HEADLESS = "nodetool==0.5.3"
RETRY_CLONE_AFTER = 24 * 3600.0


@dataclass(frozen=True)
class Host:
    """A ComfyUI: its root, ``full`` (server and page) or ``headless``, version, why this one."""

    path: Path
    kind: str
    version: str
    reason: str

    def environment(self) -> dict[str, str]:
        """Variables for a process that works with this host."""
        values = dict(os.environ)
        values["COMFYUI_PATH"] = str(self.path)
        values["REALCOMPO_HOST_KIND"] = self.kind
        # Nothing here loads models from a hub; a library that tries should fail at once.
        values.setdefault("HF_HUB_OFFLINE", "1")
        # The demo's networks are small: more threads than this only get in each other's way.
        values.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
        values.setdefault("PYTHONUTF8", "1")
        # The torchvision chosen beside a CPU torch says at every start that it cannot read JPEG.
        quiet = "ignore:Failed to load image Python extension:UserWarning"
        values["PYTHONWARNINGS"] = ",".join(filter(None, [values.get("PYTHONWARNINGS"), quiet]))
        return values


def cache_folder() -> Path:
    """Folder that keeps hosts between clones (``REALCOMPO_CACHE``, else below the home folder)."""
    value = os.environ.get("REALCOMPO_CACHE", "")
    return Path(value).expanduser() if value else Path.home() / ".cache" / "realcompo"


def reference() -> str:
    """Tag or branch of ComfyUI that is wanted (``COMFYUI_REF``, default the pinned release)."""
    return os.environ.get("COMFYUI_REF", "") or f"v{RELEASE}"


def is_full(path: Path) -> bool:
    """Does ``path`` hold a ComfyUI that can serve?"""
    return (path / "main.py").is_file() and (path / "comfy" / "samplers.py").is_file()


def _version(path: Path) -> str:
    """Version that the ComfyUI at ``path`` names itself, with the commit where that is known."""
    text = ""
    if (path / "comfyui_version.py").is_file():
        text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    commit = git_copy.commit_of(path)
    return (found.group(1) if found else "unknown") + (f" ({commit[:10]})" if commit else "")


def _named_by_user() -> Host | None:
    value = os.environ.get("COMFYUI_PATH", "")
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if is_full(path):
        return Host(path, "full", _version(path), "COMFYUI_PATH names it")
    if (path / "comfy" / "samplers.py").is_file():
        return Host(path, "headless", _version(path), "COMFYUI_PATH names it; it has no main.py")
    raise environment.SetUpError(
        f"COMFYUI_PATH is '{value}', but no ComfyUI is there (main.py and comfy/ are missing). "
        "Correct it, or unset it to let the other places be searched."
    )


def _around_this_clone() -> Host | None:
    for root in (Path(__file__).absolute().parent.parent, environment.ROOT):
        if root.parent.name == "custom_nodes" and is_full(root.parent.parent):
            path = root.parent.parent
            return Host(path, "full", _version(path), "this clone sits in its custom_nodes")
    return None


def _cloned(refresh: bool) -> tuple[Host | None, str]:
    """The cached ComfyUI, or a fresh clone; with None comes the reason why there is none."""
    wanted, source = reference(), os.environ.get("COMFYUI_GIT", "") or SOURCE
    target = cache_folder() / f"comfyui-{re.sub(r'[^A-Za-z0-9._-]', '_', wanted.lstrip('v'))}"
    if is_full(target) and not refresh:
        return Host(target, "full", _version(target), "the cached copy"), ""
    memo = cache_folder() / f"{target.name}.unreachable"
    said = f"{source}\n{wanted}\n"
    if memo.is_file() and not refresh:
        fresh = time.time() - memo.stat().st_mtime < RETRY_CLONE_AFTER
        if fresh and memo.read_text(encoding="utf-8").startswith(said):
            why = memo.read_text(encoding="utf-8")[len(said) :].strip()
            return None, f"{why}; tried again after a day, or now with 'dev.py host --refresh'"
    print(f"Cloning ComfyUI {wanted} into the cache", flush=True)
    try:
        missing = git_copy.fetch(source, wanted, target)
    except git_copy.CopyError as error:
        if is_full(target):
            return Host(target, "full", _version(target), f"the cached copy ({error})"), ""
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(f"{said}{error}\n", encoding="utf-8")
        return None, str(error)
    memo.unlink(missing_ok=True)
    if not is_full(target):
        return None, f"{source} at {wanted} holds no ComfyUI"
    if missing:
        print(f"  the source did not hold {', '.join(missing)}; nothing here needs it")
    return Host(target, "full", _version(target), "cloned just now"), ""


def _headless(why: str) -> Host:
    """ComfyUI's modules out of a package, in a folder of their own that nobody else imports."""
    target = cache_folder() / HEADLESS.replace("==", "-")
    reason = f"no full ComfyUI: {why}"
    if not (target / "comfy" / "samplers.py").is_file():
        environment.create_venv()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        try:
            environment.pip(
                ["--no-deps", "--no-compile", "--target", str(partial), HEADLESS],
                f"headless ComfyUI ({HEADLESS})",
            )
            partial.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Host(target, "headless", "of autumn 2024", reason)


def find(refresh: bool = False) -> Host:
    """The host to use. ``refresh`` clones again even if a cached copy or a past failure exists.

    Raises ``SetUpError`` where no ComfyUI at all can be had.
    """
    host = _named_by_user() or _around_this_clone()
    if host is not None:
        return host
    host, why = _cloned(refresh)
    return host or _headless(why)
