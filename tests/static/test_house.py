"""The set-up finds a host, and copies what a source holds; the live server gets what it needs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import environment
import find_host
import git_copy
import live_server
import pytest

from .hosts import comfyui


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """A repository with the pinned tag that has lost one large file."""
    folder = comfyui(tmp_path / "source")
    (folder / "comfy" / "big.json").write_text("x" * 1000)
    os.chmod(folder / "main.py", 0o755)
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder)]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"],
                 ["tag", f"v{find_host.RELEASE}"]):  # fmt: skip
        subprocess.run([*run, *step], check=True, capture_output=True)
    blob = subprocess.run(
        [*run, "rev-parse", "HEAD:comfy/big.json"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    return folder


def test_the_folder_that_the_user_names_wins(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui(alone / f"comfyui-{find_host.RELEASE}")
    mine = comfyui(tmp_path / "mine")
    monkeypatch.setenv("COMFYUI_PATH", str(mine))
    host = find_host.find()
    assert (host.path, host.kind, host.version) == (mine, "full", "9.8.7")
    assert host.environment()["COMFYUI_PATH"] == str(mine)
    (mine / "main.py").unlink()
    assert find_host.find().kind == "headless"


def test_a_wrong_path_is_an_error_not_a_reason_to_look_elsewhere(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui(alone / f"comfyui-{find_host.RELEASE}")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "typo"))
    with pytest.raises(environment.SetUpError, match="typo"):
        find_host.find()


def test_the_comfyui_around_the_clone_comes_before_the_cache(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui(alone / f"comfyui-{find_host.RELEASE}")
    around = comfyui(tmp_path / "around")
    monkeypatch.setattr(environment, "ROOT", around / "custom_nodes" / "pack")
    assert find_host.find().path == around


def test_the_cache_serves_before_the_network(alone: Path) -> None:
    cached = comfyui(alone / f"comfyui-{find_host.RELEASE}")
    host = find_host.find()
    assert host.path == cached and host.reason == "the cached copy"


def test_a_clone_tolerates_a_lost_large_file(
    alone: Path, offered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COMFYUI_GIT", offered.as_uri())
    host = find_host.find()
    assert host.kind == "full" and host.version.startswith("9.8.7 (")
    assert "comfy/big.json" in capsys.readouterr().out
    assert not (host.path / "comfy" / "big.json").exists()
    assert not (host.path / ".git").exists()
    assert os.name == "nt" or os.access(host.path / "main.py", os.X_OK)
    assert [path.name for path in alone.iterdir()] == [host.path.name]
    monkeypatch.setenv("COMFYUI_GIT", "gone")
    assert find_host.find().reason == "the cached copy"
    assert "the cached copy (" in find_host.find(refresh=True).reason


def test_a_clone_without_its_sources_is_refused(offered: Path, tmp_path: Path) -> None:
    for path in (offered / ".git" / "objects").glob("??/*"):
        kind = subprocess.run(
            ["git", "-C", str(offered), "cat-file", "-t", path.parent.name + path.name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if kind.stdout.strip() == "blob":
            path.unlink()
    with pytest.raises(git_copy.CopyError, match="source files"):
        git_copy.fetch(str(offered), f"v{find_host.RELEASE}", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_last_comes_the_headless_copy_and_a_failed_clone_is_not_tried_every_time(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip(arguments: list[str], label: str) -> None:
        asked.append(arguments)
        comfyui(Path(arguments[arguments.index("--target") + 1]), main=False)

    monkeypatch.setattr(environment, "create_venv", lambda: None)
    monkeypatch.setattr(environment, "pip", pip)
    host = find_host.find()
    assert host.kind == "headless" and host.path == alone / "nodetool-0.5.3"
    assert "git ls-remote failed" in host.reason
    assert host.environment()["REALCOMPO_HOST_KIND"] == "headless"
    assert "--no-deps" in asked[0] and find_host.HEADLESS in asked[0]
    monkeypatch.setattr(git_copy, "fetch", lambda *_: pytest.fail("tried again"))
    assert "tried again after a day" in find_host.find().reason
    assert len(asked) == 1
    monkeypatch.setenv("COMFYUI_GIT", "elsewhere")
    monkeypatch.setattr(
        git_copy, "fetch", lambda source, *_: (_ for _ in ()).throw(git_copy.CopyError(source))
    )
    assert find_host.find().reason.endswith("elsewhere")


def test_git_never_waits_longer_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(git_copy.CopyError, match="no answer within"):
        git_copy._git(["-c", "alias.wait=!sleep 30", "wait"], 0.5)


def test_the_pack_is_linked_once_and_unlinked_without_harm(tmp_path: Path) -> None:
    source, other = tmp_path / "pack", tmp_path / "other"
    for folder in (source, other):
        folder.mkdir()
        (folder / "__init__.py").touch()
    place = live_server.link_pack(tmp_path / "base", source)
    assert (place / "__init__.py").is_file() and place.name == "realcompo"
    assert live_server.link_pack(tmp_path / "base", source) == place
    assert live_server.link_pack(tmp_path / "base", other).resolve() == other
    assert (source / "__init__.py").is_file()


def test_the_server_has_a_base_and_a_database_of_its_own(tmp_path: Path) -> None:
    host, base = comfyui(tmp_path / "host"), tmp_path / "base"
    arguments = host / "comfy" / "cli_args.py"
    arguments.write_text('parser.add_argument("--database-url", type=str)')
    server = live_server.LiveServer(host, Path("python"), {}, base)
    server.prepare()
    for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
        assert (base / name).is_dir()
    command = server.command()
    assert command[command.index("--database-url") + 1] == "sqlite:///:memory:"
    arguments.write_text("older hosts have no database")
    assert "--database-url" not in server.command()
