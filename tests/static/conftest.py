"""What the static tests share: the pack's nodes, described as the server describes them."""

from __future__ import annotations

from typing import Any

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
