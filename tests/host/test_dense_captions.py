"""RealCompo Dense Captions and its company: lists, a language model, the demo's detector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import comfy.model_management as management
import pytest
import torch
from realcompo.balancer.comfy.inputs.types import resolve
from realcompo.balancer.comfy.llm import http_post, planning
from realcompo.balancer.errors import RealCompoError
from realcompo.nodes.demo_vision import RealCompoShapesDetector
from realcompo.nodes.dense_captions import RealCompoDenseCaptions, RealCompoPromptPhrases

from . import llm_server as llm

PROMPT = "a blue square and a red circle"
NODE = "RealCompo Dense Captions (after RealignDiff)"
TAGS = ["red square", "blue circle"]
SQUARE = {"phrase": "a blue square", "tag": "red square", "weight": 1.5}
CIRCLE = {"phrase": "a red circle", "tag": "blue circle", "weight": 1.0}
GOOD = json.dumps({"regions": [SQUARE, CIRCLE]})
KEY = "sk-SECRET-0123456789"


def masks() -> list[torch.Tensor]:
    out = torch.zeros(2, 1, 32, 32)
    out[0, 0, 4:14, 4:14] = 1
    out[1, 0, 16:28, 18:30] = 1
    return list(out)


def build(**changes: Any) -> tuple[Any, str, list[str], str]:
    """The node's outputs for lists, as the host gives them; the report in lines."""
    given: dict[str, Any] = {
        "prompt": [PROMPT], "method": ["rules"], "missing": ["place"], "min_area": [0.001],
        "masks": masks(), "tags": list(TAGS), **changes,
    }  # fmt: skip
    layout, prompt, report, missing = RealCompoDenseCaptions().build(**given)
    return layout, prompt, report.splitlines(), missing


def refused(**changes: Any) -> RealCompoError:
    with pytest.raises(RealCompoError) as caught:
        build(**changes)
    assert caught.value.node == NODE
    assert caught.value.__cause__ is None and "\n" not in str(caught.value)
    return caught.value


def test_a_layout_by_rules() -> None:
    layout, prompt, report, missing = build(image=[torch.zeros(1, 256, 384, 3)])
    assert [region.phrase for region in layout.regions] == ["a blue square", "a red circle"]
    assert layout.regions[0].mask is not None and prompt == layout.prompt == PROMPT
    assert (layout.width, layout.height) == (384, 256) and missing == ""
    assert report == ["2 regions by rules, 2 found in the picture"]
    assert all(resolve(layout)), "the sampler finds the phrases"


