"""Detections matched with a prompt's phrases: nouns first, attributes next, nothing lost unsaid."""

from __future__ import annotations

import itertools
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.captions.align import align, captions_by_rules
from realcompo.balancer.captions.detections import Detection, names_for, read_detections
from realcompo.balancer.captions.match import Caption, assign, once
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.balancer.text.nouns import named, noun_fit, wording

PROMPT = "a blue square and a red circle"
LEFT, RIGHT = (0.1, 0.2, 0.4, 0.6), (0.6, 0.2, 0.9, 0.6)


def plane(box=LEFT, height=32, width=40, value=1.0) -> torch.Tensor:
    """A mask (height, width) of a box."""
    out = torch.zeros(height, width)
    x0, y0, x1, y1 = box
    out[int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)] = value
    return out


def seen(tag: str, box=LEFT, mask: bool = True) -> Detection:
    return Detection(tag, box, Mask.from_tensor(plane(box)) if mask else None)


def aligned(found, prompt=PROMPT, **options):
    captions, _ = captions_by_rules(prompt)
    return align(captions, found, prompt, **options)


def phrases(made) -> dict[str, tuple[float, ...]]:
    return {region.phrase: region.box for region in made.regions}


# -- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "phrase", "fit"),
    [
        ("square", "a blue square", 3), ("squares", "two blue squares", 3), ("dog", "a cat", 0),
        ("person", "an old man with a dog", 3), ("dog", "an old man with a dog", 0),
        ("sofa", "a red couch", 3), ("women", "a young woman", 3), ("coffee", "a cup of coffee", 1),
        ("crosses", "a red cross", 3), ("traffic light", "a green traffic light", 3),
        ("hot dog", "a dog", 0), ("a dog sitting", "a dog", 2), ("", "a dog", 0), ("!", "a dog", 0),
        ("red circle", "a red square", 0), ("glass", "three glasses", 3),
        ("puppies", "a dog", 3), ("bus", "two buses", 3),
    ],
)  # fmt: skip
def test_nouns(tag, phrase, fit) -> None:
    assert noun_fit(wording(tag), wording(phrase)) == fit


def test_names_for_a_detector() -> None:
    said = {"a green traffic light": "traffic light", "two small dogs": "dogs", "a blue square":
            "square", "a pair of old shoes": "shoes", "the man with a hat": "man"}  # fmt: skip
    assert {phrase: named(wording(phrase)) for phrase in said} == said


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, -1.0, 1.0, 2.0, 2.5, 7.0]), min_size=3, max_size=3),
        max_size=4,
    )
)
@settings(max_examples=150, deadline=None)
def test_the_assignment_is_the_best_there_is(worth) -> None:
    got = assign(worth)
    taken = [column for column in got if column is not None]
    assert len(taken) == len(set(taken))
    assert all(worth[row][column] > 0 for row, column in enumerate(got) if column is not None)

    def total(choice):
        return sum(worth[r][c] for r, c in enumerate(choice) if c is not None)

    choices = itertools.product([None, 0, 1, 2], repeat=len(worth))
    good = (c for c in choices if len([x for x in c if x is not None]) == len(set(c) - {None}))
    assert total(got) == max(total(choice) for choice in good)


@pytest.mark.parametrize(
    ("worth", "wanted"),
    [
        ([[1.0, 1.0, 1.0]], [0]), ([[1.0], [1.0]], [0, None]),
        ([[2.0, 2.0], [2.0, 2.0]], [0, 1]), ([[0.0, 0.0], [3.0, 3.0]], [None, 0]),
        ([[1.0, 1.0, 1.0], [2.0, 1.0, 2.0]], [1, 0]), ([[], []], [None, None]), ([], []),
    ],
)  # fmt: skip
def test_of_equal_assignments_the_first_is_taken(worth, wanted) -> None:
    assert assign(worth) == wanted


# -- what comes in ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "sizes", "wanted"),
    [
        ([["a"], ["b"]], [1, 1], [["a"], ["b"]]),
        ([["a"], ["b"]], [2, 1], [["a", "a"], ["b"]]),  # one run for each name
        ([["a", "b"]], [2], [["a", "b"]]),  # lines for a batch
        ([["a", "b"]], [2, 3], [["a", "a"], ["b", "b", "b"]]),  # lines for runs
        ([["a", "b", "c"]], [2, 1], [["a", "b"], ["c"]]),
        ([["a"]], [2, 1], [["a", "a"], ["a"]]),
        ([["a"], ["b"]], [0, 1], [[], ["b"]]),  # a run that found nothing
        ([["a, b"]], [2], [["a", "b"]]), ([["a; b"]], [1, 1], [["a"], ["b"]]),
        ([["a, b"]], [1], [["a, b"]]),
        ([], [2], [["", ""]]),
    ],
)  # fmt: skip
def test_names_find_their_things(rows, sizes, wanted) -> None:
    assert names_for(rows, sizes, "masks") == wanted


