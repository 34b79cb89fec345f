"""torch, torchvision and torchaudio for ``.venv``: which ones load together here.

No list of pins can say: it depends on the Python, the platform and the torch that is there already.
Standard library only.
"""

from __future__ import annotations

import sys

import torchaudio_standin
import venv_tools as venv
from venv_tools import SetUpError

TORCH = "2.13.0"
# The one torchvision that loads beside a CPU build of torch from another index: its compiled
# operators fail to load and it carries on without them. Newer ones raise at import instead.
LENIENT_TORCHVISION = "0.16.2"
# The last one there is. From 2.11 on it is built for every later torch.
TORCHAUDIO = "2.11.1"
NAMES = {"torch", "torchvision", "torchaudio"}


def torch(constraints: list[str]) -> tuple[str, str]:
    """Install torch unless one is there; returns its version and why it is that one.

    ``constraints``: pip's arguments that pin what torch draws.
    """
    present = venv.installed("torch")
    if present is not None:
        return present, "was already in .venv"
    if sys.platform.startswith("linux"):
        print(
            "  On Linux the public index may serve torch with CUDA, several GB. To use the small "
            "CPU wheel,\n  point pip to it first: PIP_EXTRA_INDEX_URL=... or PIP_FIND_LINKS=..."
        )
    venv.pip([f"torch=={TORCH}", *constraints], f"torch {TORCH}")
    version = venv.installed("torch")
    if version is None:
        raise SetUpError("pip reported success, but torch is not in .venv. Delete .venv and retry.")
    return version, "pinned"


def _minor(torch_version: str) -> int | None:
    """Second number of torch 2's version, None for another torch."""
    major, minor = (int(part) for part in torch_version.split("+")[0].split(".")[:2])
    return minor if major == 2 else None


def torchvision_candidates(torch_version: str) -> list[tuple[str, str]]:
    """(requirement, reason) in the order to try for this torch and this Python."""
    minor, build = _minor(torch_version), torch_version.partition("+")[2]
    lenient = (
        f"torchvision=={LENIENT_TORCHVISION}",
        "without its compiled operators, which nothing here uses",
    )
    # torch 2.0 came with torchvision 0.15, and both have counted up together since.
    matching = []
    if minor is not None:
        matching = [(f"torchvision==0.{minor + 15}.*", "the release that belongs to this torch")]
    if sys.version_info[:2] > (3, 11):
        return matching
    separate_build = build == "cpu" and sys.platform.startswith("linux")
    return [lenient, *matching] if separate_build else [*matching, lenient]


def torchaudio_candidates(torch_version: str) -> list[tuple[str, str]]:
    """(requirement, reason): the release of this torch, or the last one where that came later."""
    minor = _minor(torch_version)
    if minor is None:
        return []
    if minor < int(TORCHAUDIO.split(".")[1]):
        return [(f"torchaudio==2.{minor}.*", "the release that belongs to this torch")]
    return [(f"torchaudio=={TORCHAUDIO}", "pinned")]


def _first_that_loads(
    candidates: list[tuple[str, str]], check: str, torch_version: str
) -> tuple[str, str] | None:
    """Install candidates until one passes ``check``; its version and reason, None if none does.

    ``--no-deps``, so that pip never exchanges the torch that is there.
    """
    for requirement, reason in candidates:
        try:
            venv.pip(["--no-deps", requirement], requirement.replace("==", " "))
        except SetUpError as error:
            print(f"  {requirement} cannot be had: {str(error).splitlines()[-2]}")
            continue
        if venv.asks(venv.venv_python(), check) is not None:
            return venv.installed(requirement.split("==")[0]) or "?", reason
        print(f"  {requirement} does not load beside torch {torch_version}")
    return None


def torchvision(torch_version: str) -> tuple[str, str]:
    """Install a torchvision that imports beside this torch; returns its version and the reason."""
    check = "import warnings; warnings.simplefilter('ignore'); import torchvision.transforms"
    present = venv.installed("torchvision")
    if present is not None and venv.asks(venv.venv_python(), check) is not None:
        return present, "was already in .venv"
    found = _first_that_loads(torchvision_candidates(torch_version), check, torch_version)
    if found is None:
        raise SetUpError(
            f"No torchvision loads beside torch {torch_version} on Python "
            f"{sys.version.split()[0]}. Install a matching pair into {venv.VENV.name} yourself and "
            "run the same command again."
        )
    return found


def torchaudio(torch_version: str) -> tuple[str, str]:
    """Install a torchaudio that imports beside this torch, else the stand-in; returns the same."""
    python, check = venv.venv_python(), "import torchaudio.functional, torchaudio.transforms"
    present = venv.installed("torchaudio")
    if present not in (None, torchaudio_standin.VERSION) and venv.asks(python, check) is not None:
        return str(present), "was already in .venv"
    found = _first_that_loads(torchaudio_candidates(torch_version), check, torch_version)
    if found is not None:
        return found
    venv.uninstall("torchaudio")
    torchaudio_standin.write(venv.site_packages())
    if venv.asks(python, check) is None:
        raise SetUpError(
            f"The stand-in for torchaudio does not import in {venv.VENV.name}. Delete "
            f"{venv.VENV.name} and run the same command again."
        )
    return torchaudio_standin.VERSION, "a stand-in: ComfyUI imports, nodes for sound raise"