def test_detectors_that_find_nothing() -> None:
    """No mask, an empty mask, an empty list, a list of nothing: the same."""
    hollow = [torch.zeros(1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.uint8)]
    for nothing in (
        {"masks": [], "tags": []}, {"masks": hollow}, {"masks": [torch.zeros(0, 32, 32)] * 2},
        {"masks": None, "tags": None, "boxes": [[[]]]}, {"masks": hollow[:1], "tags": [""]},
        {"masks": None, "tags": None, "boxes": ["[]"]},
    ):  # fmt: skip
        layout, _, report, missing = build(**nothing)
        assert len(layout.regions) == 2 and missing == ""
        assert sum("put into free room" in line for line in report) == 2
        error = refused(**nothing, missing=["leave out"])
        assert error.where == "missing" and "fallback" in error.remedy
    layout, _, report, missing = build(masks=masks()[:1], tags=TAGS[:1], missing=["leave out"])
    assert len(layout.regions) == 1 and missing == "a red circle"
    again, *_ = build(masks=[], tags=[], missing=["leave out"], fallback=[layout])
    assert again.regions == layout.regions


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"prompt": [" "]}, "prompt", "no prompt"), ({"prompt": ["!"]}, "prompt", "no thing"),
        ({"masks": None}, "masks", "neither"), ({"tags": None}, "tags", "without a name"),
        ({"tags": ["a", "b", "c"]}, "tags", "3 names for 2"), ({"masks": ["x"]}, "masks", "a text"),
        ({"missing": ["x"]}, "missing", "is unknown"), ({"method": ["x"]}, "method", "is unknown"),
        ({"several": ["x"]}, "several", "is unknown"),
        ({"keep": ["x"]}, "keep", "is unknown"), ({"image": ["x"]}, "image", "IMAGE"),
        ({"fallback": ["x"]}, "fallback", "REALCOMPO_LAYOUT"),
        ({"masks": None, "tags": None, "boxes": [[{"label": "a", "bbox": [0, 0, 9, 9]}]]},
         "boxes", "pixels"),
        ({"masks": None, "boxes": [{"a": 1}]}, "boxes", "keys"),
        ({"method": ["language model"], "llm_output": ["no"]}, "llm_output", "no usable phrase"),
        ({"method": ["language model"], "endpoint": ["x"]}, "endpoint", "neither http"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(changes, where, words) -> None:
    error = refused(**changes)
    assert error.where == where and words in str(error)


# -- by a language model ----------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[llm.Server]:
    planning.forget_plans()
    monkeypatch.setattr(http_post, "FIRST_PAUSE", 0.01)
    management.interrupt_current_processing(False)
    with llm.serving() as running:
        running.say(GOOD)
        yield running
    management.interrupt_current_processing(False)


def by_model(server: llm.Server, **changes: Any) -> Any:
    return build(**{"method": ["language model"], "endpoint": [server.url], "model": ["tiny"],
                    "seed": [3], **changes})  # fmt: skip


def test_a_server_is_asked_once_by_its_own_schema(server: llm.Server) -> None:
    layout, _, report, _ = by_model(server)
    assert [(r.phrase, r.weight) for r in layout.regions] == [
        ("a blue square", 1.5), ("a red circle", 1.0),
    ]  # fmt: skip
    assert report[0] == "2 regions by the model 'tiny', 2 found in the picture"
    (asked,) = server.asked
    form = asked.body["response_format"]["json_schema"]
    assert form["name"] == "caption" and "weight" in json.dumps(form["schema"])
    assert json.loads(asked.body["messages"][-1]["content"])["tags"] == TAGS
    again, _, report, _ = by_model(server)
    assert again == layout and len(server.asked) == 1
    assert any("not asked again" in line for line in report)
    by_model(server, tags=["square", "circle"])
    by_model(server, seed=[4])
    assert len(server.asked) == 3


def test_malformed_answers_are_repaired_or_refused(server: llm.Server) -> None:
    server.say("I cannot see the picture.", GOOD)
    layout, _, report, _ = by_model(server)
    assert len(layout.regions) == 2 and any("told once" in line for line in report)
    server.say("no", "no")
    with pytest.raises(RealCompoError, match="no usable phrase") as caught:
        by_model(server, seed=[9])
    assert caught.value.where == "model" and caught.value.node == NODE


def test_a_server_that_knows_no_schema(server: llm.Server) -> None:
    def picky(handler: llm.Handler, asked: llm.Asked) -> None:
        if asked.format:
            handler.reply(400, b'{"error": {"message": "response_format is not supported"}}')
        else:
            llm.text(GOOD)(handler, asked)

    server.say(picky)
    layout, _, report, _ = by_model(server)
    assert [asked.format for asked in server.asked] == ["json_schema", "json_object", ""]
    assert len(layout.regions) == 2 and sum("refused" in line for line in report) == 2


def test_keys_follow_the_planners_rules(server: llm.Server, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    by_model(server, api_key_env=["MY_KEY"])
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for changes in ({"endpoint": ["https://example.com/v1"]}, {"api_key_env": [KEY]}):
        with pytest.raises(RealCompoError) as caught:
            by_model(server, seed=[4], **{"api_key_env": ["MY_KEY"], **changes})
        assert caught.value.where == "api_key_env" and KEY not in str(caught.value)
    server.say(llm.redirect(302, "http://example.com/"))
    with pytest.raises(RealCompoError, match="redirects"):
        by_model(server, seed=[5], api_key_env=["MY_KEY"])


def test_a_pasted_answer_may_make_the_prompt_longer() -> None:
    table = {"phrase": "an oak table", "tag": "table", "weight": 0.5}
    third = torch.zeros(1, 16, 16)
    third[0, 12:, 2:14] = 1
    given = {"method": ["language model"], "masks": [*masks(), third], "tags": [*TAGS, "table"],
             "llm_output": [json.dumps({"regions": [SQUARE, CIRCLE, table]})]}  # fmt: skip
    layout, prompt, report, _ = build(**given)
    assert prompt == layout.prompt == f"{PROMPT}, an oak table" and len(layout.regions) == 3
    assert layout.regions[2].weight == 0.5 and all(resolve(layout))
    assert any("added to the prompt" in line for line in report)
    layout, prompt, report, _ = build(**given, extend_prompt=[False])
    assert prompt == PROMPT and len(layout.regions) == 2
    _, _, report, _ = build(llm_output=["something"])
    assert "not read by this method" in report[0]


# -- the phrases, and the demo's detector ------------------------------------------------------


def test_phrases_for_a_detector() -> None:
    prompt = "a green traffic light above two small dogs"
    phrases, names, request, same = RealCompoPromptPhrases().list_phrases([prompt], ["bus\ncat"])
    assert phrases == ["a green traffic light", "two small dogs"]
    assert names == ["traffic light", "dogs"] and same == prompt
    assert request.endswith("Answer:") and '"tags": ["bus", "cat"]' in request
    assert RealCompoPromptPhrases.OUTPUT_IS_LIST == (True, True, False, False)
    with pytest.raises(RealCompoError, match="Prompt Phrases"):
        RealCompoPromptPhrases().list_phrases(["!"])


def picture() -> torch.Tensor:
    from realcompo.shapes.render import render
    from realcompo.shapes.world import Scene, ShapeObject

    scene = Scene((ShapeObject("red", "square", (0.1, 0.1, 0.45, 0.45)),
                   ShapeObject("blue", "circle", (0.55, 0.5, 0.9, 0.85))))  # fmt: skip
    blank = torch.zeros(1, 128, 128, 3)
    return torch.cat(
        [blank, render([scene], "plain", torch.Generator().manual_seed(1)).movedim(1, -1)]
    )


def test_the_demos_detector() -> None:
    detect = RealCompoShapesDetector().detect
    labels, found, boxes = detect(picture(), 1)
    assert sorted(labels) == ["blue circle", "red square"]
    for label, mask, box in zip(labels, found, json.loads(boxes), strict=True):
        assert box["label"] == label and mask.shape == (1, 128, 128)
        rows = mask[0].amax(1).nonzero()
        assert box["box"][1] * 128 == pytest.approx(int(rows[0]), abs=0.1)
    assert detect(picture(), 1, only="squares")[0] == ["red square"]
    assert detect(picture(), 1, only="a red circle")[0] == [""]
    assert set(detect(picture(), 1, names="shape")[0]) == {"circle", "square"}
    labels, (mask,), boxes = detect(picture(), 0)
    assert labels == [""] and not mask.any() and boxes == "[]"
    for arguments, where in (((picture(), 2), "batch_index"), (("x", 0), "image"),
                             ((picture(), 0, "a dog"), "only")):  # fmt: skip
        with pytest.raises(RealCompoError) as caught:
            detect(*arguments)
        assert caught.value.where == where and caught.value.node == "Shapes Demo Detector"


def test_runs_once_for_each_phrase_and_labels_stay() -> None:
    """As the host does it: phrases, one run of the detector each, collected again."""
    detect = RealCompoShapesDetector().detect
    _, names, _, _ = RealCompoPromptPhrases().list_phrases([PROMPT])
    runs = [detect(picture(), 1, only=name) for name in names]
    masks_ = [mask for _, row, _ in runs for mask in row]
    for tags in ([label for row, _, _ in runs for label in row], names, ["\n".join(names)]):
        layout, _, report, _ = build(masks=masks_, tags=tags)
        square, circle = layout.regions
        assert square.phrase == "a blue square" and square.box[0] < 0.2 < 0.5 < circle.box[0]
    # boxes as JSON do as well
    layout, *_ = build(masks=None, tags=None, boxes=[json_ for _, _, json_ in runs])
    assert [region.mask for region in layout.regions] == [None, None]
