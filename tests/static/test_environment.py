"""The set-up picks a torch family that loads together, pins what it installs, and stays lean."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import environment
import find_host
import hostpack
import pytest
import torch_family
import torchaudio_standin
import venv_tools


@pytest.mark.parametrize(
    ("torch", "python", "platform", "first"),
    [
        ("2.13.0+cpu", (3, 11), "linux", "torchvision==0.16.2"),
        ("2.13.0+cpu", (3, 12), "linux", "torchvision==0.28.*"),
        ("2.13.0", (3, 10), "darwin", "torchvision==0.28.*"),
        ("2.13.0+cu130", (3, 11), "linux", "torchvision==0.28.*"),
        ("2.7.1+cu128", (3, 13), "linux", "torchvision==0.22.*"),
    ],
)
def test_torchvision_belongs_to_the_torch_that_is_there(
    torch: str, python: tuple[int, int], platform: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(version_info=(*python, 0), platform=platform)
    monkeypatch.setattr(torch_family, "sys", fake)
    names = [name for name, _ in torch_family.torchvision_candidates(torch)]
    assert names[0] == first
    assert ("torchvision==0.16.2" in names) == (python <= (3, 11))


def test_the_stamp_follows_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.pins_hash()
    for path in environment.PINS.glob("*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(environment, "PINS", tmp_path)
    assert environment.pins_hash() == before
    with (tmp_path / "host.txt").open("a") as pins:
        pins.write("another\n")
    assert environment.pins_hash() != before


def test_every_pinned_requirement_has_an_exact_version() -> None:
    exact = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (environment.PINS / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    asked = [
        line
        for name in ("host.txt", "bare.txt", "dev.txt", "runner.txt")
        for line in (environment.PINS / name).read_text().splitlines()
        if line and not line.startswith("#")
    ]
    names = [re.split("[>=]", line)[0].lower().replace("_", "-") for line in asked]
    loose = [name for name in names if name not in exact]
    assert len(asked) > 15 and not loose


@pytest.mark.parametrize(
    ("torch", "first"),
    [
        ("2.7.1+cu128", ["torchaudio==2.7.*"]),
        ("2.11.0", [f"torchaudio=={torch_family.TORCHAUDIO}"]),
        ("2.13.0+cpu", [f"torchaudio=={torch_family.TORCHAUDIO}"]),
        ("1.13.1", []),
    ],
)
def test_torchaudio_belongs_to_the_torch_or_is_the_last_one(torch: str, first: list[str]) -> None:
    assert [name for name, _ in torch_family.torchaudio_candidates(torch)] == first


class FakeVenv:
    """A ``.venv`` whose torchaudio loads or not; the stand-in always does."""

    def __init__(self, site: Path, present: str | None, loads: bool) -> None:
        self.site, self.present, self.loads = site, present, loads
        self.asked: list[list[str]] = []
        self.gone: list[str] = []

    def pip(self, arguments: list[str], label: str) -> None:
        self.asked.append(arguments)
        self.present = "2.11.1"

    def asks(self, python: Path, code: str) -> str | None:
        return "" if self.loads or (self.site / "torchaudio").exists() else None

    def uninstall(self, package: str) -> None:
        self.gone.append(package)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> FakeVenv:
        monkeypatch.setattr(venv_tools, "installed", lambda package: self.present)
        monkeypatch.setattr(venv_tools, "site_packages", lambda: self.site)
        for name in ("pip", "asks", "uninstall"):
            monkeypatch.setattr(venv_tools, name, getattr(self, name))
        return self


def test_a_torchaudio_that_loads_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeVenv(tmp_path, "2.9.0", loads=True).patch(monkeypatch)
    assert torch_family.torchaudio("2.9.0") == ("2.9.0", "was already in .venv")
    assert not fake.asked and not fake.gone and not list(tmp_path.iterdir())


@pytest.mark.parametrize("present", [None, torchaudio_standin.VERSION])
def test_a_torchaudio_that_can_be_had_is_taken_before_the_stand_in(
    present: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeVenv(tmp_path, present, loads=True).patch(monkeypatch)
    assert torch_family.torchaudio("2.13.0")[0] == "2.11.1"
    assert fake.asked == [["--no-deps", f"torchaudio=={torch_family.TORCHAUDIO}"]]
    assert not list(tmp_path.iterdir())


def test_where_none_loads_a_stand_in_lets_the_host_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeVenv(tmp_path, None, loads=False).patch(monkeypatch)
    version, reason = torch_family.torchaudio("2.13.0+cpu")
    assert version == torchaudio_standin.VERSION and "stand-in" in reason
    assert fake.gone == ["torchaudio"]  # what did not load must not lie beside it
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import torchaudio  # pyright: ignore[reportMissingImports]

    assert torchaudio.__file__.startswith(str(tmp_path))
    for call in (torchaudio.functional.resample, torchaudio.load, torchaudio.sox.effects.apply):
        with pytest.raises(RuntimeError, match="no torchaudio that loads"):
            call(1, 2, 3)


def test_the_pins_are_what_the_pinned_host_asks_for() -> None:
    path = hostpack.host_path()
    if path is None or not find_host.is_full(path):
        pytest.skip("no full ComfyUI here, so no list of what it asks for")
    if find_host.version(path).split()[0] != find_host.RELEASE:
        pytest.skip(f"this ComfyUI is not {find_host.RELEASE}, whose requirements are pinned")
    wanted, bare = environment.requirements((path / "requirements.txt").read_text())
    pins = "".join((environment.PINS / f"{name}.txt").read_text() for name in ("host", "bare"))
    pinned, pinned_bare = environment.requirements(pins)
    names = [{environment.package(line) for line in lines} for lines in (wanted, bare)]
    assert names[0] <= {environment.package(line) for line in pinned}
    assert names[1] <= {environment.package(line) for line in pinned_bare}
    exact = [line for line in wanted if "==" in line]
    assert exact and all(line in pinned for line in exact)


def test_a_newer_hosts_requirements_stay_lean() -> None:
    text = """torch
        torchaudio  # sound
        comfyui-workflow-templates==9.9.9
        PyOpenGL>=3.1.8
        kornia>=0.7.1
        spandrel
        comfy-kitchen==0.9.9
        """
    assert environment.requirements(text) == (
        ["comfy-kitchen==0.9.9"],
        ["kornia>=0.7.1", "spandrel"],
    )
    said = environment.left_out()
    assert all(name in said for name in environment.LEFT_OUT)
