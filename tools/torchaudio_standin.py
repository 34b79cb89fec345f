"""A module named torchaudio for ``.venv``, where none loads beside the torch that is there.

ComfyUI 0.33 imports torchaudio at the top of ``comfy/sd.py`` (through its audio VAEs), so without
it no checkpoint can be loaded at all. This stands in for the import only: whatever is asked of it
raises. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

VERSION = "0.0.0+realcompo.standin"

_COMMON = '''"""{what}: written by this pack's dev.py; see tools/torchaudio_standin.py there."""


class _Missing:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{{self._name}}.{{name}}")

    def __call__(self, *args, **kwargs):
        raise RuntimeError(
            f"{{self._name}} was asked for, but this environment has no torchaudio that loads"
            " beside its torch. Install a matching pair to work with sound."
        )


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Missing(__name__ + "." + name)
'''

_PACKAGE = """
import torchaudio.functional  # noqa: E402  ("from . import" would ask __getattr__ above)
import torchaudio.transforms  # noqa: E402, F401

__version__ = "{version}"
"""

_METADATA = """Metadata-Version: 2.1
Name: torchaudio
Version: {version}
Summary: Stand-in that lets ComfyUI import; every call of it raises.
"""


def write(site: Path) -> None:
    """Put the stand-in into the ``site-packages`` folder ``site``."""
    package = site / "torchaudio"
    package.mkdir(exist_ok=True)
    common = _COMMON.format(what="Stand-in for torchaudio")
    for name in ("functional", "transforms"):
        (package / f"{name}.py").write_text(common, encoding="utf-8")
    text = common + _PACKAGE.format(version=VERSION)
    (package / "__init__.py").write_text(text, encoding="utf-8")
    about = site / f"torchaudio-{VERSION}.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(_METADATA.format(version=VERSION), encoding="utf-8")
    # pip removes what is listed here when a real torchaudio takes its place
    files = ["torchaudio/__init__.py", "torchaudio/functional.py", "torchaudio/transforms.py"]
    rows = [*files, f"{about.name}/METADATA", f"{about.name}/RECORD"]
    (about / "RECORD").write_text("".join(f"{row},,\n" for row in rows), encoding="utf-8")
    (about / "INSTALLER").write_text("realcompo\n", encoding="utf-8")
