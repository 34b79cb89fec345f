"""One live ComfyUI for all server tests, with the pack linked in; its log is kept on failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostpack
import pytest
from live_server import ROOT, LiveServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A running server; skipped where the host is headless or absent."""
    host = hostpack.host_path()
    if host is None or not (host / "main.py").is_file():
        pytest.skip("NO FULL COMFYUI HERE, so no server: set COMFYUI_PATH or COMFYUI_GIT")
    base = tmp_path_factory.mktemp("host-base")
    with LiveServer(host, Path(sys.executable), dict(os.environ), base) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server: LiveServer) -> dict[str, Any]:
    """The server's description of every node."""
    return server.get("/object_info")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Attach the end of the server's log to a failed test, and keep the whole of it in build/."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.when == "call" and report.failed and isinstance(running, LiveServer):
        report.sections.append(("server log", running.log_tail()))
        kept = ROOT / "build" / "server-test.log"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(running.log.read_bytes())
    return report
