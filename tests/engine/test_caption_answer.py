"""What a language model says of the phrases: read generously, trusted in nothing."""

from __future__ import annotations

import json

import pytest
from realcompo.balancer.captions.answer import (
    CAPTIONS_PROMPT,
    HIGHEST,
    LOWEST,
    captions_by,
    captions_from_text,
    captions_request,
    read_captions,
)
from realcompo.balancer.errors import RealCompoError

PROMPT = "a (blue:1.2) square and a red circle, photo"
TAGS = ["red square", "blue circle", "table"]
SQUARE = {"phrase": "a blue square", "tag": "red square", "weight": 1.5}
CIRCLE = {"phrase": "a red circle", "tag": "blue circle", "weight": 1.0}
GOOD = json.dumps({"regions": [SQUARE, CIRCLE]})


def read(*regions, extend: bool = True):
    return read_captions(json.dumps({"regions": list(regions)}), PROMPT, TAGS, extend)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Sure! Here it is:\n```json\n{GOOD}\n```\nAnything else?",
        f"<think>maybe {{'regions': []}} or {json.dumps({'regions': [CIRCLE]})}</think>{GOOD}",
        json.dumps([SQUARE, CIRCLE]),
        json.dumps({"objects": [{"caption": "a blue square", "label": "red square", "weight": 1.5},
                                CIRCLE]}),
        f"noise {{ [ {GOOD} }} ]",
    ],
)  # fmt: skip
def test_answers_in_many_dresses(text) -> None:
    got = read_captions(text, PROMPT, TAGS)
    assert [(c.phrase, c.weight, c.tags) for c in got.captions] == [
        ("a blue square", 1.5, ("red square",)), ("a red circle", 1.0, ("blue circle",)),
    ]  # fmt: skip
    assert got.prompt == PROMPT and not got.problems


@pytest.mark.parametrize(
    "text",
    ["", "no JSON at all", "{", '{"regions": "a"}', "[[[[", "null", "3", '{"regions": []}',
     '{"regions": [3, null, {"phrase": 4}]}', "{" * 5000, "x" * (1 << 21)],
)  # fmt: skip
def test_junk_gives_a_reason_and_no_phrase(text) -> None:
    got = read_captions(text, PROMPT, TAGS)
    assert not got.captions and got.problems and got.prompt == PROMPT
    with pytest.raises(RealCompoError, match="no usable phrase") as caught:
        captions_from_text(text, PROMPT, TAGS)
    assert caught.value.where == "llm_output"


@pytest.mark.parametrize(
    ("weight", "counts"),
    [(9, HIGHEST), (-2, LOWEST), (0, LOWEST), ("1.5", 1.5), (float("nan"), 1.0),
     (float("inf"), 1.0), (0.7, 0.7)],
)  # fmt: skip
def test_weights_are_held_in_range(weight, counts) -> None:
    got = read({**SQUARE, "weight": weight})
    assert got.captions[0].weight == counts
    assert bool(got.notes) == (weight not in ("1.5", 0.7))
    assert "weight" in " ".join(got.notes) or not got.notes


def test_a_weight_that_is_no_number_costs_its_region() -> None:
    got = read({**SQUARE, "weight": "much"}, CIRCLE)
    assert [c.phrase for c in got.captions] == ["a red circle"] and "weight" in got.problems[0]
    assert read({"phrase": "a red circle"}).captions[0].weight == 1.0


def test_phrases_are_the_prompts_words() -> None:
    near = read({**SQUARE, "phrase": "A blue squares"})
    assert near.captions[0].phrase == "a blue square" and "read as" in near.notes[0]
    assert near.prompt == PROMPT


