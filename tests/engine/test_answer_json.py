"""Which list of an answer counts, what of broken JSON is kept, and that no text costs much."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realcompo.balancer.captions.answer import (
    CAPTIONS_PROMPT,
    captions_by,
    captions_from_text,
    captions_request,
    read_captions,
)
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.llm.answer_json import MAX_TEXT
from realcompo.balancer.llm.answer_text import without_thoughts
from realcompo.balancer.planner.answer import (
    LAYOUT_PROMPT,
    layout_request,
    plan,
    plan_from_text,
    read_answer,
)

PROMPT = "a cat next to two lemons"
TAGS = ["kitten", "lemon"]
CAT = {"phrase": "a cat", "box": [0.05, 0.3, 0.45, 0.95], "tag": "kitten", "weight": 1.5}
LEMONS = {"phrase": "two lemons", "box": [0.55, 0.7, 0.72, 0.9], "tag": "lemon", "weight": 1.0}
GOOD = json.dumps({"regions": [CAT, LEMONS]})
DRAFT = json.dumps({"regions": [{**CAT, "box": [0, 0, 0.2, 0.2], "weight": 0.5}]})
BROKEN_DRAFT, BROKEN = f"{DRAFT[:-2]},]}}", f"{GOOD[:-2]},]}}"

BOTH = [("a cat", (0.05, 0.3, 0.45, 0.95)), ("two lemons", (0.55, 0.7, 0.72, 0.9))]
BOTH_CAPTIONS = [("a cat", 1.5, ("kitten",)), ("two lemons", 1.0, ("lemon",))]


def both(text: str) -> tuple[list[Any], list[str], list[str], str]:
    """How many of the two regions are read as they stand, notes, and problems; the two readers
    must agree on that."""
    reading = read_answer(text, PROMPT)
    captions = read_captions(text, PROMPT, TAGS)
    boxes = [(region.phrase, region.box) for region in reading.regions]
    said = [(one.phrase, one.weight, one.tags) for one in captions.captions]
    assert boxes == BOTH[: len(boxes)] and said == BOTH_CAPTIONS[: len(said)]
    assert len(boxes) == len(said)
    assert reading.notes == captions.notes and reading.problems == captions.problems
    return boxes, list(reading.notes), list(reading.problems), " ".join(reading.problems)


def pasted(asked: list[dict[str, str]], one_text: str) -> list[str]:
    """A request as people paste it."""
    spoken = "\n".join(f"{entry['role']}: {entry['content']}" for entry in asked)
    return [one_text, spoken, json.dumps(asked), f"```\n{one_text}\n```"]


@pytest.mark.parametrize("way", range(4))
def test_an_echoed_request_is_no_answer(way: int) -> None:
    # The pack's example has two lemons of its own, and no cat.
    asked = pasted(LAYOUT_PROMPT.messages(layout_request(PROMPT)),
                   LAYOUT_PROMPT.one_text(layout_request(PROMPT, 768, 512)))[way]
    regions = read_answer(f"{asked}\n{GOOD}", PROMPT).regions
    assert [(region.phrase, region.box) for region in regions] == BOTH
    only = "the text holds only the request, and no answer to it"
    assert read_answer(asked, PROMPT).problems == (only,)
    # With an answer that breaks off, the example does not take its place.
    assert "cut off before" in read_answer(f"{asked} {GOOD[:30]}", PROMPT).problems[0]

    request = captions_request(PROMPT, TAGS)
    asked = pasted(CAPTIONS_PROMPT.messages(request), CAPTIONS_PROMPT.one_text(request))[way]
    captions = read_captions(f"{asked}\n{GOOD}", PROMPT, TAGS).captions
    assert [(one.phrase, one.weight, one.tags) for one in captions] == BOTH_CAPTIONS
    assert read_captions(asked, PROMPT, TAGS).problems == (only,)
    assert "cut off before" in read_captions(f"{asked} {GOOD[:30]}", PROMPT, TAGS).problems[0]


def test_the_request_as_the_planner_gives_it_and_the_answer_of_the_report() -> None:
    answer = (
        '{"regions":[{"phrase":"a cat","box":[0.05,0.3,0.45,0.95]},'
        '{"phrase":"two lemons","box":[0.55,0.7,0.72,0.9]}]}'
    )
    made = plan_from_text(LAYOUT_PROMPT.one_text(layout_request(PROMPT)) + answer, PROMPT)
    assert [(region.phrase, region.box) for region in made.regions] == BOTH and not made.notes


def test_an_invented_next_question_is_no_answer_either() -> None:
    asked = json.dumps({"caption": "a dog and two lemons", "width": 512, "height": 512})
    other = json.dumps({"regions": [{**LEMONS, "box": [0, 0, 1, 1], "weight": 3}]})
    boxes = read_answer(f"{GOOD}\n\nInput: {asked}\n\nAnswer: {other}", PROMPT).regions
    assert [(region.phrase, region.box) for region in boxes] == BOTH
    # But what stands there alone is better than nothing: the prompt was edited since.
    assert len(read_answer(f"Input: {asked}\n\nAnswer: {other}", PROMPT).regions) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"Draft:\n```json\n{DRAFT}\n```\nCorrected:\n```json\n{GOOD}\n```\nDone.",
        f"{DRAFT}\n\nNo, better:\n\n{GOOD}",
        f"{DRAFT} wait: {BROKEN}",
        f"{BROKEN_DRAFT} wait: {GOOD}",
        f"{BROKEN_DRAFT} wait: {BROKEN} that's {{it}}",
        f"```json\n{BROKEN_DRAFT}\n```\n```json\n{BROKEN}\n```",
        f"{json.loads(DRAFT)} wait: {json.loads(GOOD)}",
        f'{GOOD}\nThe form was {{"regions": []}}, as asked.',
        f"<think>{DRAFT} hm {{'a'</think>{GOOD}",
        f"<think>Shall I use <think> here? {DRAFT}</think>\n{GOOD}",
        f"{DRAFT} hm</think>{GOOD}",
        f"<reasoning>{DRAFT}</reasoning>{GOOD}",
        f"<Thinking>{DRAFT}</Thinking><answer>{GOOD}</answer>",
        f"[THINK]{DRAFT}[/THINK]{GOOD}",
        f"{GOOD}<think>or {DRAFT}",
        "<|channel|>analysis<|message|>" + DRAFT + "<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{GOOD}<|return|>",
        f"analysisSo {DRAFT}assistantfinal{GOOD}",
    ],
)
def test_of_several_lists_the_last_usable_one_counts(text: str) -> None:
    boxes, _, problems, _ = both(text)
    assert boxes == BOTH and not problems


@pytest.mark.parametrize(
    "value",
    [
        {"layout": {"regions": [CAT, LEMONS]}},
        {"answer": [CAT, LEMONS]},
        {"result": {"data": {"elements": [CAT, LEMONS]}}},
        [{"regions": [CAT, LEMONS]}],
        {"regions": {"1": CAT, "2": LEMONS}},
        {"name": "layout", "arguments": {"regions": [CAT, LEMONS]}},
        {"name": "layout", "arguments": GOOD},
        GOOD,
        json.dumps(GOOD),
        {"choices": [{"message": {"role": "assistant", "content": f"Sure:\n```\n{GOOD}\n```"}}]},
        {"caption": PROMPT, "width": 512, "regions": [CAT, LEMONS]},
    ],
    ids=lambda value: json.dumps(value)[:24],
)
def test_wrappers_are_looked_through(value: Any) -> None:
    for text in (json.dumps(value), f"Here: {json.dumps([value])}"):
        boxes, notes, problems, _ = both(text)
        assert boxes == BOTH and not notes and not problems


@pytest.mark.parametrize(
    "text",
    [
        BROKEN,
        json.dumps({"layout": json.loads(GOOD)})[:-3] + ",]}}",
        str(json.loads(GOOD)),
        GOOD.replace("[{", "[ // the cat\n{", 1).replace("}, {", "}, /* then */ {"),
        GOOD.replace("}, {", "} {"),
        GOOD.replace("0.95]", "0.95,]"),
        GOOD.replace('"regions"', "regions").replace('"phrase"', "phrase"),
        GOOD.replace('"', '\\"'),
        f"{CAT}\n{LEMONS}",
        f"It's {{this}}:\n```\n{json.loads(GOOD)}\n```\nI hope [it] {{helps}}!",
    ],
)
def test_nearly_right_json_is_read_and_said(text: str) -> None:
    boxes, notes, problems, _ = both(text)
    assert boxes == BOTH and not problems
    assert len(notes) == 1 and notes[0].startswith("the answer's JSON was mended: ")


def test_the_nearly_right_answers_of_the_report() -> None:
    corgi = '{"regions": [{"phrase": "a corgi", "box": [0.1,0.3,0.5,0.9]},]}'
    for text in (
        corgi, corgi.replace('"', "'"), '{"layout":' + corgi.replace("},]", "}]") + "}",
        corgi[:-3], corgi.replace("[{", "[ # dog\n{"),
    ):  # fmt: skip
        (region,) = read_answer(text, "a corgi on a sofa").regions
        assert (region.phrase, region.box) == ("a corgi", (0.1, 0.3, 0.5, 0.9)), text


def test_one_region_a_line_and_one_alone() -> None:
    boxes, notes, problems, _ = both(f"{json.dumps(CAT)}\n{json.dumps(LEMONS)}\n")
    assert boxes == BOTH and not notes and not problems
    assert both(f"1. {json.dumps(CAT)}\n2. {json.dumps(LEMONS)}")[0] == BOTH
    assert both(json.dumps(CAT))[0] == BOTH[:1]


@pytest.mark.parametrize("text", [GOOD, json.dumps(json.loads(GOOD), indent=2), f"```json\n{GOOD}",
                                  str(json.loads(GOOD)), json.dumps([CAT, LEMONS])])  # fmt: skip
def test_of_an_answer_that_breaks_off_the_complete_regions_stay(text: str) -> None:
    first, second = text.index("}") + 1, text.rindex("}", 0, text.rindex("]") + 1) + 1
    start = text.index("phrase") + len("phrase':")
    for end in range(start, second):
        boxes, _, problems, said = both(text[:end])
        assert boxes == (BOTH[:1] if end >= first else []), text[:end]
        assert len(problems) == 1 and "cut off" in said and "more tokens" in said
        assert ("after 1 complete region;" in said) == (end >= first)
    assert both(text[:second])[0] == BOTH


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the answer is empty"),
        ("  \n", "the answer is empty"),
        ("I cannot do that.", "holds no complete JSON object"),
        ("3", "has no list 'regions' of objects"),
        ('{"a": [1, 2]}', "has no list 'regions' of objects"),
        (f"<think>So {GOOD}", "only the model's thoughts"),
        (f"<|channel|>analysis<|message|>{GOOD}", "only the model's thoughts"),
        ('{"regions": [{"phrase": "a c', "cut off before its first region is complete"),
        ('{"regions" : ' + "[{'a':(" * 50 + "1" + ")}]" * 50, "24 brackets in each other"),
        ("x" * (MAX_TEXT + 1), f"longer than {MAX_TEXT} characters"),
    ],
    ids=lambda text: text[:16],
)
def test_the_true_fault_is_named_to_the_user_and_to_the_model(text: str, fault: str) -> None:
    assert fault in both(text)[3]
    answers: list[str] = []
    for read, by, good in (
        (plan_from_text, lambda ask: plan(ask, PROMPT).regions, BOTH),
        (lambda t, p: captions_from_text(t, p, TAGS),
         lambda ask: captions_by(ask, PROMPT, TAGS).captions, BOTH_CAPTIONS),
    ):  # fmt: skip
        with pytest.raises(RealCompoError) as caught:
            read(text, PROMPT)
        assert fault in caught.value.problem
        asked: list[Any] = []

        def ask(conversation: Any, asked: list[Any] = asked) -> str:
            asked.append(conversation)
            return text if len(asked) == 1 else GOOD

        assert len(by(ask)) == len(good)
        answers.append(asked[1][-1]["content"])
    assert all(fault in answer for answer in answers)


def test_an_answer_that_breaks_off_is_asked_again_with_that_reason() -> None:
    asked: list[Any] = []

    def ask(conversation: Any) -> str:
        asked.append(conversation)
        return GOOD[:-20] if len(asked) == 1 else GOOD

    made = plan(ask, PROMPT)
    assert [(region.phrase, region.box) for region in made.regions] == BOTH
    assert "cut off after 1 complete region" in asked[1][-1]["content"]
    kept = plan(lambda _: GOOD[:-20], PROMPT)
    assert len(kept.regions) == 1 and any("more tokens" in note for note in kept.notes)


KEY = "sk-proj-0123456789/abcdef" * 4


@pytest.mark.parametrize("dumps", [
    json.dumps, lambda value: json.dumps(value).replace("/", "\\/"),
    lambda value: json.dumps(value).replace("sk-", "\\u0073k-"), str,
])  # fmt: skip
def test_a_key_in_an_answer_is_not_shown(dumps: Any) -> None:
    entries = [CAT, {**LEMONS, "phrase": f"the {KEY} dog", "tag": "lemon"},
               {**LEMONS, "tag": f"{KEY}"}, {**LEMONS, "phrase": KEY, "tag": ""}]  # fmt: skip
    text = dumps({"regions": entries})
    made = plan(lambda _: text, PROMPT, secret=KEY)
    assert len(made.regions) == 2
    assert "***" in "".join(made.notes) and "0123" not in "".join(made.notes)
    said = captions_by(lambda _: text, PROMPT, TAGS, secret=KEY)
    shown = "".join([said.prompt, *said.notes, *(one.phrase for one in said.captions)])
    assert "***" in shown and "0123" not in shown


def test_thoughts_are_cut_out() -> None:
    assert without_thoughts("a<think>b</think>c").split() == ["a", "c"]
    assert without_thoughts("a</think>c<thinking>d").split() == ["c"]
    assert without_thoughts("a <b> [think] c") == "a <b> [think] c"


REGION = json.dumps(CAT)
REQUEST = LAYOUT_PROMPT.one_text(layout_request(PROMPT))


@pytest.mark.parametrize("before", ["", '{"regions": [', "[{'phrase': '"])
@pytest.mark.parametrize(
    "unit",
    ["`", "```a", "[", "{", '"', "'", '{"a":', "{'regions': [", "\\", "<think>", "<think></think>",
     "<|channel|>final<|message|>[", "phrase:", "[{phrase ", '["', '{"', "[1,", "//", "9",
     REGION, f"[{REGION},]", f'{{"regions": [{REGION}],}}\n', '{"caption": "a"}',
     '"{\\"regions\\": ', "a"],
)  # fmt: skip
def test_a_megabyte_of_anything_is_answered_at_once(unit: str, before: str) -> None:
    text = (before + unit * (MAX_TEXT // len(unit)))[:MAX_TEXT]
    start = time.process_time()
    reading = read_answer(text, PROMPT)
    # A tenth of it on a quiet machine; whatever is not linear takes minutes.
    assert time.process_time() - start < 4
    assert reading.regions or reading.problems
    assert sum(map(len, [*reading.notes, *reading.problems])) < 20_000


def test_the_fence_that_froze_the_server() -> None:
    start = time.process_time()
    assert read_answer("```" + "a" * 48_000, "a red star").problems
    assert time.process_time() - start < 0.5


PIECES = st.sampled_from([
    "{", "}", "[", "]", ",", ":", '"', "'", "\\", "```", "```json\n", "<think>", "</think>", "//",
    "/*", "#", "(", ")", "null", "None", "NaN", "-Infinity", "1e999", "9" * 5000, "-", ".", "0.5",
    "\ud800", "\\ud800", "\x00", '"phrase":', "'box':", "phrase=", '"regions": [', REGION, GOOD,
    DRAFT, BROKEN, REQUEST, '{"caption": "a"}', "<|channel|>final<|message|>",
    "[" * 70, '{"a":' * 200, " ", "\n", "\u201c", "a cat",
])  # fmt: skip
JUNK = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good answer with letters taken out, doubled, or replaced by junk."""
    text = draw(st.sampled_from([GOOD, BROKEN, str(json.loads(GOOD)), f"```\n{GOOD}\n```"]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 8)))
        text = text[:start] + draw(PIECES | st.just("")) + text[end:]
    return text


@given(mutated() | JUNK)
def test_no_text_raises(text: str) -> None:
    reading = read_answer(text, PROMPT)
    assert reading.regions or reading.problems
    for region in reading.regions:
        assert region.phrase in PROMPT and min(region.box) >= 0 and max(region.box) <= 1
    said = read_captions(text, PROMPT, TAGS, extend=False)
    assert said.captions or said.problems
    assert all(one.phrase in PROMPT for one in said.captions)
    for line in [*reading.notes, *reading.problems, *said.notes, *said.problems]:
        assert line.isprintable() and len(line) < 400
