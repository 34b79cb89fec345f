"""A host is chosen by name, or none; else an older copy serves where the pinned one is not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import environment
import find_host
import pytest

from .hosts import comfyui
from .sources import ROOT

PINNED = f"comfyui-{find_host.RELEASE}"


@pytest.fixture
def dev() -> ModuleType:
    """dev.py as a module; the root, where it lies, is never on the path."""
    spec = importlib.util.spec_from_file_location("realcompo_dev", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_name_chooses_among_the_cached_releases(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, older = comfyui(alone / PINNED), comfyui(alone / "comfyui-0.3.64")
    mine = comfyui(tmp_path / "mine")
    monkeypatch.setenv("COMFYUI_PATH", str(mine))
    names = {"pinned": pinned, find_host.RELEASE: pinned, "0.3.64": older, "v0.3.64": older}
    for name, path in {**names, str(mine): mine}.items():
        host = find_host.find(name=name)
        assert host.path == path and host.reason.startswith("asked for by name")
    monkeypatch.setenv("REALCOMPO_HOST", "0.3.64")
    assert find_host.find().path == older
    assert find_host.find(name="pinned").path == pinned


def test_the_modules_of_2024_have_a_name(alone: Path) -> None:
    comfyui(alone / PINNED)
    modules = comfyui(alone / find_host.HEADLESS.replace("==", "-"), main=False)
    host = find_host.find(name="2024")
    assert (host.path, host.kind) == (modules, "headless")


@pytest.mark.parametrize("name", ["0.99.0", "no-such-branch", "./nowhere"])
def test_a_host_asked_for_by_name_is_that_one_or_an_error(alone: Path, name: str) -> None:
    comfyui(alone / PINNED)
    comfyui(alone / "comfyui-0.3.64")
    with pytest.raises(environment.SetUpError, match=name) as refusal:
        find_host.find(name=name)
    assert all(known in str(refusal.value) for known in ("pinned", find_host.RELEASE, "2024"))


def test_a_release_asked_for_by_name_is_cloned(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = comfyui(tmp_path / "source")
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(source)]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"], ["tag", "v0.3.64"]):
        subprocess.run([*run, *step], check=True, capture_output=True)
    monkeypatch.setenv("COMFYUI_GIT", str(source))
    host = find_host.find(name="0.3.64")
    assert host.path == alone / "comfyui-0.3.64" and "cloned just now" in host.reason


def test_the_newest_older_copy_serves_where_the_pinned_release_cannot_be_had(alone: Path) -> None:
    for name in ("0.3.64", "0.10.2", "99.0.0", "master"):
        comfyui(alone / f"comfyui-{name}")
    host = find_host.find()
    assert host.path == alone / "comfyui-0.10.2" and host.kind == "full"
    assert f"v{find_host.RELEASE} cannot be had" in host.reason and "git" in host.reason
    pinned = comfyui(alone / PINNED)
    assert find_host.find().path == pinned


def test_a_clone_of_the_pinned_release_comes_before_an_older_copy(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui(alone / "comfyui-0.3.64")

    def fetch(source: str, revision: str, target: Path) -> list[str]:
        comfyui(target)
        return []

    monkeypatch.setattr(find_host.git_copy, "fetch", fetch)
    assert find_host.find().path == alone / PINNED


@pytest.mark.parametrize(
    "line", ["--host 2024 test -x", "test --host 2024 -x", "test -x --host=2024"]
)
def test_the_option_is_understood_anywhere_on_the_line(
    line: str, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setenv("REALCOMPO_HOST", "before")  # so that it is put back
    monkeypatch.setattr(dev.signal, "signal", lambda *_: None)
    name = "REALCOMPO_HOST"
    monkeypatch.setattr(dev, "_test", lambda rest: seen.append((os.environ[name], rest)))
    monkeypatch.setattr(dev.sys, "stdout", sys.__stdout__)
    dev.main(line.split())
    assert seen == [("2024", ["-x"])]


def test_the_older_hosts_all_run_their_part_whatever_one_says(
    alone: Path, dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    comfyui(alone / PINNED)
    modules = comfyui(alone / find_host.HEADLESS.replace("==", "-"), main=False)
    ran: list[tuple[Path, list[str]]] = []

    def run(host: find_host.Host, arguments: list[str]) -> int:
        ran.append((host.path, arguments))
        return 1 if host.kind == "full" else 0

    monkeypatch.setattr(dev.environment, "ensure", lambda: Path("python"))
    monkeypatch.setattr(dev, "_pytest", run)
    marked = dev._marked()
    assert "tests/host/test_guider_parity.py" in marked and "tests/server/test_server.py" in marked
    part = ["-m", dev.OLDER_HOSTS]
    assert dev._test(["--older"]) == 0 and ran == [(modules, [*part, *marked])]
    assert "NOT TESTED ON 0.3.64" in capsys.readouterr().out
    older = comfyui(alone / "comfyui-0.3.64")
    assert dev._test(["--older", "-q", *marked[:1]]) == 1
    one = [*part, "-q", *marked[:1]]
    assert ran[1:] == [(older, one), (modules, one)]
    monkeypatch.setenv("REALCOMPO_HOST", "2024")
    assert dev._test(["--older"]) == 0 and ran[3:] == [(modules, [*part, *marked])]


def test_the_part_for_the_older_hosts_is_whole(dev: ModuleType) -> None:
    """Sampling as the host does it, the paper's numbers, weights as hosts keep them, a server."""
    files = ["guider_parity", "guider_calls", "guider_reference", "reference"]
    files += ["dynamic_vram", "cast_layers"]
    paths = [ROOT / "tests" / "host" / f"test_{name}.py" for name in files]
    paths.append(ROOT / "tests" / "server" / "test_server.py")
    mark = f"pytest.mark.{dev.OLDER_HOSTS}"
    missing = [path.name for path in paths if mark not in path.read_text("utf-8")]
    assert not missing
    assert f"{dev.OLDER_HOSTS}:" in (ROOT / "tests" / "pytest.ini").read_text("utf-8")
