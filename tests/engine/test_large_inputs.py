"""A megabyte of anything is answered or refused within a second, and in a short sentence."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from realcompo.balancer.boxes_io import parse_boxes
from realcompo.balancer.caption_answer import captions_by, captions_from_text
from realcompo.balancer.converters import joined_layout, regions_from_masks
from realcompo.balancer.coverage import LARGEST_SIDE, MOST_PIXELS, Mask
from realcompo.balancer.edited_layout import edited_layout, to_adopt
from realcompo.balancer.errors import LONGEST_SENTENCE, LONGEST_VALUE, RealCompoError, shown
from realcompo.balancer.layout import (
    LONGEST_PHRASE,
    LONGEST_PROMPT,
    MOST_REGIONS,
    Layout,
    Region,
)  # fmt: skip
from realcompo.balancer.planner import one_text, plan, plan_from_text
from realcompo.balancer.planner_rules import plan_by_rules
from realcompo.balancer.segmentation import regions_from_segmentation

MB = 1 << 20
PIECES = ["a", "red star ", "a, ", "a\n", "#", "# ", "*1.5 ", "a #2 ", ": ", "1 ", "(", "[", "{",
          '"', "\\", " ", "\n", "\u00e9", "\u661f", "\U0001f31f", "left of a ", "embedding:a "]  # fmt: skip
TEXTS = [piece * (MB // len(piece)) for piece in PIECES]


@contextmanager
def at_once(seconds: float = 1.0) -> Iterator[None]:
    """What is inside takes less than ``seconds`` of the processor, and any refusal is short."""
    start = time.process_time()
    try:
        yield
    except RealCompoError as error:
        assert len(str(error)) <= 2 * LONGEST_SENTENCE + 3 * LONGEST_VALUE and error.remedy
        assert str(error).isprintable()
    assert time.process_time() - start < seconds


def refused(make: Callable[[], Any], said: str = "p to") -> RealCompoError:
    """The refusal of ``make``, which must come at once and name the bound."""
    found: list[RealCompoError] = []
    with at_once():
        try:
            make()
        except RealCompoError as error:
            found.append(error)
            raise
    assert found and said in str(found[0])
    return found[0]


def entry(phrase: str = "a", **more: Any) -> dict[str, Any]:
    return {"phrase": phrase, "box": [0, 0, 1, 1], **more}


def packed(height: int, width: int, content: bytes | None = None) -> dict[str, Any]:
    raw = b"\xff" * (height * width) if content is None else content
    data = base64.b64encode(zlib.compress(raw, 1)).decode()
    return {"height": height, "width": width, "data": data}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_long_text_in_a_layouts_field(text: str) -> None:
    for use in (
        lambda: Layout.from_json(text), lambda: edited_layout(text, "", 8, 8),
        lambda: to_adopt(text, Layout((Region("a", (0, 0, 1, 1)),))),
    ):  # fmt: skip
        with at_once():
            use()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_long_prompt(text: str) -> None:
    if not text.strip():
        return
    uses: list[Callable[[], Any]] = [
        lambda: Layout((), text), lambda: edited_layout("", text, 8, 8),
        lambda: joined_layout(None, [], text), lambda: plan_by_rules(text),
        lambda: plan(lambda _: pytest.fail("asked"), text),
        lambda: plan_from_text('{"regions": []}', text), lambda: one_text(text),
        lambda: captions_by(lambda _: pytest.fail("asked"), text, ["a"]),
        lambda: captions_from_text('{"regions": []}', text, ["a"]),
    ]  # fmt: skip
    for use in uses:
        assert refused(use).where == "prompt"
    with at_once():
        parse_boxes(None, "a: 0 0 1 1", 8, 8, text)
    with at_once():
        regions_from_masks(torch.ones(1, 8, 8), "a", prompt=text)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_longest_prompt_that_is_read(text: str) -> None:
    cut = text[:LONGEST_PROMPT]
    assert Layout((), cut).prompt == cut
    if cut.strip():
        with at_once():
            plan_by_rules(cut)
        with at_once():
            plan_from_text(json.dumps({"regions": [entry("red star")] * 64}), cut)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_long_phrases(text: str) -> None:
    if text.strip():
        assert "characters" in str(refused(lambda: Region(text, (0, 0, 1, 1))))
    one = torch.ones(1, 8, 8)
    for use in (
        lambda: Layout.from_dict({"regions": [entry(text)]}), lambda: regions_from_masks(one, text),
        lambda: parse_boxes(None, text, 8, 8), lambda: parse_boxes([[0, 0, 8, 8]], text, 8, 8),
        lambda: regions_from_segmentation(torch.zeros(1, 8, 8, 3), text),
    ):  # fmt: skip
        with at_once():
            use()


def test_regions_are_counted_first() -> None:
    value = {"regions": [None] * 2_900_000}
    assert "2900000 regions" in str(refused(lambda: Layout.from_dict(value)))
    many = (Region("a", (0, 0, 1, 1)),) * (MOST_REGIONS + 1)
    refused(lambda: Layout(many))
    with at_once():
        assert len(Layout.from_dict({"regions": [entry("a" * 40)] * MOST_REGIONS}).regions) == 1024
    text = json.dumps({"regions": [entry()] * (MB // 40)})
    assert refused(lambda: edited_layout(text, "", 8, 8)).where == "layout_json"


def test_masks_are_counted_before_any_is_unpacked() -> None:
    bomb = packed(LARGEST_SIDE, 64) | {"width": LARGEST_SIDE}
    for count in (1, 20, 400):
        value = {"regions": [entry(mask=bomb)] * count}
        assert "pixels in all" in str(refused(lambda value=value: Layout.from_dict(value)))
    # What the masks say of themselves is held to: no more is unpacked than was counted.
    small = packed(LARGEST_SIDE, 4096) | {"height": 8, "width": 8}
    with at_once(), pytest.raises(RealCompoError, match="fit|data"):
        Layout.from_dict({"regions": [entry(mask=small)] * 8})
    wired = tuple(Region.from_mask("a", Mask(2048, 4096, bytes([1]) * (1 << 23))) for _ in range(2))
    refused(lambda: Layout(wired * 9))
    refused(lambda: Mask.from_tensor(torch.ones(1).expand(LARGEST_SIDE, LARGEST_SIDE)))
    refused(lambda: Mask(LARGEST_SIDE, LARGEST_SIDE, b""))


def test_the_most_pixels_that_are_read() -> None:
    text = json.dumps({"regions": [entry(mask=packed(4096, MOST_PIXELS // 4096 // 4))] * 4})
    with at_once(2.0):
        assert len(Layout.from_json(text).regions) == 4


def test_a_megabyte_of_masks() -> None:
    noise = torch.randint(0, 256, (768, 1024), dtype=torch.uint8).numpy().tobytes()
    text = json.dumps({"regions": [entry(mask=packed(768, 1024, noise))]})
    assert len(text) > MB
    with at_once():
        layout = Layout.from_json(text)
    assert layout.regions[0].mask is not None and layout.regions[0].mask.data == noise
    for data in ("A" * MB, "=" * MB, "\u00e9" * MB, "!" * MB):
        with at_once(), pytest.raises(RealCompoError):
            Mask.from_dict({"height": 8, "width": 8, "data": data})


ODD: list[dict[str, Any]] = [
    entry(tokens=list(range(MB // 4))), entry(tokens="0" * MB), entry(tokens=[10**4000]),
    entry(box=[0.5] * (MB // 4)), entry(box="0" * MB), entry(box=[10**4000, 0, 1, 1]),
    entry(occurrence=10**4000), entry(weight=10**4000), entry(weight="1" * MB),
    entry(occurrence="1" * MB), entry(mask={"height": 10**4000, "width": 1, "data": ""}),
    entry(mask="A" * MB), entry(mask=["A"] * MB), entry(mask={"data": "A" * MB}),
    {"a" * MB: 1}, {"phrase": ["a"] * MB, "box": [0, 0, 1, 1]},
]  # fmt: skip


@pytest.mark.parametrize("region", ODD, ids=range(len(ODD)))
def test_one_large_field_of_a_region(region: dict[str, Any]) -> None:
    with at_once(), pytest.raises(RealCompoError) as caught:
        Layout.from_dict({"regions": [region]})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["schema", "prompt", "width", "height", "regions"])
def test_one_large_field_of_a_layout(name: str) -> None:
    for value in ("1" * MB, [1] * MB, 10**4000, {"a": "b" * MB}, -(10**4000), 1e300):
        if name == "prompt" and isinstance(value, str):
            continue  # told by its own test
        with at_once(), pytest.raises(RealCompoError) as caught:
            Layout.from_dict({"regions": [], name: value})
        assert len(str(caught.value)) < 1000


def test_what_is_shown_of_anything_is_short() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (*TEXTS, 10**100_000, [1] * MB, {n: n for n in range(MB // 8)}, deep, Rude(),
                  b"a" * MB, torch.zeros(1000, 1000), "\u202ea\nb\x00", float("nan"), None):  # fmt: skip
        with at_once():
            said = shown(value)
        assert said and len(said) <= LONGEST_VALUE and said.isprintable()
    error = RealCompoError("w" * MB, "p" * MB, "r" * MB, "n" * MB)
    assert len(str(error)) < 2 * LONGEST_SENTENCE + 3 * LONGEST_VALUE
    assert LONGEST_PHRASE < LONGEST_PROMPT
