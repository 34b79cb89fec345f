"""Every node speaks every language of the pack, in the form that ComfyUI's page reads."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

import locales

LANGUAGES = {path.parent.name: path for path in sorted(locales.FOLDER.glob("*/nodeDefs.json"))}
CHINESE = re.compile("[\u4e00-\u9fff]")
# The page formats messages with vue-i18n, for which these are placeholders, links and plurals.
SYNTAX = re.compile(r"[{}@|]")


@pytest.fixture(scope="module")
def english(infos: dict[str, Any]) -> dict[str, Any]:
    """The node classes' own texts, in the files' form."""
    return locales.english(infos)


def test_there_are_translations() -> None:
    assert {"en", "zh"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_entry_is_there_and_none_without_a_node(
    language: str, english: dict[str, Any]
) -> None:
    assert len(english) >= 8
    assert not locales.gaps(english, locales.read(LANGUAGES[language]))


def test_the_form_names_every_input_and_output(
    english: dict[str, Any], infos: dict[str, Any]
) -> None:
    assert set(english) == set(infos)
    for node, info in infos.items():
        sections = ("required", "optional")
        names = [name for section in sections for name in info["input"].get(section, {})]
        assert list(english[node]["inputs"]) == names
        assert list(english[node]["outputs"]) == [str(i) for i in range(len(info["output"]))]


def test_the_english_texts_are_the_nodes_own(english: dict[str, Any]) -> None:
    said = locales.flat(locales.read(LANGUAGES["en"]))
    assert said == locales.flat(english), "run `python dev.py locales --update`, and translate"


def test_the_chinese_texts_are_chinese() -> None:
    texts = locales.flat(locales.read(LANGUAGES["zh"]))
    read = [path for path in texts if path.endswith(("/tooltip", "/description", "/display_name"))]
    assert read and not [path for path in read if not CHINESE.search(texts[path])]


def test_a_chinese_text_calls_other_nodes_by_their_chinese_names(english: dict[str, Any]) -> None:
    names = {texts["display_name"] for texts in english.values()}
    texts = locales.flat(locales.read(LANGUAGES["zh"]))
    assert not [path for path, text in texts.items() if any(name in text for name in names)]


def test_no_two_nodes_share_a_name() -> None:
    for path in LANGUAGES.values():
        names = [texts["display_name"] for texts in locales.read(path).values()]
        assert len(set(names)) == len(names), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_what_the_page_would_take_for_message_syntax(language: str) -> None:
    texts = locales.flat(locales.read(LANGUAGES[language]))
    assert not [path for path, text in texts.items() if SYNTAX.search(text)]


def test_gaps_are_found(english: dict[str, Any]) -> None:
    node = next(name for name, texts in english.items() if texts["inputs"])
    name = next(iter(english[node]["inputs"]))
    texts = copy.deepcopy(english)
    del texts[node]["inputs"][name]["tooltip"]
    texts[node]["outputs"]["0"]["name"] = " "
    texts[node]["inputs"]["gone"] = {"name": "x", "tooltip": "y"}
    texts["Gone"] = copy.deepcopy(english[node])
    found = locales.gaps(english, texts)
    assert f"{node}/inputs/{name}/tooltip is missing" in found
    assert f"{node}/outputs/0/name is empty" in found
    assert f"{node}/inputs/gone/tooltip belongs to nothing" in found
    assert "Gone/display_name belongs to nothing" in found
    assert not locales.gaps(english, copy.deepcopy(english))
