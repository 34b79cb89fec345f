"""The editor's text and a wired layout: which regions, prompt and size come out."""

from __future__ import annotations

import json

import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.editor_json import edited_layout, fingerprint, to_adopt
from realcompo.balancer.layouts.layout import Layout, Region

WIRED = Layout((Region("a dog", (0.5, 0.5, 1.0, 1.0)),), "a dog on a sofa", 768, 768)
DRAWN = {
    "schema": 1,
    "regions": [{"phrase": "a cat", "box": [0.1, 0.2, 0.4, 0.6], "colour": "#e69f00"}],
    "editor": {"grid": 16, "snap": True},
}


def text(**editor: object) -> str:
    return json.dumps({**DRAWN, "editor": {**DRAWN["editor"], **editor}})


def phrases(layout: Layout) -> list[str]:
    return [region.phrase for region in layout.regions]


def test_keys_of_the_editor_change_nothing() -> None:
    made = edited_layout(text(unheard=[1]), "a cat", 640, 480)
    assert made == Layout((Region("a cat", (0.1, 0.2, 0.4, 0.6)),), "a cat", 640, 480)
    assert "colour" not in made.to_json()


@pytest.mark.parametrize("empty", ["", " \n", '{"schema": 1, "regions": []}'])
def test_an_editor_starts_without_regions(empty: str) -> None:
    assert edited_layout(empty, "", 8, 8) == Layout((), "", 8, 8)


def test_a_wired_layout_comes_in_until_the_editor_has_taken_it_over() -> None:
    assert phrases(edited_layout(text(), "", 512, 512, WIRED)) == ["a dog"]
    adopted = to_adopt(text(), WIRED)
    assert adopted == {"source": fingerprint(WIRED), "layout": WIRED.to_dict()}
    edited = text(source=adopted["source"])
    assert phrases(edited_layout(edited, "", 512, 512, WIRED)) == ["a cat"]
    assert to_adopt(edited, WIRED) is None
    changed = Layout(WIRED.regions * 2, WIRED.prompt)
    assert phrases(edited_layout(edited, "", 512, 512, changed)) == ["a dog", "a dog"]
    assert phrases(edited_layout(edited, "", 512, 512)) == ["a cat"]
    assert to_adopt(edited) is None


def test_the_typed_prompt_goes_before_the_wired_and_that_before_the_texts() -> None:
    own = json.dumps({**DRAWN, "prompt": "a cat sits"})
    assert edited_layout(own, "typed", 8, 8, WIRED).prompt == "typed"
    assert edited_layout(own, " ", 8, 8, WIRED).prompt == "a dog on a sofa"
    assert edited_layout(own, "", 8, 8).prompt == "a cat sits"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no list 'regions'"),
        ('{"schema": 2, "regions": []}', "schema 2"),
        ('{"regions": [{"phrase": "", "box": [0, 0, 1, 1]}]}', "neither a phrase"),
        ('{"regions": [{"phrase": "a", "box": [0, 0, 2, 1]}]}', "leaves the image"),
        ('{"regions": [{"phrase": "a", "box": [0, 0, 1, 1], "weight": 0}]}', "weight"),
    ],
)
def test_a_broken_text_is_refused_at_its_input(broken: str, words: str) -> None:
    with pytest.raises(RealCompoError, match=words) as refusal:
        edited_layout(broken, "", 8, 8)
    assert refusal.value.where == "layout_json"


def test_other_values_are_refused() -> None:
    with pytest.raises(RealCompoError, match="not a text"):
        edited_layout(7, "", 8, 8)  # type: ignore[arg-type]
    with pytest.raises(RealCompoError, match="not a REALCOMPO_LAYOUT") as refusal:
        edited_layout(text(), "", 8, 8, [1])
    assert refusal.value.where == "layout"