def test_a_new_phrase_is_added_to_the_prompt_as_plain_words() -> None:
    new = {"phrase": "an (oak:9) table, embedding:bad", "tag": "table", "weight": 1}
    got = read(SQUARE, new)
    assert got.captions[1].phrase == "an oak 9 table embedding bad"
    assert got.prompt == f"{PROMPT}, an oak 9 table embedding bad"
    assert "added to the prompt" in got.notes[0]
    twice = read(new, {**new, "tag": "red square"})
    assert twice.prompt.count("oak") == 1 and twice.captions[0].tags == ("table", "red square")
    kept = read(SQUARE, new, extend=False)
    assert (
        kept.prompt == PROMPT
        and len(kept.captions) == 1
        and "not in the caption" in (kept.problems[0])
    )
    # what nobody saw is not added: that would be the model's own picture
    for tag in ("", "dragon"):
        invented = read(SQUARE, {"phrase": "a dragon", "tag": tag, "weight": 1})
        assert invented.prompt == PROMPT and len(invented.captions) == 1
    endless = {"phrase": "oak " * 40, "tag": "table", "weight": 1}
    assert read(endless).prompt == PROMPT


def test_tags_that_nobody_saw_are_said() -> None:
    got = read({**SQUARE, "tag": "purple thing"})
    assert got.captions[0].tags == () and "none of the tags" in got.notes[0]
    assert read({**SQUARE, "tag": "Red Squares"}).captions[0].tags == ("red square",)


def test_equal_phrases_are_one() -> None:
    got = read(SQUARE, {**SQUARE, "tag": "table"}, SQUARE)
    assert len(got.captions) == 1 and got.captions[0].tags == ("red square", "table")
    assert "repeats" in got.notes[-1]
    star = {"phrase": "a star", "tag": "", "weight": 1}
    got = read_captions(json.dumps([star] * 3), "a star and a dog and a star", TAGS)
    assert [caption.occurrence for caption in got.captions] == [0, 1]


def test_a_bad_answer_is_repaired_once() -> None:
    asked = []

    def ask(conversation):
        asked.append(conversation)
        return GOOD if len(asked) > 1 else '{"regions": [{"phrase": "a dragon", "tag": ""}]}'

    got = captions_by(ask, PROMPT, TAGS)
    assert len(got.captions) == 2 and len(asked) == 2 and "told once" in got.notes[0]
    assert "a dragon" in asked[1][-1]["content"]
    with pytest.raises(RealCompoError, match="no usable phrase") as caught:
        captions_by(lambda _: "no", PROMPT, TAGS)
    assert caught.value.where == "model"
    # a second answer that is worse does not count
    answers = iter([json.dumps({"regions": [SQUARE, CIRCLE, 3]}), "no"])
    assert len(captions_by(lambda _: next(answers), PROMPT, TAGS).captions) == 2


def test_the_request_says_what_is_meant() -> None:
    conversation = CAPTIONS_PROMPT.messages(captions_request(PROMPT, [*TAGS, TAGS[0]]))
    last = json.loads(conversation[-1]["content"])
    assert last == {"caption": "a blue square and a red circle, photo", "tags": TAGS}
    for question, answer in zip(conversation[1:-1:2], conversation[2:-1:2], strict=True):
        about = json.loads(question["content"])
        got = read_captions(answer["content"], about["caption"], about["tags"])
        assert got.captions and not got.problems and not got.notes
    text = CAPTIONS_PROMPT.one_text(captions_request(PROMPT, TAGS))
    assert text.endswith("Answer:") and "blue circle" in text
    schema = CAPTIONS_PROMPT.schema()
    item = schema["properties"]["regions"]["items"]
    assert set(item["required"]) == set(item["properties"]) == {"phrase", "tag", "weight"}
    assert item["additionalProperties"] is False and "default" not in json.dumps(schema)


def test_of_many_problems_eight_are_told_and_the_rest_counted() -> None:
    dragons = [{"phrase": f"a dragon {n}", "tag": "", "weight": 1} for n in range(12)]
    asked = []

    def ask(conversation):
        asked.append(conversation[-1]["content"])
        return json.dumps({"regions": [SQUARE, *dragons]})

    left_out = [note for note in captions_by(ask, PROMPT, TAGS).notes if "left out: " in note]
    assert len(left_out) == 9 and left_out[-1] == "left out: 4 more"
    assert asked[1].count("a dragon") == 8 and "and 4 more of the kind" in asked[1]
