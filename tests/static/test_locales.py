"""Translations name what the nodes really have, in the form that ComfyUI's page reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .sources import ROOT

FILES = sorted((ROOT / "locales").glob("*/nodeDefs.json"))


def test_there_are_translations() -> None:
    assert {path.parent.name for path in FILES} >= {"en", "zh"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_translated_node_is_translated_as_a_whole(path: Any, infos: dict[str, Any]) -> None:
    for node, texts in json.loads(path.read_text(encoding="utf-8")).items():
        info = infos[node]
        names = [name for section in info["input"].values() for name in section]
        assert sorted(texts["inputs"]) == sorted(names), node
        assert sorted(texts["outputs"]) == [str(i) for i in range(len(info["output"]))], node
        for entry in [*texts["inputs"].values(), *texts["outputs"].values()]:
            assert entry["name"].strip() and entry["tooltip"].strip(), node
        assert texts["display_name"].strip() and texts["description"].strip(), node


def test_the_english_texts_are_the_nodes_own(infos: dict[str, Any]) -> None:
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    for node, said in texts.items():
        info = infos[node]
        assert said["display_name"] == info["display_name"]
        assert said["description"] == info["description"]
        for section in info["input"].values():
            for name, spec in section.items():
                assert said["inputs"][name] == {"name": name, "tooltip": spec[1]["tooltip"]}
        for index, tip in enumerate(info["output_tooltips"]):
            assert said["outputs"][str(index)] == {"name": info["output_name"][index],
                                                   "tooltip": tip}  # fmt: skip
