"""A megabyte of anything is read or refused in one sentence within a second."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from realcompo.balancer.captions.align import captions_by_rules
from realcompo.balancer.captions.answer import read_captions
from realcompo.balancer.errors import RealCompoError, shown
from realcompo.balancer.finetune.prompts import draw_pairs, parse_lines
from realcompo.balancer.layouts import layout as layouts
from realcompo.balancer.layouts.boxes import parse_boxes
from realcompo.balancer.layouts.editor_json import edited_layout
from realcompo.balancer.layouts.from_masks import joined_layout
from realcompo.balancer.layouts.from_pose import read_bodies
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import MOST_PIXELS, Mask
from realcompo.balancer.layouts.transform import merge_layouts
from realcompo.balancer.llm.endpoint import read_endpoint, read_key
from realcompo.balancer.planner.answer import read_answer
from realcompo.balancer.planner.rules import plan_by_rules

MEGABYTE = 1 << 20
BOX = [0, 0, 1, 1]


def mask(height: int, width: int, data: bytes | None = None) -> dict[str, Any]:
    """A mask's JSON form; without ``data`` the text is as short as it can be."""
    raw = b"\xff" * (height * width) if data is None else data
    return {"height": height, "width": width,
            "data": base64.b64encode(zlib.compress(raw, 9)).decode()}  # fmt: skip


def text(*regions: Any, **more: Any) -> str:
    return json.dumps({"regions": list(regions), **more})


def region(**more: Any) -> dict[str, Any]:
    return {"phrase": "a star", "box": BOX, **more}