@pytest.mark.parametrize(("rows", "sizes"), [([["a"], ["b"], ["c"]], [2]), ([["a", "b"]], [3])])
def test_counts_that_do_not_fit_are_named(rows, sizes) -> None:
    with pytest.raises(RealCompoError, match="names for") as caught:
        names_for(rows, sizes, "masks")
    assert caught.value.where == "tags"


def test_masks_of_any_size_and_kind() -> None:
    batch = torch.stack([plane(LEFT, 16, 20), plane(RIGHT, 16, 20)])
    bytes_ = (plane(LEFT) * 255).to(torch.uint8)[None]
    found, notes = read_detections([batch, bytes_, plane(RIGHT).bool()], tags=["a\nb", "c", "d"])
    assert [thing.tag for thing in found] == ["a", "b", "c", "d"] and not notes
    assert {(t.mask.height, t.mask.width) for t in found if t.mask} == {(16, 20), (32, 40)}
    # a detector that misses gives zeros as bytes, or a batch of none
    empty = [torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(0, 8, 8), plane()]
    found, notes = read_detections(empty, tags=["dog", "cat", "bird"])
    assert [thing.tag for thing in found] == ["bird"]
    assert notes == ["dropped: 'dog' (nothing there)"]


def test_small_things_are_dropped_and_said() -> None:
    found, notes = read_detections([plane((0.0, 0.0, 0.05, 0.07))], tags=["fly"], smallest=0.01)
    assert not found and notes == ["dropped: 'fly' (smaller than 'min_area')"]


@pytest.mark.parametrize(
    ("masks", "words"),
    [([plane() * 3.0], "outside 0..1"), (["mask"], "entry 1 is str"),
     ([torch.ones(1, 3, 4, 4)], "shape"), ([plane() * float("nan")], "outside 0..1")],
)  # fmt: skip
def test_what_is_no_mask_is_refused(masks, words) -> None:
    with pytest.raises(RealCompoError, match=words) as caught:
        read_detections(masks, tags=["a"])
    assert caught.value.where == "masks"


def test_things_without_a_name_are_refused() -> None:
    for arguments in ({"masks": [plane()]}, {"boxes": [[[0.1, 0.1, 0.5, 0.5]]]}):
        with pytest.raises(RealCompoError, match="without a name") as caught:
            read_detections(**arguments)
        assert caught.value.where == "tags"
    with pytest.raises(RealCompoError, match="a name is a int"):
        read_detections([plane()], tags=[3])


BOXES = [
    # RT-DETR's and SAM 3's nodes: one list for each picture, x y width height
    [[{"x": 10, "y": 20, "width": 30, "height": 40, "label": "dog", "score": 0.9}]],
    [{"label": "dog", "bbox": [10, 20, 40, 60]}],
    {"bboxes": [[10, 20, 40, 60]], "labels": ["dog"]},
    json.dumps([{"label": "dog", "box": [0.1, 0.2, 0.4, 0.6], "score": 1.0}]),
    "dog: 0.1 0.2 0.4 0.6",
    ((100, 100), [SimpleNamespace(bbox=(10, 20, 40, 60), label="dog")]),
]


@pytest.mark.parametrize("value", BOXES)
def test_boxes_of_many_nodes(value) -> None:
    (found,), notes = read_detections(boxes=[value], size=(100, 100))
    assert found.tag == "dog" and not notes and found.mask is None
    assert found.box == pytest.approx((0.1, 0.2, 0.4, 0.6), abs=1e-6)


def test_segments_bring_their_masks() -> None:
    part = np.zeros((40, 30), dtype=np.float32)
    part[:, :15] = 1
    segment = SimpleNamespace(
        bbox=(10, 20, 40, 60), label="dog", cropped_mask=part, crop_region=[10, 20, 40, 60]
    )
    missed = SimpleNamespace(**{**vars(segment), "cropped_mask": part * 0, "label": "cat"})
    found, notes = read_detections(boxes=[((100, 200), [segment, missed])])
    assert [thing.tag for thing in found] == ["dog"] and notes == ["dropped: 'cat' (nothing there)"]
    mask = found[0].mask.tensor()
    assert mask.shape == (100, 200) and mask[20:60, 10:25].min() == 1 and mask.sum() == 600
    bytes_ = SimpleNamespace(**{**vars(segment), "cropped_mask": (part * 128).astype(np.uint8)})
    ((byte,), _) = read_detections(boxes=[((100, 200), [bytes_])])
    assert float(byte.mask.tensor().max()) == pytest.approx(128 / 255)
    wrong = SimpleNamespace(**{**vars(segment), "crop_region": [10, 20, 41, 60]})
    two = SimpleNamespace(**{**vars(segment), "cropped_mask": np.stack([part, part])})
    broken = SimpleNamespace(**{**vars(segment), "cropped_mask": part * np.nan})
    for bad, words in ((wrong, "crop region"), (two, "crop region"), (broken, "outside 0..1")):
        with pytest.raises(RealCompoError, match=words) as caught:
            read_detections(boxes=[((100, 200), [bad])])
        assert caught.value.where == "boxes"


