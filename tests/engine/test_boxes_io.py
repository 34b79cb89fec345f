"""Boxes from text and from other nodes: what is read, and what is refused with a reason."""

from __future__ import annotations

import contextlib
import json
import time
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.box_lines import phrase_line, read_lines
from realcompo.balancer.layouts.boxes import parse_boxes
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.nodes.layout_converters import RealCompoLayoutFromMasks
from realcompo.nodes.layout_inputs import ANY
from realcompo.nodes.layouts import FROM_BOXES, NODE_CLASS_MAPPINGS, RealCompoLayoutFromBoxes

SLOW = [HealthCheck.too_slow]  # a busy machine is no reason to fail
BOX = (0.1, 0.2, 0.5, 0.6)
STAR = Region("a red star", BOX)


@pytest.mark.parametrize(
    "line",
    [
        "a red star: 0.1 0.2 0.5 0.6",
        "a red star: 0.1, 0.2, 0.5, 0.6",
        "  a  red star :[0.1,0.2 , .5,6e-1]  ",
        "a red star:(0.1 0.2 0.5 0.6),",
        "a red star: 10 20 50 60",
        "# a comment: 1 2 3 4\n\na red star: 10, 20, 50, 60\n",
        '{"regions": [{"phrase": "a red star", "box": [0.1, 0.2, 0.5, 0.6]}]}',
        '[{"label": "a red star", "bbox": [10, 20, 50, 60]}]',
        '{"phrase": "a red star", "bounding_box": [0.1, 0.2, 0.5, 0.6]}',
    ],
)
def test_ways_to_write_one_region(line: str) -> None:
    assert parse_boxes(None, line, 100, 100) == [STAR]
    assert parse_boxes(line, "", 100, 100) == [STAR]


@pytest.mark.parametrize(
    ("line", "region"),
    [
        ("red star#2: 0 0 1 1", Region("red star", (0, 0, 1, 1), occurrence=1)),
        ("red star #1: 0 0 1 1", Region("red star", (0, 0, 1, 1))),
        ("red star *1.5: 0 0 1 1", Region("red star", (0, 0, 1, 1), weight=1.5)),
        ("red star#3*2: 0 0 1 1", Region("red star", (0, 0, 1, 1), occurrence=2, weight=2)),
        ("red star: 0 0 1 1 *0.5", Region("red star", (0, 0, 1, 1), weight=0.5)),
        ("(red car:1.2): 0 0 1 1", Region("(red car:1.2)", (0, 0, 1, 1))),
        ("time: 9:30: 0 0 1 1", Region("time: 9:30", (0, 0, 1, 1))),
        ("number 9: 0 0 1 1", Region("number 9", (0, 0, 1, 1))),
    ],
)
def test_marks_of_a_line(line: str, region: Region) -> None:
    assert parse_boxes(None, line) == [region]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red star", "line 1 'a red star' has no box"),
        ("(red car:1.2)", "has no box"),
        ("a star: 0.1 0.2 0.5", "has 3 numbers"),
        ("\n\na star: 1 2 3 4 5", "line 3.* 5 numbers"),
        ("a star: 10 20 50 60", "pixels of an image of unknown size"),
        ("a star: 0.1 0.2 50 60", "mixes shares"),
        ("a star: 10 20 50 60\na dog: 0 0 0.5 0.5", "line 2.*mixes shares"),
        ("a star: 0.5 0.2 0.1 0.6", "no box inside the image"),
        ("a star: 0.1 0.2 0.1 0.6", "no box inside the image"),
        ("a star: -0.1 0.2 0.5 0.6", "no box inside the image"),
        (": 0 0 1 1", "no phrase"),
        ("star #0: 0 0 1 1", "#0"),
        ("star *0: 0 0 1 1", "weight"),
        ("[0.1, 0.2", "ends too early"),
        ("[[0, 0, 1, 1]]", "no phrase"),
        ('{"regions": 1}', "regions"),
    ],
)
def test_refused_text_names_phrases(text: str, message: str) -> None:
    with pytest.raises(RealCompoError, match=message) as caught:
        parse_boxes(None, text)
    assert caught.value.where == "phrases"


def test_pixels_must_lie_inside_when_typed() -> None:
    with pytest.raises(RealCompoError, match="no box inside"):
        parse_boxes(None, "a star: 0 0 101 50", 100, 100)


Segment = namedtuple("Segment", ["bbox", "label"])