BOMB = mask(4096, 4096)
MANY = 'a "star" \\ ' * (MEGABYTE // 11)

READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "brackets": (Layout.from_json, "[" * MEGABYTE),
    "a deep region": (Layout.from_json, '{"regions": ' + "[" * MEGABYTE),
    "no text": (Layout.from_json, "x" * MEGABYTE),
    "a text": (Layout.from_json, json.dumps("x" * MEGABYTE)),
    "many regions": (Layout.from_json, text(*[0] * (MEGABYTE // 3))),
    "many boxes": (Layout.from_json, text(*[region()] * (MEGABYTE // 46))),
    "a prompt": (Layout.from_json, text(prompt=MANY)),
    "a phrase": (Layout.from_json, text(region(phrase=MANY))),
    "a long box": (Layout.from_json, text(region(box=[0.5] * (MEGABYTE // 5)))),
    "a box of text": (Layout.from_json, text(region(box=MANY))),
    "many tokens": (Layout.from_json, text(region(tokens=[1] * (MEGABYTE // 3)))),
    "odd tokens": (Layout.from_json, text(region(tokens=MANY))),
    "an occurrence": (Layout.from_json, text(region(occurrence=MANY))),
    "a weight": (Layout.from_json, text(region(weight=MANY))),
    "a schema": (Layout.from_json, text(schema=MANY)),
    "a width": (Layout.from_json, text(width=MANY)),
    "a side": (Layout.from_json, text(region(mask={**BOMB, "height": MANY}))),
    "many digits": (Layout.from_json, '{"regions": [], "width": 1' + "0" * MEGABYTE + "}"),
    "many keys": (Layout.from_json, json.dumps({str(n): n for n in range(70_000)})),
    "bombs": (Layout.from_json, text(*[region(mask=BOMB)] * 40)),
    "large bombs": (Layout.from_json, text(*[region(mask={**BOMB, "height": 16384})] * 40)),
    "a broken bomb": (Layout.from_json, text(region(mask={**BOMB, "height": 4095}))),
    "no base64": (Layout.from_json, text(region(mask={**BOMB, "data": MANY}))),
    "an editor's text": (lambda given: edited_layout(given, "", 8, 8), text(prompt=MANY)),
    "an editor's prompt": (lambda given: edited_layout("", given, 8, 8), MANY),
    "a typed prompt": (lambda given: joined_layout(None, [], given), MANY),
    "a merged prompt": (lambda given: merge_layouts([Layout(()), Layout(())], given), MANY),
    "rules": (plan_by_rules, "a red star and " * (MEGABYTE // 15)),
    "captions": (captions_by_rules, "a red star and " * (MEGABYTE // 15)),
    "a training prompt": (parse_lines, "a cat and a dog " * (MEGABYTE // 16)),
    "training prompts": (parse_lines, "a cat and a dog\n" * (MEGABYTE // 16)),
    "concepts": (
        lambda given: draw_pairs(given, "{a} and {b}", 9, 1),
        "\n".join(str(n) for n in range(150_000)),
    ),
    "few concepts": (
        lambda given: draw_pairs(given, "{a} and {b}", 9, 1),
        "\n".join(str(n) for n in range(30_000)),
    ),
    "an address": (read_endpoint, "http://" + "a." * (MEGABYTE // 2)),
    "a host of dots": (read_endpoint, "http://" + "." * MEGABYTE),
    "a variable": (
        lambda given: read_key(given, read_endpoint("http://[::1]"), {}), "K" * MEGABYTE
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_megabyte_is_refused_in_a_sentence_within_a_second(name: str) -> None:
    read, given = READ[name]
    start = time.process_time()
    with pytest.raises(RealCompoError) as refusal:
        read(given)
    assert time.process_time() - start < 1
    assert len(str(refusal.value)) < 1400 and str(refusal.value).isprintable()


LONGEST = {
    "words": " ".join(f"w{n:x}" for n in range(3300)),
    "things": "a red star and a blue one, " * 740,
    "places": "a star left of a circle, " * 799,
    "weights": "(a:1.2)" * 2850,
    "a word": "a" * 20_000,
    "objects": "a star" + "|" * 20_000,
    "choices": "a star" + "{|" * 10_000,
}  # fmt: skip


@pytest.mark.parametrize("name", LONGEST)
@pytest.mark.parametrize("read", [plan_by_rules, captions_by_rules, parse_lines])
def test_the_longest_prompt_is_read_within_a_second(
    read: Callable[[str], Any], name: str
) -> None:
    start = time.process_time()
    try:
        read(LONGEST[name][: layouts.LONGEST_PROMPT])
    except RealCompoError as error:
        assert error.where in ("prompt", "prompts")
    assert time.process_time() - start < 1


ANSWERS = ["```" + "a" * MEGABYTE, "[" * MEGABYTE, '{"regions":' * (MEGABYTE // 11), MANY,
           text(*[{"phrase": "a red star", "box": BOX}] * (MEGABYTE // 50)),
           "<think>" * (MEGABYTE // 7), "{'a': " * (MEGABYTE // 6)]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
@pytest.mark.parametrize(
    "read",
    [lambda answer: read_answer(answer, "a red star"),
     lambda answer: read_captions(answer, "a red star", ["star"]),
     lambda answer: read_bodies(answer, 0, 0.1), lambda answer: parse_boxes(None, answer)],
    ids=["plan", "captions", "pose", "boxes"],
)  # fmt: skip
def test_answers_poses_and_boxes_are_read_or_refused_within_a_second(
    read: Callable[[str], Any], answer: str
) -> None:
    start = time.process_time()
    with contextlib.suppress(RealCompoError):
        read(answer)
    assert time.process_time() - start < 1


def test_as_much_mask_as_is_allowed_is_read_within_two_seconds() -> None:
    given = text(*[region(mask=BOMB)] * (MOST_PIXELS // 4096**2))
    start = time.process_time()
    made = Layout.from_json(given)
    assert time.process_time() - start < 2
    assert len(made.regions) == 8 and made.regions[7].box == (0, 0, 1, 1)


def test_masks_are_counted_before_one_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mask, "from_dict", lambda _: pytest.fail("a mask was unpacked"))
    with pytest.raises(RealCompoError, match="pixels in all"):
        Layout.from_json(text(*[region(mask=BOMB)] * 9))
    with pytest.raises(RealCompoError, match="regions"):
        Layout.from_json(text(*[region(mask=BOMB)] * (layouts.MOST_REGIONS + 1)))


def test_masks_of_any_origin_count() -> None:
    large = Mask(4096, 4096, b"\xff" * 4096**2)
    one = Region.from_mask("a", large)
    assert Layout((one,) * 8).regions
    with pytest.raises(RealCompoError, match="pixels in all"):
        Layout((one,) * 9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("box", [0, 0, 10**400, 1]), ("box", [0, 0, True, 1]), ("weight", 10**400),
        ("weight", True), ("occurrence", 10**30), ("tokens", [10**30]), ("tokens", [True]),
        ("box", [0, 0, -(10**9999), 1]), ("occurrence", 10**9999), ("phrase", 10**9999),
        ("mask", {"height": 10**9999, "width": 1, "data": ""}), ("box", "\ud800" * 99),
        ("mask", {"height": True, "width": 1, "data": "eJz7DwABAQEA"}),
    ],
    ids=range(13),
)  # fmt: skip
def test_numbers_that_cannot_be_meant_are_one_sentence(key: str, value: Any) -> None:
    with pytest.raises(RealCompoError) as refusal:
        Layout.from_dict({"regions": [region(**{key: value})]})
    said = str(refusal.value)
    said.encode("utf-8")
    assert said.isprintable() and len(said) < 500


@pytest.mark.parametrize("name", ["width", "height", "schema"])
@pytest.mark.parametrize("value", [10**400, 10**9999, True, -1, 1e308], ids=range(5))
def test_sizes_that_cannot_be_meant_are_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(RealCompoError, match=name if name == "schema" else f"{name} is"):
        Layout.from_dict({"regions": [], name: value})


def test_an_error_is_one_short_printable_line() -> None:
    long = "a\nb\u202e\ud800" * MEGABYTE
    error = RealCompoError("where" * 99, f"it is '{long}' at the end", long).at("node\n", "w")
    for said in (str(error), error.problem, error.remedy, str(error.at("", "x" * 999))):
        assert said.isprintable() and len(said) < 1400 and "\n" not in said
    assert error.problem.startswith("it is 'a b") and error.problem.endswith("at the end")


@pytest.mark.parametrize(
    "value",
    ["x" * MEGABYTE, [1] * MEGABYTE, 10**9999, -(10**9999), {"a" * 9999: [[[[[1]]]]]}, b"x" * 9999,
     (10**9999,), "\ud800\n", object()],
    ids=range(9),
)  # fmt: skip
def test_a_value_is_shown_in_a_few_letters(value: object) -> None:
    start = time.process_time()
    said = shown(value)
    assert said and len(said) <= 80 and said.isprintable() and time.process_time() - start < 0.2


def test_a_value_whose_repr_fails_is_named_by_its_type() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise KeyError

    assert "Odd" in shown(Odd())
