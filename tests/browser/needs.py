"""What the page's tests need beside Python: Node.js, its packages, Chromium, a full ComfyUI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import hostpack
from live_server import ROOT, LiveServer

SECONDS = 3600
NEWER = "build/frontend-*/comfyui_frontend_package/static"


def chromium() -> str | None:
    """Chromium's program: REALCOMPO_CHROMIUM, or one that the system has."""
    names = (os.environ.get("REALCOMPO_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def newer_page() -> Path | None:
    """Files of a page with Nodes 2.0: REALCOMPO_FRONTEND, or what `python dev.py page` fetched."""
    given = os.environ.get("REALCOMPO_FRONTEND", "")
    found = [Path(given)] if given else sorted(ROOT.glob(NEWER))
    return next((path for path in reversed(found) if (path / "index.html").is_file()), None)


def missing() -> str | None:
    """Why no test of the page can run here, or None."""
    host = hostpack.host_path()
    if host is None or not (host / "main.py").is_file():
        return "NO FULL COMFYUI HERE, so no page: set COMFYUI_PATH or COMFYUI_GIT"
    if shutil.which("node") is None:
        return "no Node.js: install it, then `python dev.py page`"
    if not (ROOT / "node_modules" / "playwright-core").is_dir():
        return "no playwright-core: run `python dev.py page`"
    if chromium() is None:
        return (
            "no Chromium: install it (Debian: apt-get install chromium) or set REALCOMPO_CHROMIUM"
        )
    return None


def run_page_tests(file: str, server: LiveServer, renderer: str) -> None:
    """Run a file of tests beside this one with Node.js; fails as they do."""
    values = {
        **os.environ,
        "REALCOMPO_SERVER": server.url,
        "REALCOMPO_RENDERER": renderer,
        "REALCOMPO_CHROMIUM": chromium() or "",
    }
    command = ["node", "--test", "--test-reporter=spec", f"tests/browser/{file}"]
    result = subprocess.run(
        command, cwd=ROOT, env=values, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    # A run that found no test would pass, too.
    assert "pass 0" not in result.stdout and "fail 0" in result.stdout