WIRED = [
    [[10, 20, 50, 60]],
    [10, 20, 50, 60],
    (np.array([10, 20, 50, 60]),),
    np.array([[10, 20, 50, 60]]),
    torch.tensor([[[10.0, 20.0, 50.0, 60.0]]]),
    [(np.float32(10), np.int64(20), 50, 60)],
    [torch.tensor([0.1, 0.2, 0.5, 0.6], dtype=torch.float64)],
    [{"x": 10, "y": 20, "width": 40, "height": 40}],
    [[{"x": 10, "y": 20, "width": 40, "height": 40, "score": 0.9, "metadata": {}}]],
    {"x": 10, "y": 20, "width": 40, "height": 40},
    [{"bounding_box": {"x": 10, "y": 20, "width": 40, "height": 40}}],
    [{"type": "obj", "bbox": [200, 100, 600, 500], "desc": ""}],
    {"bboxes": [[10, 20, 50, 60]], "labels": []},
    "[[10, 20, 50, 60]]",
    [{"bboxes": [[10, 20, 50, 60]]}],
    [[{"boxes": torch.tensor([[10.0, 20.0, 50.0, 60.0]]), "scores": torch.tensor([0.9])}]],
    {"quad_boxes": [[10, 20, 50, 20, 50, 60, 10, 60]]},
    {"polygons": [[[10, 20, 50, 30, 20, 60]]]},
    [{"x1": 10, "y1": 20, "x2": 50, "y2": 60}],
    [{"left": 10, "top": 20, "right": 50, "bottom": 60}],
    SimpleNamespace(xyxy=np.array([[10.0, 20.0, 50.0, 60.0]]), data={}),
    ((100, 100), [Segment(np.array([10, 20, 50, 60]), None)]),
]


@pytest.mark.parametrize("value", WIRED, ids=range(len(WIRED)))
def test_forms_of_boxes_without_a_name(value: object) -> None:
    assert parse_boxes(value, "a red star", 100, 100) == [STAR]
    assert parse_boxes(value, "a red star#2 *3", 100, 100) == [
        Region("a red star", BOX, occurrence=1, weight=3)
    ]
    with pytest.raises(RealCompoError, match="0 phrases for 1 boxes"):
        parse_boxes(value, "", 100, 100)


NAMED = [
    [{"label": "a red star", "box": [10, 20, 50, 60]}],
    [{"x": 10, "y": 20, "width": 40, "height": 40, "label": "a red star"}],
    [[{"x": 10, "y": 20, "width": 40, "height": 40, "metadata": {"desc": "a red star"}}]],
    [{"type": "obj", "bbox": [200, 100, 600, 500], "desc": "a red star", "palette": []}],
    [{"type": "text", "bbox": [200, 100, 600, 500], "text": "STAR", "desc": "a red star"}],
    {"compositional_deconstruction": {"elements": [
        {"type": "obj", "desc": "no box here"},
        {"type": "obj", "bbox": [200, 100, 600, 500], "desc": "a red star"}]}},
    {"bboxes": [[10, 20, 50, 60]], "labels": ["a red star"]},
    [{"bboxes": [[10, 20, 50, 60]], "labels": ["a red star"]}],
    '[{"bboxes": [[10, 20, 50, 60]], "labels": ["a red star"]}]',
    {"boxes": np.array([[10, 20, 50, 60]]), "text_labels": ["a red star"], "scores": [0.9]},
    {"boxes": [[0.1, 0.2, 0.5, 0.6]], "phrases": ["a red star"], "logits": [0.5]},
    [{"score": 0.9, "label": "a red star",
      "box": {"xmin": 10, "ymin": 20, "xmax": 50, "ymax": 60}}],
    '[{"bbox_2d": [10, 20, 50, 60], "label": "a red star"}]',
    '[{"box_2d": [200, 100, 600, 500], "label": "a red star"}]',
    {"polygons": [[[10, 20, 50, 30, 20, 60]]], "labels": ["a red star"]},
    SimpleNamespace(xyxy=[[10, 20, 50, 60]], data={"class_name": np.array(["a red star"])}),
    ((100, 100), [Segment([10, 20, 50, 60], "a red star")]),
    Layout((STAR,)),
    Layout((STAR,)).to_json(),
]  # fmt: skip


@pytest.mark.parametrize("value", NAMED, ids=range(len(NAMED)))
def test_forms_of_boxes_with_a_name(value: object) -> None:
    assert parse_boxes(value, "", 100, 100) == [STAR]


