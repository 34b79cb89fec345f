"""The layout editor in a real Chromium, on the classic and on the Vue renderer.

The tests themselves are in ``editor.test.js``; here they get a server, and their verdict a place
in the suite.
"""

from __future__ import annotations

from live_server import LiveServer

from .needs import run_page_tests


def test_the_editor_works_on_a_live_page(page_server: tuple[LiveServer, str]) -> None:
    run_page_tests("editor.test.js", *page_server)
