"""Rules that every file keeps: lint, rooms, encoding, no trace of the machine it was written on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .sources import ROOT, TEXT, files, imports

PACK_ROOMS = ("balancer", "nodes", "shapes", "runner", "bench")
HOST = {
    "comfy", "comfy_extras", "comfy_api", "comfy_execution", "nodes", "folder_paths", "server",
    "execution", "latent_preview", "node_helpers",
}  # fmt: skip
ENGINE_MAY = {
    "torch", "numpy", "einops", "safetensors", "pydantic", "yarl", "realcompo",
}  # fmt: skip
# Drawing, assignment and mending of broken JSON need these; the function that needs one imports it,
# never the module.
ENGINE_MAY_LAZILY = {"PIL", "matplotlib", "scipy", "json_repair"}


def _room(path: Path) -> str:
    if path.parts[:2] == ("balancer", "comfy"):
        return "door"
    return path.parts[0] if len(path.parts) > 1 else "root"


def violations(path: Path, found: list[tuple[str, bool, int]]) -> list[str]:
    """Imports of ``path`` that its room forbids, one sentence each."""
    room, problems = _room(path), []

    def forbid(names: set[str], why: str) -> None:
        for name, _, line in found:
            if any(name == bad or name.startswith(bad + ".") for bad in names):
                problems.append(f"{path.as_posix()}:{line} imports {name}: {why}")

    if room == "balancer":
        forbid(HOST | {"realcompo.balancer.comfy"}, "the engine knows no host")
        forbid({"realcompo.nodes", "realcompo.shapes", "realcompo.bench", "realcompo.runner"},
               "data flows from nodes to the engine")  # fmt: skip
        for name, lazy, line in found:
            top = name.split(".")[0]
            allowed = ENGINE_MAY | (ENGINE_MAY_LAZILY if lazy else set())
            if top not in allowed and top not in sys.stdlib_module_names and top not in HOST:
                problems.append(f"{path.as_posix()}:{line} imports {name}: not for the engine")
    if room == "door":
        forbid({"nodes", "realcompo.nodes", "realcompo.shapes"}, "the door serves the nodes")
    if room == "nodes":
        training = {f"realcompo.shapes.{p.stem}" for p in (ROOT / "shapes").glob("train*.py")}
        forbid(training or {"realcompo.shapes.train"}, "training is not for users")
    if room == "shapes" and not re.match(r"host_models|train", path.name):
        forbid(HOST, "only host_models and training know the host")
    if room in ("door", "nodes", "shapes") or path == Path("__init__.py"):
        forbid({"realcompo.runner", "realcompo.bench"}, "ComfyUI loads neither with the pack")
    if room in (*PACK_ROOMS, "door", "root") and path.name not in ("dev.py", "conftest.py"):
        for top in ("balancer", "shapes", "runner", "bench"):
            forbid({top}, "inside the pack every import is relative")
    return problems


def _found(text: list[str]) -> list[tuple[str, bool, int]]:
    return [(name.removeprefix("lazy "), name.startswith("lazy "), 1) for name in text]


@pytest.mark.parametrize(
    ("path", "imported", "wrong"),
    [
        ("balancer/x.py", ["torch.nn", "realcompo.balancer.layouts.layout", "math"], 0),
        ("balancer/x.py", ["comfy.samplers"], 1),
        ("balancer/x.py", ["lazy comfy.samplers"], 1),
        ("balancer/x.py", ["realcompo.balancer.comfy.realcompo.guider"], 1),
        ("balancer/x.py", ["matplotlib.pyplot"], 1),
        ("balancer/x.py", ["lazy matplotlib.pyplot"], 0),
        ("balancer/x.py", ["lazy transformers"], 1),
        ("balancer/comfy/x.py", ["comfy.samplers", "realcompo.balancer.layouts.layout"], 0),
        ("balancer/comfy/x.py", ["nodes"], 1),
        ("nodes/x.py", ["realcompo.shapes.host_models", "lazy comfy.samplers"], 0),
        ("nodes/x.py", ["realcompo.shapes.train.main"], 1),
        ("nodes/x.py", ["balancer.layout"], 1),
        ("nodes/x.py", ["lazy realcompo.runner.best"], 1),
        ("__init__.py", ["realcompo.runner"], 1),
        ("bench/x.py", ["realcompo.runner.cluster"], 0),
        ("shapes/oracle.py", ["comfy.sd"], 1),
        ("shapes/host_models.py", ["comfy.sd"], 0),
        ("shapes/train.py", ["comfy.sd"], 0),
    ],
)
def test_the_rule_itself_judges_right(path: str, imported: list[str], wrong: int) -> None:
    assert len(violations(Path(path), _found(imported))) == wrong


def test_every_file_imports_only_what_its_room_may() -> None:
    ours = [path for path in files({".py"}) if _room(path) in (*PACK_ROOMS, "door", "root")]
    assert len(ours) > 10
    problems = [line for path in ours for line in violations(path, list(imports(path)))]
    assert not problems, "\n".join(problems)


def test_sources_are_safe_in_every_windows_code_page() -> None:
    problems = []
    for path in files({".py"}):
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            try:
                line.encode("cp1252")
            except UnicodeEncodeError as error:
                problems.append(f"{path.as_posix()}:{number}: {error.object[error.start]!r}")
    assert not problems, "\n".join(problems)


def test_no_file_names_the_machine_it_was_written_on() -> None:
    roots = "|".join(("work", "tmp", "root"))
    registries = ("py" + r"pi\.org", "python" + "hosted", "download" + r"\.pytorch", "npm" + "js")
    hosts = "|".join(registries)
    machine = re.compile(rf"(?<![\w.~}}$-])/(?:{roots})/\w|{hosts}")
    assert machine.search("see /" + "tmp/x") and not machine.search("build/" + "tmp/x")
    problems = []
    for path in files(TEXT):
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line):
                problems.append(f"{path.as_posix()}:{number}: {line.strip()[:80]}")
    assert not problems, "\n".join(problems)


def test_ruff_finds_nothing() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