def test_elements_count_rows_first() -> None:
    """Ideogram's elements are [y0, x0, y1, x1] in thousandths, whatever the image's size."""
    (region,) = parse_boxes([{"type": "obj", "bbox": [0, 250, 500, 1000], "desc": "sky"}])
    assert region.box == (0.25, 0.0, 1.0, 0.5)


def test_lines_name_the_nameless_or_all() -> None:
    boxes = [{"label": "person", "bbox": [0, 0, 0.5, 1]}, {"bbox": [0.5, 0, 1, 1]}]
    assert [r.phrase for r in parse_boxes(boxes, "a dog")] == ["person", "a dog"]
    assert [r.phrase for r in parse_boxes(boxes, "a woman\na dog")] == ["a woman", "a dog"]
    with pytest.raises(RealCompoError, match=r"3 phrases for 1 boxes without a name \(2 boxes"):
        parse_boxes(boxes, "a\nb\nc")
    with pytest.raises(RealCompoError, match="0 phrases for 1 boxes"):
        parse_boxes(boxes, "")


def test_layout_keeps_masks_and_tokens() -> None:
    region = Region.from_mask("x", Mask(1, 2, b"\0\xff"), tokens=(3,))
    assert parse_boxes(Layout((region,)).to_json()) == [region]
    with pytest.raises(RealCompoError, match="its own phrases"):
        parse_boxes(Layout((region,)), "a dog")


def test_boxes_of_other_nodes_are_cut_at_the_edge() -> None:
    assert parse_boxes([[-5, 0.4, 50, 120]], "x", 100, 100)[0].box == (0.0, 0.004, 0.5, 1.0)
    assert parse_boxes([[-0.01, 0, 1.003, 1]], "x")[0].box == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(RealCompoError, match="box 1 is no box inside"):
        parse_boxes([[110, 0, 150, 100]], "x", 100, 100)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[10, 20, 50, 60]], "pixels of an image of unknown size"),
        ([[0, 0, 1]], "box 1 is"),
        ([["a", 0, 1, 1]], "box 1 is"),
        ([[0, 0, float("nan"), 1]], "box 1 is"),
        ([{"label": "x"}], "keys"),
        ([{"bboxes": [[0, 0, 1, 1]]}, {"bboxes": [[0, 0, 1, 1]]}], "2 pictures"),
        ({"polygons": [[1, 2, 3]]}, "3 numbers"),
        ({"polygons": [["a"]]}, "holds a str"),
        ([[[0, 0, 1, 1]], [[0, 0, 1, 1]]], "2 pictures"),
        ({"bboxes": [[0, 0, 1, 1]], "labels": ["a", "b"]}, "2 labels for 1"),
        (3.5, "float holds no boxes"),
        (object(), "object holds no boxes"),
        ("a star", "line 1 'a star' has no box"),
        ("{", "ends too early"),
    ],
)
def test_refused_values_name_boxes(value: object, message: str) -> None:
    with pytest.raises(RealCompoError, match=message) as caught:
        parse_boxes(value, "x" if not isinstance(value, str) else "")
    assert caught.value.where == "boxes"


def test_boxes_twice_are_refused() -> None:
    with pytest.raises(RealCompoError, match="'boxes' is connected as well"):
        parse_boxes([[0, 0, 1, 1]], "a star: 0 0 1 1")


def test_no_boxes_are_no_regions() -> None:
    for value in ([], [[]], np.zeros((0, 4)), {"bboxes": [], "labels": []}):
        assert parse_boxes(value, "") == []
    assert parse_boxes(None, "# nothing yet\n") == []
    with pytest.raises(RealCompoError, match="1 phrases for 0 boxes"):
        parse_boxes([], "a star")


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(st.lists(st.tuples(*[st.integers(0, 63)] * 2, *[st.integers(1, 64)] * 2), min_size=1,
                max_size=5))  # fmt: skip