def test_boxes_by_runs_and_beside_masks() -> None:
    runs = [[{"x": 1, "y": 1, "width": 20, "height": 20}], [], [[0, 0, 10, 10], [5, 5, 20, 20]]]
    found, _ = read_detections(boxes=runs, tags=["a", "b", "c"], size=(40, 40))
    assert [thing.tag for thing in found] == ["a", "c", "c"]
    # masks say where; the boxes of the same things say what
    labelled = [[{"label": "a", "bbox": [0, 0, 9, 9]}, {"label": "b", "bbox": [0, 0, 9, 9]}]]
    both = torch.stack([plane(LEFT), plane(RIGHT)])
    found, notes = read_detections([both], labelled, size=(40, 32))
    assert [(thing.tag, thing.mask is not None) for thing in found] == [("a", True), ("b", True)]
    found, notes = read_detections([both], labelled, ["x\ny"], size=(40, 32))
    assert [thing.tag for thing in found] == ["x", "y"]
    with pytest.raises(RealCompoError, match="'image'") as caught:
        read_detections(boxes=[[{"label": "a", "bbox": [0, 0, 9, 9]}]])
    assert caught.value.where == "boxes"
    outside = [[{"label": "a", "bbox": [50, 0, 60, 9]}, {"label": "b", "bbox": [5, 5, 5, 9]}]]
    found, notes = read_detections(boxes=outside, size=(40, 40))
    assert not found and len(notes) == 2
    turned = [{"label": "a", "bbox": [0.6, 0.6, 0.2, 0.2]}]
    assert read_detections(boxes=[turned]) == ([], ["dropped: 'a' (nothing there)"])
    # read as x, y, width and height, it leaves the picture: it was meant otherwise
    sized = [{"label": "a", "bbox": [0.5, 0.5, 0.9, 0.9], "iscrowd": 0}]
    with pytest.raises(RealCompoError, match="leaves the image.*'image'") as caught:
        read_detections(boxes=[sized])
    assert caught.value.where == "boxes"
    for nothing in ([[]], ["[]"], [None], [""], [[[]]]):
        assert read_detections(boxes=nothing, size=(40, 40)) == ([], [])


# -- who is who -------------------------------------------------------------------------------


def test_nouns_go_before_attributes() -> None:
    """The coarse picture has the colours the wrong way round: the prompt's come to the shapes."""
    made = aligned([seen("red square", LEFT), seen("blue circle", RIGHT)])
    assert phrases(made)["a blue square"] == pytest.approx(LEFT, abs=0.03)
    assert phrases(made)["a red circle"] == pytest.approx(RIGHT, abs=0.03)
    assert all(region.mask is not None for region in made.regions)
    assert made.notes == () and made.prompt == PROMPT


def test_attributes_decide_between_equal_nouns() -> None:
    prompt = "a red circle and a blue circle"
    made = aligned([seen("blue circle", LEFT), seen("red circle", RIGHT)], prompt)
    assert phrases(made)["a red circle"] == pytest.approx(RIGHT, abs=0.03)
    # nothing decides: from left to right, as the prompt goes
    for order in ((LEFT, RIGHT), (RIGHT, LEFT)):
        made = aligned([seen("circle", box) for box in order], prompt)
        assert phrases(made)["a red circle"] == pytest.approx(LEFT, abs=0.03)


def test_a_wrong_thing_of_the_right_colour_gives_its_place() -> None:
    made = aligned([seen("blue star", LEFT), seen("red circle", RIGHT)])
    square, circle = made.regions
    assert square.phrase == "a blue square" and square.mask is None and circle.mask is not None
    assert made.notes == ("'a blue square' takes the place of 'blue star'",)


def test_things_of_one_phrase_are_united_or_not() -> None:
    found = [seen("dog", LEFT), seen("dog", RIGHT)]
    (both,) = aligned(found, "two dogs on a lawn").regions
    assert both.mask is not None and both.box == pytest.approx((0.1, 0.2, 0.9, 0.6), abs=0.03)
    assert float(both.mask.tensor().mean()) == pytest.approx(2 * found[0].area, abs=0.01)
    apart = aligned(found, "two dogs on a lawn", several="separate").regions
    assert [region.phrase for region in apart] == ["two dogs"] * 2
    mixed = [seen("dog", LEFT), seen("dog", RIGHT, mask=False)]
    (both,) = aligned(mixed, "two dogs").regions
    assert float(both.mask.tensor().mean()) == pytest.approx(0.24, abs=0.02)
    sizes = [Detection("dog", LEFT, Mask.from_tensor(plane(LEFT, 16, 16))), seen("dog", RIGHT)]
    (both,) = aligned(sizes, "two dogs").regions
    assert (both.mask.height, both.mask.width) == (32, 40)


