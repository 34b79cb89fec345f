"""Make the pack importable as ``realcompo`` and start the host once, if there is one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TOOLS = Path(__file__).resolve().parent.parent / "tools"
if str(TOOLS) not in sys.path:
    sys.path.insert(0, str(TOOLS))

import hostpack  # noqa: E402

# Property tests draw the same examples in every run, so that a red run means a change and not
# chance; `--hypothesis-profile=random` draws others each time, and more of them.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "random", max_examples=1000, deadline=None, suppress_health_check=_SLOW, print_blob=True
)
settings.load_profile("steady")

hostpack.engine_package()
HOST = hostpack.host_path()
if HOST is not None:
    hostpack.start_host(HOST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests below host/ and shapes/ need a ComfyUI; without one they are skipped, loudly."""
    if HOST is not None:
        return
    skip = pytest.mark.skip(reason="no ComfyUI found: set COMFYUI_PATH or use `python dev.py test`")
    for item in items:
        if {"host", "shapes"} & set(item.path.parts):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _no_stop_is_left() -> Iterator[None]:
    """A test may press the host's cancel button; the next one must not be stopped by it.

    Newer hosts look at every layer whether it was pressed, older ones once a step.
    """
    yield
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        management.interrupt_current_processing(False)