def test_every_form_gives_the_same_boxes(raw: list[tuple[int, int, int, int]]) -> None:
    corners = [(x, y, min(64, x + w), min(64, y + h)) for x, y, w, h in raw]
    if max(max(c) for c in corners) <= 2:
        corners.append((0, 0, 64, 64))
    names = [f"thing {n}" for n in range(len(corners))]
    lines = "\n".join(f"{n}: {' '.join(map(str, c))}" for n, c in zip(names, corners, strict=True))
    sized = [
        {"x": a, "y": b, "width": c - a, "height": d - b, "label": n}
        for n, (a, b, c, d) in zip(names, corners, strict=True)
    ]
    shares = [[v / 64 for v in c] for c in corners]
    expected = [Region(n, tuple(c)) for n, c in zip(names, shares, strict=True)]  # type: ignore
    pixel_lines = all(max(c) > 1 for c in corners)
    if pixel_lines:
        assert parse_boxes(None, lines, 64, 64) == expected
    for value in (sized, json.dumps([sized])):
        assert parse_boxes(value, "", 64, 64) == expected
    for value in (corners, shares, np.array(corners), torch.tensor(corners)):
        assert parse_boxes(value, "\n".join(names), 64, 64) == expected


# --- the node -----------------------------------------------------------------------------------


def test_any_link_fits_the_boxes_socket() -> None:
    for other in ("BBOX", "BOUNDING_BOX", "SEGS", "ARRAY", "STRING", "*"):
        # the host compares with != only
        assert (other != ANY) is False
        assert (other != ANY) is False
    assert json.dumps(ANY) == '"*"'


def test_node_appends_to_a_layout_and_passes_the_prompt_on() -> None:
    node = RealCompoLayoutFromBoxes()
    first, prompt = node.build("a star: 10 10 50 50", None, "a star and a dog", 100, 200)
    assert (prompt, first.width, first.height) == ("a star and a dog", 100, 200)
    assert first.regions[0].box == (0.1, 0.05, 0.5, 0.25)
    both, prompt = node.build("a dog: 50 50 100 200", layout=first)  # size and prompt are known
    assert [r.phrase for r in both.regions] == ["a star", "a dog"]
    assert both.regions[1].box == (0.5, 0.25, 1.0, 1.0)
    assert prompt == both.prompt == "a star and a dog"
    larger, _ = node.build("a dog: 50 50 100 200", width=400, layout=first)
    assert (larger.width, larger.height) == (400, 200)  # what is typed goes first, side by side
    assert larger.regions[1].box == (0.125, 0.25, 0.25, 1.0)
    other, prompt = node.build("", prompt="a cat", layout=first)
    assert (prompt, other.regions) == ("a cat", first.regions)


def test_node_errors_say_who_speaks() -> None:
    node = RealCompoLayoutFromBoxes()
    with pytest.raises(RealCompoError, match=f"^{FROM_BOXES}, input 'phrases': line 1"):
        node.build("a star")
    with pytest.raises(RealCompoError, match=f"^{FROM_BOXES}, input 'layout': got a dict"):
        node.build("a star: 0 0 1 1", layout={})
    gligen = NODE_CLASS_MAPPINGS["RealCompoApplyGLIGEN"]()
    with pytest.raises(RealCompoError, match="^RealCompo Apply GLIGEN, input 'layout': got a str"):
        gligen.apply([], None, None, "layout")


def test_default_text_of_the_node_is_valid() -> None:
    inputs = RealCompoLayoutFromBoxes.INPUT_TYPES()
    layout, _ = RealCompoLayoutFromBoxes().build(inputs["required"]["phrases"][1]["default"])
    assert len(layout.regions) == 2


# --- what looks like a mark ----------------------------------------------------------------------


def phrases_of(text: str, prompt: str = "") -> list[tuple[str, int, float]]:
    return [(one.phrase, one.occurrence, one.weight) for one in read_lines(text, prompt)]


