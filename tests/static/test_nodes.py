"""Every node explains itself, has a help page and an example, and keeps saved workflows alive."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from .sources import ROOT

LIGHT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch, hostpack
before = set(sys.modules)
start = time.process_time()
pack = hostpack.load_pack()
seconds = time.process_time() - start
print(json.dumps({
    "seconds": seconds, "nodes": len(pack.NODE_CLASS_MAPPINGS),
    "new": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
}))
"""
HEAVY = {
    "matplotlib", "transformers", "scipy", "torchvision", "PIL", "comfy", "nodes", "safetensors",
}  # fmt: skip


def _options(info: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, (spec[1:] or ({},))[0])
        for section in ("required", "optional")
        for name, spec in info["input"].get(section, {}).items()
    ]


def test_importing_the_pack_is_light() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIGHT, str(ROOT / "tools")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["nodes"] >= 8
    assert not HEAVY & set(found["new"])
    assert found["seconds"] < 0.3


def test_every_input_and_output_has_a_tooltip(infos: dict[str, Any]) -> None:
    silent = [
        f"{node}.{name}"
        for node, info in infos.items()
        for name, options in _options(info)
        if not str(options.get("tooltip", "")).strip()
    ]
    silent += [
        f"{node}: outputs"
        for node, info in infos.items()
        if len([tip for tip in info["output_tooltips"] if tip]) != len(info["output"])
    ]
    assert not silent


def test_every_node_has_a_name_a_description_and_a_place_in_the_menu(
    infos: dict[str, Any],
) -> None:
    for node, info in infos.items():
        assert node.startswith("RealCompo"), node
        assert info["display_name"] != node and info["display_name"], node
        assert len(info["description"]) > 20, node
        assert info["category"] == "RealCompo" or info["category"].startswith("RealCompo/"), node


def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(
    pack: Any, infos: dict[str, Any]
) -> None:
    pages = ROOT / pack.WEB_DIRECTORY / "docs"
    missing = []
    for node, info in infos.items():
        page = pages / f"{node}.md"
        if not page.is_file():
            missing.append(f"{node}.md")
            continue
        text = page.read_text(encoding="utf-8")
        names = [name for name, _ in _options(info)] + list(info["output_name"])
        missing += [f"{node}.md: `{name}`" for name in names if f"`{name}`" not in text]
    assert not missing


# It makes a text.
WITHOUT_PICTURE = {"RealCompoPlannerRequest"}


def test_help_pages_show_pictures_that_are_there(pack: Any, infos: dict[str, Any]) -> None:
    pages = ROOT / pack.WEB_DIRECTORY / "docs"
    bare = set()
    for node in infos:
        text = (pages / f"{node}.md").read_text(encoding="utf-8")
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        assert all((pages / picture).is_file() for picture in pictures), node
        if not pictures:
            bare.add(node)
    assert bare == WITHOUT_PICTURE


def test_every_example_workflow_has_a_thumbnail() -> None:
    for path in sorted((ROOT / "workflows").glob("*.json")):
        assert path.with_suffix(".jpg").is_file(), path.name


def test_every_node_appears_in_an_example_workflow(infos: dict[str, Any]) -> None:
    used: set[str] = set()
    for path in sorted((ROOT / "workflows").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        used |= {node["type"] for node in workflow["nodes"]}
    assert not sorted(set(infos) - used), "nodes that no workflow in workflows/ shows"


def test_the_nodes_are_as_the_snapshot_says(infos: dict[str, Any]) -> None:
    import node_snapshot

    committed = json.loads(node_snapshot.FILE.read_text(encoding="utf-8"))
    now = node_snapshot.take(infos)
    assert not node_snapshot.breaks(committed, now)
    assert now == committed, "compatible change: run `python dev.py nodes --update` and commit"


def _one(**changes: Any) -> dict[str, Any]:
    node = {
        "display_name": "A",
        "required": [{"name": "x", "type": "COMBO", "choices": ["p", "q"]}],
        "optional": [{"name": "y", "type": "INT"}],
        "outputs": [{"name": "o", "type": "IMAGE"}],
    }
    return {"A": {**node, **changes}}


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (_one(), None),
        ({**_one(), "B": _one()["A"]}, None),
        (_one(optional=[{"name": "y", "type": "INT"}, {"name": "z", "type": "INT"}]), None),
        (_one(outputs=[{"name": "o", "type": "IMAGE"}, {"name": "p", "type": "MASK"}]), None),
        (_one(required=[{"name": "x", "type": "COMBO", "choices": ["r", "q", "p"]}]), None),
        ({}, "gone"),
        (_one(optional=[]), "gone"),
        (_one(optional=[{"name": "z", "type": "INT"}, {"name": "y", "type": "INT"}]), "place 1"),
        (_one(outputs=[{"name": "o", "type": "MASK"}]), "place 1"),
        (_one(required=[{"name": "x", "type": "COMBO", "choices": ["p"]}]), "lost"),
        (_one(required=[*_one()["A"]["required"], {"name": "n", "type": "INT"}]), "optional"),
    ],
)
def test_the_snapshot_allows_additions_at_the_end_only(
    now: dict[str, Any], word: str | None
) -> None:
    from node_snapshot import breaks

    problems = breaks(copy.deepcopy(_one()), now)
    assert (word is None) == (not problems)
    assert word is None or word in problems[0]
