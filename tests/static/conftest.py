"""What the static tests share: the pack's nodes as the server describes them; a bare machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environment
import find_host
import hostpack
import pytest


@pytest.fixture(scope="session")
def pack() -> Any:
    """The pack, registered; skipped without a ComfyUI, whose choices its nodes offer."""
    if hostpack.host_path() is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH or use `python dev.py test`")
    return hostpack.load_pack()


@pytest.fixture(scope="session")
def infos(pack: Any) -> dict[str, Any]:
    """Every node's description, by id."""
    from execute import object_info

    shown = pack.NODE_DISPLAY_NAME_MAPPINGS
    return {k: object_info(k, v, shown.get(k, k)) for k, v in pack.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine without any ComfyUI and an empty cache; returns the cache's folder."""
    for name in ("COMFYUI_PATH", "COMFYUI_REF", "REALCOMPO_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REALCOMPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COMFYUI_GIT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(find_host, "__file__", str(tmp_path / "clone" / "tools" / "find_host.py"))
    monkeypatch.setattr(environment, "ROOT", tmp_path / "clone")
    yield tmp_path / "cache"
