"""The layout editor in a real Chromium, on the classic and on the Vue renderer.

The tests themselves are in ``editor.test.js``; here they get a server, and their verdict a place
in the suite.
"""

from __future__ import annotations

import os
import subprocess

from live_server import ROOT, LiveServer

from .needs import chromium

SECONDS = 3600


def test_the_editor_works_on_a_live_page(page_server: tuple[LiveServer, str]) -> None:
    server, renderer = page_server
    values = {
        **os.environ,
        "REALCOMPO_SERVER": server.url,
        "REALCOMPO_RENDERER": renderer,
        "REALCOMPO_CHROMIUM": chromium() or "",
    }
    command = ["node", "--test", "--test-reporter=spec", "tests/browser/editor.test.js"]
    result = subprocess.run(
        command, cwd=ROOT, env=values, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    # A run that found no test would pass, too.
    assert "pass 0" not in result.stdout and "fail 0" in result.stdout
