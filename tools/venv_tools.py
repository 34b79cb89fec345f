"""The virtual environment ``.venv``: making it, asking it, and pip in it. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
TAIL = 25


class SetUpError(RuntimeError):
    """The set-up cannot go on; the message says what to do."""


def venv_python() -> Path:
    """Interpreter of ``.venv`` (it may not exist yet)."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def asks(python: Path, code: str) -> str | None:
    """What ``code`` prints in ``python``, stripped, or None if it fails."""
    if not python.exists():
        return None
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def installed(package: str) -> str | None:
    """Version of ``package`` in ``.venv``, with its local part (``+cpu``), or None."""
    return asks(venv_python(), f"import importlib.metadata as m; print(m.version({package!r}))")


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


def site_packages() -> Path:
    """Where ``.venv`` keeps its pure Python packages."""
    return Path(asks(venv_python(), "import sysconfig; print(sysconfig.get_path('purelib'))") or "")


def uninstall(package: str) -> None:
    """Take ``package`` out of ``.venv`` if it is there."""
    command = [str(venv_python()), "-m", "pip", "uninstall", "-y", "-q", package]
    subprocess.run(command, capture_output=True, check=False)


def create_venv() -> Path:
    """Make ``.venv`` with pip in it if there is none that runs; returns its interpreter."""
    python, has_pip = venv_python(), "import pip; print(pip.__version__)"
    if asks(python, "print(1)") is None:
        print(f"Making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
        command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise SetUpError(f"{made.stdout}{made.stderr}\nPython cannot make {VENV.name} here.")
    if asks(python, has_pip) is None:
        subprocess.run([str(python), "-m", "ensurepip"], capture_output=True, check=False)
    if asks(python, has_pip) is None:
        # Debian ships Python without ensurepip, but a pip outside can put one inside.
        inside = str(site_packages())
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", inside, "pip"]
        subprocess.run(command, capture_output=True, check=False)
    if asks(python, has_pip) is None:
        raise SetUpError(
            f"{VENV.name} has no pip and this Python cannot put one in. On Debian and Ubuntu "
            "install the package python3-venv, then run the same command again."
        )
    return python