@pytest.mark.parametrize(
    ("line", "prompt", "phrase", "occurrence"),
    [
        ("a clock showing 10:30", "", "a clock showing 10:30", 0),
        ("a ratio of 1: 2 3", "", "a ratio of 1: 2 3", 0),
        ("a jersey #23", "a boy in a jersey #23", "a jersey #23", 0),
        ("A  Jersey #23", "a boy in a jersey #23", "A  Jersey #23", 0),
        ("a jersey #23", "a (jersey #23:1.2) and a jersey #23", "a jersey #23", 0),
        ("a jersey #2", "a jersey #23", "a jersey", 1),
        ("a jersey #23#2", "a jersey #23 and a jersey #23", "a jersey #23", 1),
        ("a jersey #23", "", "a jersey", 22),
        (r"a jersey \#23", "", "a jersey #23", 0),
        (r"a jersey \#23#2", "", "a jersey #23", 1),
        ("#python logo", "a #python logo", "#python logo", 0),
        ("#python logo", "", "#python logo", 0),
        (r"\# 1 dad", "", "# 1 dad", 0),
        ("# 1 dad", "a mug saying # 1 dad", "# 1 dad", 0),
        ("a board of 2*4", "a board of 2*4", "a board of 2*4", 0),
        (r"a board of 2\*4", "", "a board of 2*4", 0),
        (r"a score\: 1 2 3 4", "", "a score: 1 2 3 4", 0),
        ("a score: 1 2 3 4", "the score: 1 2 3 4, a score: 1 2 3 4", "a score: 1 2 3 4", 0),
        (r"a saber \(fate\)", r"a saber \(fate\)", r"a saber \(fate\)", 0),
        ("star #99999999999999999999", "", "star #99999999999999999999", 0),
    ],
)
def test_the_prompts_wording_goes_before_the_marks(
    line: str, prompt: str, phrase: str, occurrence: int
) -> None:
    assert phrases_of(line, prompt) == [(phrase, occurrence, 1.0)]


def test_wordings_that_look_like_marks_reach_the_nodes() -> None:
    masks = RealCompoLayoutFromMasks()
    layout, _ = masks.build([torch.ones(8, 8)], ["a clock showing 10:30"])
    assert layout.regions[0].phrase == "a clock showing 10:30"
    jersey = "a boy in a jersey #23"
    for known in ({"prompt": jersey}, {"layout": Layout((), jersey)}):
        layout, _ = RealCompoLayoutFromBoxes().build("a jersey #23", [[0, 0, 1, 1]], **known)
        assert (layout.regions[0].phrase, layout.regions[0].occurrence) == ("a jersey #23", 0)
    line = "#python logo: 0.1 0.1 0.5 0.5"
    assert parse_boxes(None, line) == [Region("#python logo", (0.1, 0.1, 0.5, 0.5))]
    assert parse_boxes(None, "{red|blue} car: 0 0 1 1", prompt="a {red|blue} car") == [
        Region("{red|blue} car", (0, 0, 1, 1))
    ]


def test_comments_are_comments_and_nothing_else_is_dropped() -> None:
    text = "# 1 2 3 4\n#\n### parts ###\n#----\n# a star: 0 0 1 1\na star: 0 0 1 1"
    assert [r.phrase for r in parse_boxes(None, text, prompt="a star")] == ["a star"]
    with pytest.raises(RealCompoError, match=r"line 1 '#a star: 0 0 1 1' starts with '#'.*blank"):
        parse_boxes(None, "#a star: 0 0 1 1", prompt="a star")


@given(st.text("ab 2:#*\\.1[", min_size=1, max_size=12), st.integers(0, 3), st.sampled_from([1, 2]))
def test_a_phrases_line_is_read_as_that_phrase(phrase: str, occurrence: int, weight: int) -> None:
    phrase = " ".join(phrase.split())
    if phrase:
        line = phrase_line(phrase, occurrence, weight)
        assert phrases_of(line) == [(phrase, occurrence, weight)]


# --- what four numbers mean ----------------------------------------------------------------------

COCO = {"category_id": 17, "iscrowd": 0, "bbox": [100, 150, 300, 320]}
READ = (100 / 512, 150 / 512, 400 / 512, 470 / 512)


@pytest.mark.parametrize(
    "value",
    [
        [COCO],
        COCO,
        [{"image_id": 3, "bbox": [100, 150, 300, 320], "score": 0.9}],
        [{"area": 5e4, "bbox": [100, 150, 300, 320]}],
        [{"segmentation": [], "area": 5e4, "bbox": [100, 150, 300, 320], "predicted_iou": 0.9}],
        [{"category_id": 1, "bbox": [100, 150, 400, 470], "bbox_mode": 0}],
        [{"bbox": [100, 150, 300, 320], "bbox_mode": 1}],
        [{"bbox": [100, 150, 300, 320], "format": "coco"}],
        {"boxes": [[250, 310, 300, 320]], "box_format": "CXCYWH"},
        [{"area": 96000.0, "bbox": [100, 150, 400, 470]}],
        [{"area": 96000.0, "bbox": [100, 150, 300, 320]}],
        [{"xywh": [100, 150, 300, 320]}],
        [{"cxcywh": [250, 310, 300, 320]}],
        [{"xyxy": [100, 150, 400, 470]}],
        [{"left": 100, "top": 150, "width": 300, "height": 320}],
        [{"x": 100, "y": 150, "w": 300, "h": 320}],
        [{"x": 250, "y": 310, "width": 300, "height": 320, "detection_id": "f", "class": ""}],
        [{"x_min": 100, "y_min": 150, "x_max": 400, "y_max": 470}],
        [{"xmin": 100, "ymin": 150, "xmax": 400, "ymax": 470}],
        [{"cx": 250, "cy": 310, "w": 300, "h": 320}],
        [{"x_center": 250, "y_center": 310, "width": 300, "height": 320}],
        json.dumps([COCO]),
        {"images": [{"id": 5, "width": 512, "height": 512}], "annotations": [COCO]},
    ],
)
def test_keys_say_what_a_box_means(value: Any) -> None:
    (region,) = parse_boxes(value, "a cat", 512, 512)
    assert region == Region("a cat", READ)


