"""Find a ComfyUI to run in, or bring one here. Standard library only.

A host asked for by name (``REALCOMPO_HOST``, or ``--host`` of dev.py) is that one or an error:
``pinned``, a release such as ``0.3.64`` or a branch, ``2024``, or the folder of a ComfyUI.

Else, in this order: ``COMFYUI_PATH``; the ComfyUI that this clone sits in; the cached copy of the
pinned release; a clone of it into the cache; the newest cached copy of an older release; last a
headless copy of ComfyUI's modules of autumn 2024 from the package index, which serves tests and the
demo on a machine that reaches nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import environment
import git_copy

RELEASE = "0.33.0"
SOURCE = "https://github.com/comfyanonymous/ComfyUI.git"
HEADLESS = "nodetool==0.5.3"
# Hosts that stay tested beside the pinned one, as they are asked for by name.
MODULES_OF_2024 = "2024"
OLDER = ("0.3.64", MODULES_OF_2024)
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


def version(path: Path) -> str:
    """Version that the ComfyUI at ``path`` names itself, with the commit where that is known."""
    text = ""
    if (path / "comfyui_version.py").is_file():
        text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    commit = git_copy.commit_of(path)
    return (found.group(1) if found else "unknown") + (f" ({commit[:10]})" if commit else "")


def _at(path: Path, reason: str) -> Host | None:
    """The ComfyUI in the folder ``path``, None if there is none."""
    if is_full(path):
        return Host(path, "full", version(path), reason)
    if (path / "comfy" / "samplers.py").is_file():
        return Host(path, "headless", version(path), f"{reason}; it has no main.py")
    return None


def _named_by_user() -> Host | None:
    value = os.environ.get("COMFYUI_PATH", "")
    if not value:
        return None
    host = _at(Path(value).expanduser().resolve(), "COMFYUI_PATH names it")
    if host is None:
        raise environment.SetUpError(
            f"COMFYUI_PATH is '{value}', but no ComfyUI is there (main.py and comfy/ are missing). "
            "Correct it, or unset it to let the other places be searched."
        )
    return host


def _around_this_clone() -> Host | None:
    for root in (Path(__file__).absolute().parent.parent, environment.ROOT):
        if root.parent.name == "custom_nodes" and is_full(root.parent.parent):
            path = root.parent.parent
            return Host(path, "full", version(path), "this clone sits in its custom_nodes")
    return None


def _cloned(wanted: str, refresh: bool) -> tuple[Host | None, str]:
    """The cached tag or branch ``wanted``, or a clone of it; with None comes the reason why not."""
    source = os.environ.get("COMFYUI_GIT", "") or SOURCE
    target = cache_folder() / f"comfyui-{re.sub(r'[^A-Za-z0-9._-]', '_', wanted.lstrip('v'))}"
    if is_full(target) and not refresh:
        return Host(target, "full", version(target), "the cached copy"), ""
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
            return Host(target, "full", version(target), f"the cached copy ({error})"), ""
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(f"{said}{error}\n", encoding="utf-8")
        return None, str(error)
    memo.unlink(missing_ok=True)
    if not is_full(target):
        return None, f"{source} at {wanted} holds no ComfyUI"
    if missing:
        print(f"  the source did not hold {', '.join(missing)}; nothing here needs it")
    return Host(target, "full", version(target), "cloned just now"), ""


def _numbers(version: str) -> tuple[int, ...] | None:
    """``v0.33.0`` as (0, 33, 0), to be compared; None for what is no release's name."""
    plain = version.removeprefix("v")
    return tuple(map(int, plain.split("."))) if re.fullmatch(r"\d+(\.\d+)+", plain) else None


def _older_copy(wanted: str, why: str) -> Host | None:
    """The newest cached release before ``wanted``, for a machine that cannot have that one."""
    limit, found = _numbers(wanted), []
    for folder in cache_folder().glob("comfyui-*"):
        numbers = _numbers(folder.name.removeprefix("comfyui-"))
        if numbers and is_full(folder) and (limit is None or numbers < limit):
            found.append((numbers, folder))
    if not found:
        return None
    path = max(found)[1]
    reason = f"an older cached copy, because {wanted} cannot be had: {why}"
    return Host(path, "full", version(path), reason)


def _headless(reason: str) -> Host:
    """ComfyUI's modules out of a package, in a folder of their own that nobody else imports."""
    target = cache_folder() / HEADLESS.replace("==", "-")
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


def _asked_for(name: str, refresh: bool) -> Host:
    """The host called ``name``, and no other in its place."""
    if name == MODULES_OF_2024:
        return _headless("asked for by name")
    path = Path(name).expanduser()
    if path.is_dir() or len(path.parts) > 1:
        host, why = _at(path.resolve(), "asked for by name"), "no ComfyUI is in that folder"
    else:
        release = RELEASE if name == "pinned" else name.removeprefix("v")
        host, why = _cloned(f"v{release}" if _numbers(release) else name, refresh)
    if host is None:
        raise environment.SetUpError(
            f"The host '{name}' was asked for by name and cannot be had: {why}. Names are 'pinned' "
            f"({RELEASE}), a release such as {OLDER[0]}, '{MODULES_OF_2024}' (headless modules), a "
            "branch of ComfyUI, or the folder of a ComfyUI."
        )
    if "by name" not in host.reason:
        host = replace(host, reason=f"asked for by name; {host.reason}")
    return host


def find(refresh: bool = False, name: str = "") -> Host:
    """The host to use. ``refresh`` clones again even if a cached copy or a past failure exists.

    ``name`` asks for one (default: the environment's ``REALCOMPO_HOST``). Raises ``SetUpError``
    where that one, or without a name no ComfyUI at all, can be had.
    """
    name = name or os.environ.get("REALCOMPO_HOST", "")
    if name:
        return _asked_for(name, refresh)
    host = _named_by_user() or _around_this_clone()
    if host is not None:
        return host
    wanted = reference()
    host, why = _cloned(wanted, refresh)
    return host or _older_copy(wanted, why) or _headless(f"no full ComfyUI: {why}")
