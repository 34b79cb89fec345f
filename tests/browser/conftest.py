"""One live ComfyUI for each renderer of the page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hostpack
import pytest
from live_server import LiveServer

from .needs import missing, newer_page


@pytest.fixture(scope="session", params=["classic", "vue"])
def page_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, str]]:
    """A running ComfyUI and the renderer to test: its own page, or a newer one's Vue nodes."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    arguments: tuple[str, ...] = ()
    if request.param == "vue":
        page = newer_page()
        if page is None:
            pytest.skip("no page with Nodes 2.0: `python dev.py page`, or REALCOMPO_FRONTEND")
        arguments = ("--front-end-root", str(page))
    host, base = hostpack.host_path(), tmp_path_factory.mktemp("page-base")
    assert host is not None
    with LiveServer(
        host, Path(sys.executable), dict(os.environ), base, arguments=arguments
    ) as running:
        yield running, request.param