def test_a_whole_coco_file_brings_names_and_the_pictures_size() -> None:
    file = {
        "images": [{"id": 5, "width": 640, "height": 480, "file_name": "5.jpg"},
                   {"id": 6, "width": 10, "height": 10}],
        "annotations": [{"image_id": 5, "category_id": 17, "bbox": [64, 48, 320, 240]},
                        {"image_id": 5, "category_id": 18, "bbox": [0, 0, 64, 48]}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }  # fmt: skip
    # of no use: the file knows better
    cat, dog = parse_boxes(json.dumps(file), "", 512, 512)
    assert cat == Region("cat", (0.1, 0.1, 0.6, 0.6)) and dog.phrase == "dog"
    assert dog.box == pytest.approx((0, 0, 0.1, 0.1))
    file["annotations"][1]["image_id"] = 6
    for value in (file, file["annotations"]):
        with pytest.raises(RealCompoError, match="belong to 2 pictures"):
            parse_boxes(value, "", 512, 512)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"category_id": 1, "bbox": [100, 150, 500, 500]}], "because it has 'category_id'"),
        ([{"area": 1e9, "bbox": [100, 150, 300, 320]}], "fits neither"),
        ([{"bbox": [1, 2, 3, 4], "bbox_mode": 9}], "bbox_mode 9"),
        ([[10**400, 0, 1, 1]], "box 1 is"),
        ('[[1e999, 0, 1, 1]]', "too large"),
        ("[" * 100_000, "levels deep"),
        ([[0, 0, 1, 1]] * 2000, "2000 boxes, and up to 1024"),
        ("a star: 0 0 1 1\n" * 2000, "2000 lines"),
        (((0, 0), [Segment([0, 0, 1, 1], "x")]), "0 x 0 pixels"),
        (torch.zeros(1, 1024, 1024, 3), "holds 3145728 numbers"),
        (torch.zeros(2, 4, device="meta"), "gives no numbers"),
        ({"polygons": 5}, "no boxes|keys"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_meant(value: Any, said: str) -> None:
    with pytest.raises(RealCompoError, match=said):
        parse_boxes(value, "" if isinstance(value, str) else "x", 512, 512)


def test_lists_without_an_end_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = {"bbox": [0, 0, 1, 1]}
    for _ in range(3000):
        deep = {"box": deep}
    for value in (endless, deep, [deep], {"polygons": [endless]}, {"boxes": {"boxes": deep}}):
        with pytest.raises(RealCompoError, match="levels deep"):
            parse_boxes(value, "")


def test_a_megabyte_is_read_or_refused_within_a_second() -> None:
    outline = json.dumps({"polygons": [[[x % 997, x % 991] for x in range(90_000)]]})
    lines = ["a" * 1_000_000 + ": 0 0 1 1", "a:" * 500_000, "a" + " " * 1_000_000 + "b",
             "a: " + "1 " * 500_000, "a#" * 500_000, "#" * 1_000_000, "\\" * 1_000_000 + "#2",
             "a *" + "1" * 1_000_000, "a: 1" + " " * 1_000_000 + "x"]  # fmt: skip
    for text in (outline, *lines, "\n".join(f"a{n}: 0 0 1 1" for n in range(70_000))):
        began = time.process_time()
        with contextlib.suppress(RealCompoError):
            parse_boxes(None, text, 1000, 1000, prompt="a #1 " * 1000)
        assert time.process_time() - began < 1.0, text[:20]