def test_boxes_instead_of_shapes() -> None:
    made = aligned([seen("blue square", LEFT), seen("red circle", RIGHT)], keep="box")
    assert [region.mask for region in made.regions] == [None, None]
    (both,) = aligned([seen("dog", LEFT), seen("dog", RIGHT)], "two dogs", keep="box").regions
    assert both.mask is not None


def test_what_fits_worse_or_nothing_is_left_out_and_said() -> None:
    found = [seen("blue square", LEFT), seen("red square", RIGHT), seen("tree", RIGHT)]
    made = aligned(found, "a blue square", missing="leave out")
    assert len(made.regions) == 1 and made.regions[0].box == pytest.approx(LEFT, abs=0.03)
    assert made.notes == (
        "left out: 'red square' (more than the prompt names)",
        "left out: 'tree' (not in the prompt)",
    )


def test_a_thing_seen_twice_counts_once() -> None:
    twice = [seen("circle", LEFT), seen("Circle", LEFT), seen("circle", RIGHT)]
    assert len(once(twice)) == 2
    assert len(once([seen("circle", LEFT), seen("dot", LEFT)])) == 2
    made = aligned([*twice, *twice], "a red circle and a blue circle")
    assert len(made.regions) == 2 and not made.notes


def test_what_is_missing_gets_free_room_as_the_prompt_says() -> None:
    for prompt, below in (("a red star above a blue circle", False),
                          ("a red star below a blue circle", True)):  # fmt: skip
        circle = (0.3, 0.35, 0.6, 0.65)
        made = aligned([seen("blue circle", circle)], prompt)
        star = phrases(made)["a red star"]
        assert (star[1] > circle[3] - 0.03) if below else (star[3] < circle[1] + 0.03)
        assert made.notes == ("not found: 'a red star', put into free room",)
        assert made.missing == ()
    full = seen("blue circle", (0.0, 0.0, 1.0, 1.0))
    made = aligned([full], "a red star and a blue circle")
    assert "over other things" in made.notes[0] and len(made.regions) == 2


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_placed_things_lie_inside_and_beside(seed) -> None:
    rng = random.Random(seed)
    x, y = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
    there = (x, y, x + rng.uniform(0.2, 0.4), y + rng.uniform(0.2, 0.4))
    made = aligned([seen("red circle", there, mask=False)])
    x0, y0, x1, y1 = phrases(made)["a blue square"]
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    assert x1 <= there[0] or x0 >= there[2] or y1 <= there[1] or y0 >= there[3]


def test_what_is_missing_may_be_left_out_or_come_from_a_layout() -> None:
    made = aligned([seen("blue square")], missing="leave out")
    assert made.missing == ("a red circle",) and len(made.regions) == 1
    assert made.notes == ("not found: 'a red circle', has no region",)
    planned = Layout((Region("the red circle", RIGHT, weight=2.0), Region("a blue square", RIGHT)))
    made = aligned([seen("blue square")], missing="leave out", fallback=planned)
    assert phrases(made)["a red circle"] == RIGHT and made.missing == ()
    assert phrases(made)["a blue square"] == pytest.approx(LEFT, abs=0.03)
    assert [region.weight for region in made.regions] == [1.0, 1.0]


def test_nothing_found() -> None:
    with pytest.raises(RealCompoError, match="nothing that the prompt names") as caught:
        aligned([], missing="leave out")
    assert caught.value.where == "missing" and "fallback" in caught.value.remedy
    assert len(aligned([]).regions) == 2
    with pytest.raises(RealCompoError, match="no thing"):
        captions_by_rules("!")


def test_a_phrase_said_twice_keeps_its_occurrences() -> None:
    made = aligned([seen("star", LEFT), seen("star", RIGHT)], "a star, a red dog and a star")
    stars = [region for region in made.regions if region.phrase == "a star"]
    assert [region.occurrence for region in stars] == [0, 1]
    assert stars[0].box[0] < stars[1].box[0]


def test_a_models_tags_go_before_words() -> None:
    captions = [Caption("a blue square", weight=2.0, tags=("blob",)), Caption("a red circle")]
    made = align(captions, [seen("square", RIGHT), seen("blob", LEFT)], PROMPT)
    assert phrases(made)["a blue square"] == pytest.approx(LEFT, abs=0.03)
    assert made.regions[0].weight == 2.0
