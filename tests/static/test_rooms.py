"""The order of the pack's folders: what a room imports lies below it; no file waits for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from .sources import ROOT, files, imports

# From the ground up. A folder imports from itself and from those before it, never from later ones.
ORDER = (
    "balancer",
    "balancer/values",
    "balancer/text",
    "balancer/layouts",
    "balancer/attention",
    "balancer/realcompo",
    "balancer/dense",
    "balancer/llm",
    "balancer/planner",
    "balancer/captions",
    "balancer/finetune",
    "balancer/pictures",
    "balancer/comfy/host",
    "balancer/comfy/text",
    "balancer/comfy/attention",
    "balancer/comfy/inputs",
    "balancer/comfy/patchers",
    "balancer/comfy/autograd",
    "balancer/comfy/realcompo",
    "balancer/comfy/dense",
    "balancer/comfy/captions",
    "balancer/comfy/finetune",
    "balancer/comfy/llm",
    "balancer/comfy",
    "shapes",
    "nodes",
)
# The batch runner and the benches import the pack, and nothing of it imports them (test_sources).
ABOVE = ("runner", "bench")


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(("realcompo", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _ours() -> dict[str, Path]:
    rooms = {room.split("/")[0] for room in (*ORDER, *ABOVE)}
    return {_module(path): path for path in files({".py"}) if path.parts[0] in rooms}


def _targets(path: Path, ours: dict[str, Path], at_import: bool = False) -> set[Path]:
    """The pack's files that ``path`` imports; only those that it needs to be imported itself."""
    found = set()
    for name, lazy, _ in imports(path):
        if not (lazy and at_import):
            target = ours.get(name) or ours.get(name.rpartition(".")[0])
            if target is not None and target != path:
                found.add(target)
    return found


def wrong_arrows(arrows: dict[Path, set[Path]]) -> list[str]:
    """Imports that point upwards, a sentence each."""
    rank = {room: number for number, room in enumerate(ORDER)}
    return [
        f"{path.as_posix()} imports {target.as_posix()}: {target.parent.as_posix()} comes later"
        for path, targets in arrows.items()
        for target in sorted(targets)
        if rank[path.parent.as_posix()] < rank[target.parent.as_posix()]
    ]


def circles(arrows: dict[Path, set[Path]]) -> list[list[Path]]:
    """Files that import each other, by way of others or not: one list for each circle found."""
    found: list[list[Path]] = []
    done: set[Path] = set()

    def walk(path: Path, trail: list[Path]) -> None:
        if path in trail:
            found.append(trail[trail.index(path) :])
        elif path not in done:
            for target in sorted(arrows.get(path, ())):
                walk(target, [*trail, path])
            done.add(path)

    for path in sorted(arrows):
        walk(path, [])
    return found


@pytest.mark.parametrize(
    ("arrows", "upwards", "round_about"),
    [
        ({"nodes/a": {"balancer/text/b"}, "balancer/text/b": set()}, 0, 0),
        ({"balancer/text/b": {"balancer/pictures/c"}, "balancer/pictures/c": set()}, 1, 0),
        ({"balancer/text/a": {"balancer/text/b"}, "balancer/text/b": {"balancer/text/a"}}, 0, 1),
    ],
)
def test_the_rule_itself_judges_right(
    arrows: dict[str, set[str]], upwards: int, round_about: int
) -> None:
    paths = {Path(key): {Path(target) for target in targets} for key, targets in arrows.items()}
    assert (len(wrong_arrows(paths)), len(circles(paths))) == (upwards, round_about)


def test_every_import_points_downwards() -> None:
    ours = _ours()
    arrows = {
        path: {t for t in _targets(path, ours) if t.name != "__init__.py"}
        for path in ours.values()
        if path.parts[0] not in ABOVE
    }
    assert len(arrows) > 100
    assert {path.parent.as_posix() for path in arrows} == set(ORDER)
    problems = wrong_arrows(arrows)
    assert not problems, "\n".join(problems)


def test_no_file_waits_for_itself() -> None:
    ours = _ours()
    arrows = {path: _targets(path, ours) for path in ours.values()}
    assert not circles(arrows)


def test_every_folder_says_what_it_is_for() -> None:
    for room in ORDER:
        text = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""'), room
