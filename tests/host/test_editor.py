"""The editor node and the page's question, with the host's own tokenizer and folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("comfy.sd1_clip")
folder_paths = pytest.importorskip("folder_paths")

from realcompo.balancer.attention.prompt_words import words_in  # noqa: E402
from realcompo.balancer.attention.tokens import resolve_tokens  # noqa: E402
from realcompo.balancer.comfy import routes  # noqa: E402
from realcompo.balancer.comfy.text import tokenizer as text  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout  # noqa: E402
from realcompo.nodes.layout_editor import RealCompoLayout  # noqa: E402

PROMPT = "A (Red Star:1.2), and a blue circle on two kaleidoscopic armadillos"


def region(phrase: str, **more: Any) -> dict[str, Any]:
    return {"phrase": phrase, "box": [0.1, 0.1, 0.5, 0.5], **more}


def ask(prompt: str, *regions: dict[str, Any]) -> dict[str, Any]:
    return routes.match({"prompt": prompt, "regions": list(regions)})


def shown(answer: dict[str, Any], index: int) -> list[str]:
    """The typed characters of one region's words."""
    words = [answer["words"][i] for i in answer["regions"][index]["words"]]
    return [PROMPT[word["start"] : word["end"]] for word in words]


def test_words_are_found_again_in_the_typed_text() -> None:
    answer = ask(PROMPT, region("red star"), region("kaleidoscopic armadillos"), region("a cat"))
    assert shown(answer, 0) == ["Red", "Star"]
    assert shown(answer, 1) == ["kaleidoscopic", "armadillos"]
    assert answer["regions"][2] == {"words": [], "found": False, "held": 0, "suggestion": None}
    assert answer["things"] == ["a red star", "a blue circle", "two kaleidoscopic armadillos"]
    json.dumps(answer)


def test_the_answer_is_the_samplers() -> None:
    """Found here means resolved there, occurrence for occurrence; not found means refused."""
    prompt = "a dog, a red star, a red star and a blue circle"
    cases = [
        [region("red star"), region("red star"), region("red star")],
        [region("the blue circle"), region("a dog", occurrence=1)],
        [region("red star", occurrence=1), region("blu circle")],
        [region("", tokens=[3, 4]), region("a dog")],
    ]
    seen = set()
    for case in cases:
        layout = Layout.from_dict({"prompt": prompt, "regions": case})
        answer = ask(prompt, *case)
        found = [entry["found"] for entry in answer["regions"]]
        seen.add(all(found))
        encoded = text.encode_prompt(prompt)
        if not all(found):
            with pytest.raises(RealCompoError, match=f"region {found.index(False) + 1}"):
                resolve_tokens(layout, encoded, text.encode_prompt)
            continue
        words = words_in(prompt, encoded)
        resolved = resolve_tokens(layout, encoded, text.encode_prompt)
        for entry, positions in zip(answer["regions"], resolved, strict=True):
            covered = {p for index in entry["words"] for p in words[index].positions}
            assert set(positions) <= covered
    assert seen == {True, False}


def test_a_near_wording_is_proposed() -> None:
    answer = ask(PROMPT, region("a blue circel"))
    assert answer["regions"][0]["suggestion"] == "a blue circle"


def test_letters_outside_ascii_and_embeddings_do_not_shift_the_words() -> None:
    prompt = "\u0130stanbul, embedding:cat a dog"
    words = words_in(prompt, text.encode_prompt(prompt))
    placed = {word.text: prompt[word.start : word.end] for word in words if word.start >= 0}
    assert placed["dog"] == "dog" and placed["a"] == "a"
    dog = next(word for word in words if word.text == "dog")
    assert prompt[dog.start :] == "dog"
    assert ask(prompt)["things"][-1] == "a dog"


@pytest.mark.parametrize(
    "value",
    [None, [], {"regions": 1}, {"regions": [region("")]}, {"regions": [], "prompt": "x" * 20001}],
)
def test_nonsense_is_refused(value: Any) -> None:
    with pytest.raises(RealCompoError):
        routes.match(value)


def test_without_a_server_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server", raising=False)
    assert not routes.register()
    assert "server" not in sys.modules


def test_the_node_gives_the_drawing_and_shows_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))
    drawn = json.dumps({"schema": 1, "regions": [region("red star", colour="#123456")]})
    image = torch.zeros(2, 40, 60, 3)
    image[0, :, :30] = 1.0
    answer = RealCompoLayout().build(PROMPT, drawn, 640, 480, image=image)
    layout, prompt, width, height = answer["result"]
    assert (prompt, width, height) == (PROMPT, 640, 480) == (layout.prompt, 640, 480)
    (news,) = answer["ui"]["layout_editor"]
    assert news["adopt"] is None and news["prompt"] == PROMPT
    from PIL import Image

    with Image.open(tmp_path / "temp" / news["backdrop"]["filename"]) as picture:
        assert picture.size == (60, 40)
        assert picture.getpixel((5, 5)) == (255, 255, 255)
        assert picture.getpixel((45, 5)) == (0, 0, 0)
    assert (
        RealCompoLayout().build(PROMPT, drawn, 8, 8)["ui"]["layout_editor"][0]["backdrop"] is None
    )


def test_the_node_refuses_in_its_own_name() -> None:
    with pytest.raises(RealCompoError) as refusal:
        RealCompoLayout().build("x", "no json", 512, 512)
    assert str(refusal.value).startswith("RealCompo Layout Editor, input 'layout_json': ")
    with pytest.raises(RealCompoError) as refusal:
        RealCompoLayout().build("x", "", 512, 512, image=torch.zeros(3))
    assert str(refusal.value).startswith("RealCompo Layout Editor, input 'image': ")
