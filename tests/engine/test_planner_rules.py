"""The planner without a model: which things it sees, how many, and that words for places bind."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Box, Region
from realcompo.balancer.planner.axis import Axis
from realcompo.balancer.planner.rules import plan_by_rules
from realcompo.balancer.text.words import find_phrase, plain_text


def boxes(prompt: str, width: int = 0, height: int = 0) -> dict[str, list[Box]]:
    """Phrase without its article -> its boxes."""
    out: dict[str, list[Box]] = {}
    for region in plan_by_rules(prompt, width, height).regions:
        name = region.phrase.lower()
        for article in ("a ", "an ", "the "):
            name = name.removeprefix(article)
        out.setdefault(name, []).append(region.box)
    return out


def left(one: Box, other: Box) -> bool:
    return one[2] <= other[0]


def above(one: Box, other: Box) -> bool:
    return one[3] <= other[1]


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def inside(one: Box, other: Box) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def overlap(one: Box, other: Box) -> bool:
    return not (left(one, other) or left(other, one) or above(one, other) or above(other, one))


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("a red star and a blue circle", {"red star": 1, "blue circle": 1}),
        ("red star, blue circle", {"red star": 1, "blue circle": 1}),
        ("a corgi, soft light, 4k, photo", {"corgi": 1}),
        ("an oil painting of two dogs", {"two dogs": 2}),
        ("a photo of 3 cats and a dozen mice", {"3 cats": 3, "a dozen mice": 12}),
        ("a pair of shoes", {"pair of shoes": 2}),
        ("the two (big:1.3) cars", {"two big cars": 2}),
        ("a black and white cat", {"black and white cat": 1}),
        ("a big, red ball", {"big, red ball": 1}),
        ("a man with a hat and a dog", {"man with a hat": 1, "dog": 1}),
        ("a room with a chair and a table", {"chair": 1, "table": 1}),
        ("a cup of tea on a table in a kitchen", {"cup of tea": 1, "table": 1}),
        ("a cat sitting on a sofa", {"cat": 1, "sofa": 1}),
        ("a brass teapot, a moth above the teapot", {"brass teapot": 1, "moth": 1}),
        ("a mountain", {"mountain": 1}),
        ("a beach", {"beach": 1}),
        ("two dogs next to each other", {"two dogs": 2}),
        ("a star left of a star", {"star": 2}),
        ("A Red Star; A Blue Circle.", {"red star": 1, "blue circle": 1}),
    ],
)
def test_things_and_numbers(prompt: str, counts: dict[str, int]) -> None:
    found = {name: len(each) for name, each in boxes(prompt).items()}
    assert found == {key.removeprefix("a "): n for key, n in counts.items()}


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a dog chasing a cat", ["a dog", "a cat"]),
        ("a knight fighting a dragon", ["a knight", "a dragon"]),
        ("a woman who holds a red umbrella and a small dog",
         ["a woman", "a red umbrella", "a small dog"]),
        ("a girl reading a book under a tree", ["a girl", "a book", "a tree"]),
        ("a chef cooks a pizza", ["a chef", "a pizza"]),
        ("a man ate an apple", ["a man", "an apple"]),
        ("an old man feeds the pigeons in a park", ["an old man", "the pigeons"]),
        ("a man eating an apple and a woman drinking a coffee",
         ["a man", "an apple", "a woman", "a coffee"]),
        ("a knight in shining armor fights a huge dragon",
         ["a knight", "shining armor", "a huge dragon"]),
        ("children watching two kites", ["children", "two kites"]),
        ("a clown juggling three balls", ["a clown", "three balls"]),
        ("a cat that chases a mouse", ["a cat", "a mouse"]),
        ("a cat is happily eating a fish", ["a cat", "a fish"]),
        ("a woman riding her bicycle past a church", ["a woman", "her bicycle", "a church"]),
        ("there are people watching a game", ["people", "a game"]),
        ("a boy gives the girl a rose", ["a boy", "the girl", "a rose"]),
        ("a boy throws his dog a ball", ["a boy", "his dog", "a ball"]),
        ("a cat chasing a mouse chasing a cheese", ["a cat", "a mouse", "a cheese"]),
        ("Conan the Barbarian fighting a dragon", ["Conan the Barbarian", "a dragon"]),
        ("a lamp, lighting a desk", ["a lamp", "a desk"]),
        ("the king's two dogs", ["the king's two dogs"]),
        ("two dogs chasing one another", ["two dogs"]),
        ("two cats hugging each other", ["two cats"]),
        # What looks like it and is one thing.
        ("a string of lights", ["a string of lights"]),
        ("a painting of a dog", ["a dog"]),
        ("the king's throne", ["the king's throne"]),
        ("a sleeping cat", ["cat"]),
        ("a wedding ring on a table", ["a wedding ring", "a table"]),
        ("a glass of water", ["a glass of water"]),
        ("a bus and a car", ["a bus", "a car"]),
        ("a cat with a red hat", ["a cat with a red hat"]),
        ("two dogs playing with a ball", ["two dogs", "a ball"]),
        ("a bus full of some people", ["a bus full of some people"]),
        ("a slice of the cake", ["a slice of the cake"]),
        ("half an apple", ["half an apple"]),
        ("such a nice cat", ["such a nice cat"]),
        ("all the king's horses", ["all the king's horses"]),
        ("a cloud shaped like a dog", ["a cloud shaped like a dog"]),
        ("a statue surrounded by a crowd", ["a statue surrounded by a crowd"]),
        ("a portrait of Pope Gregory the Great", ["Pope Gregory the Great"]),
        ("a jersey with the number two", ["a jersey with the number two"]),
    ],
)  # fmt: skip
def test_a_verb_before_an_article_ends_a_thing(prompt: str, things: list[str]) -> None:
    found = [region.phrase for region in plan_by_rules(prompt).regions]
    assert list(dict.fromkeys(found)) == things


def test_what_follows_an_action_is_said_of_all_who_take_part() -> None:
    found = boxes("a dog chasing a cat on a red carpet")
    assert above(found["dog"][0], found["red carpet"][0])
    assert above(found["cat"][0], found["red carpet"][0])
    found = boxes("a dog left of a cat chasing a mouse")
    assert left(found["dog"][0], found["cat"][0])


@pytest.mark.parametrize(
    "words", ["left of", "to the left of", "on the left side of", "is to the left of"]
)
def test_left_of(words: str) -> None:
    found = boxes(f"a star {words} a circle")
    assert left(found["star"][0], found["circle"][0])


RELATIONS = [
    ("a star to the right of a circle", "circle", left, "star"),
    ("a star above a circle", "star", above, "circle"),
    ("a star on top of a circle", "star", above, "circle"),
    ("two stars below three circles", "three circles", above, "two stars"),
    ("a star underneath a circle", "circle", above, "star"),
    ("to the left of a star is a circle", "circle", left, "star"),
    ("above a star, a circle", "circle", above, "star"),
    ("a star between a circle and a square", "circle", left, "star"),
    ("a star between a circle and a square", "star", left, "square"),
    ("a star above and to the left of a circle", "star", above, "circle"),
    ("a star above and to the left of a circle", "star", left, "circle"),
    ("a star is left of a circle and above a square", "star", above, "square"),
    ("a star left of a circle above a square", "circle", above, "square"),
    ("a star and a circle on a table", "star", above, "table"),
    ("a star and a circle on a table", "circle", above, "table"),
    ("a star, a circle, a square below them", "star", above, "square"),
    ("a star, a circle, a square below them", "circle", above, "square"),
    ("a star left of a circle and a square below", "star", above, "square"),
    ("a star left of a circle and a square below", "circle", above, "square"),
    ("a star in a box", "star", inside, "box"),
    ("a cat in front of a house", "cat", inside, "house"),
    ("a house behind a cat", "cat", inside, "house"),
    ("a woman holding a cup", "cup", inside, "woman"),
    ("a man riding a horse in front of a castle", "man", above, "horse"),
    ("a man riding a horse in front of a castle", "man", inside, "castle"),
    ("a cat in a box left of a dog", "box", left, "dog"),
    ("a star next to a circle", "star", left, "circle"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "one", "relation", "other"), RELATIONS)
def test_words_for_places_bind(prompt: str, one: str, relation, other: str) -> None:
    found = boxes(prompt)
    for first, second in itertools.product(found[one], found[other]):
        assert relation(first, second), found


@pytest.mark.parametrize(
    ("words", "x", "y"),
    [
        ("on the left", 0, None), ("on the far right side", 2, None), ("at the top", None, 0),
        ("at the bottom of the picture", None, 2), ("in the middle", 1, 1),
        ("in the top left corner", 0, 0), ("in the upper right", 2, 0),
        ("in the bottom-left corner of the image", 0, 2), ("in the lower right part", 2, 2),
        ("in the center", 1, 1), ("in the foreground", None, 2),
    ],
)  # fmt: skip
def test_places_in_the_picture(words: str, x: int | None, y: int | None) -> None:
    for prompt in (f"a star {words}, a circle", f"a circle, {words} a star"):
        across, down = centre(boxes(prompt)["star"][0])
        for value, third in ((across, x), (down, y)):
            if third is not None:
                assert (value < 0.45, 0.3 < value < 0.7, value > 0.55)[third], prompt


def test_what_only_looks_like_a_place_is_none() -> None:
    assert set(boxes("a star on the left wall of a tower")) == {"star"}
    assert "left shoe" in boxes("a left shoe")


def test_contradictions_are_named_and_the_first_word_counts() -> None:
    plan = plan_by_rules("a star left of a circle, the circle left of the star")
    star, circle = plan.regions
    assert left(star.box, circle.box)
    assert any("contradicts" in note for note in plan.notes)


def test_what_is_left_out_is_named() -> None:
    notes = " ".join(plan_by_rules("a cat in a park, watercolor style, 20 dogs").notes)
    assert "a park" in notes and "watercolor style" in notes and "only 12" in notes


def test_copies_share_one_mention_and_mentions_stay_apart() -> None:
    plan = plan_by_rules("two dogs left of a cat, two dogs right of a bird")
    dogs = [region.occurrence for region in plan.regions if region.phrase == "two dogs"]
    assert dogs == [0, 0, 1, 1]
    plan = plan_by_rules("a red star left of a red star")
    assert [region.occurrence for region in plan.regions] == [0, 1]
    # 'star' alone is also a part of 'a red star': its occurrence counts that one.
    plan = plan_by_rules("red star, star")
    assert [(r.phrase, r.occurrence) for r in plan.regions] == [("red star", 0), ("star", 1)]


def test_a_wide_picture_gives_things_room_to_the_sides() -> None:
    (wide,) = boxes("a star", 1024, 256)["star"]
    pixels = (wide[2] - wide[0]) * 1024, (wide[3] - wide[1]) * 256
    assert max(pixels) / min(pixels) < 1.51


@pytest.mark.parametrize("prompt", ["...", "and, or", "it", "of"])
def test_no_thing_is_refused(prompt: str) -> None:
    if prompt == "of" or prompt == "and, or":
        assert plan_by_rules(f"{prompt} a star").regions
        return
    with pytest.raises(RealCompoError, match="no thing"):
        plan_by_rules(prompt)


NAMES = ["star", "circle", "square", "cat", "dog", "lamp", "cup", "boat"]
WORDS = ["left of", "right of", "above", "below", "next to", "in front of", "inside", "on"]
CLAUSE = st.tuples(st.sampled_from(NAMES), st.sampled_from(WORDS), st.sampled_from(NAMES))


@settings(max_examples=60, deadline=None)
@given(st.lists(CLAUSE, min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 2.0]))
def test_any_mixture_gives_usable_boxes(clauses: list[tuple[str, str, str]], aspect: float) -> None:
    known: set[str] = set()

    def said(name: str) -> str:
        article = "the" if name in known else "a"
        known.add(name)
        return f"{article} {name}"

    prompt = ", ".join(f"{said(a)} {words} {said(b)}" for a, words, b in clauses if a != b)
    if not prompt:
        return
    plan = plan_by_rules(prompt, int(512 * aspect), 512)
    assert {r.phrase.split()[-1] for r in plan.regions} == known
    for region in plan.regions:
        assert isinstance(region, Region)
        assert find_phrase(plain_text(prompt), region.phrase)
        assert region.box[2] - region.box[0] > 0.005 and region.box[3] - region.box[1] > 0.005
    nested = {"in front of", "inside"} & {words for _, words, _ in clauses}
    if not nested and not any("contradicts" in note for note in plan.notes):
        for one, other in itertools.combinations(plan.regions, 2):
            assert not overlap(one.box, other.box)
        at = {r.phrase.split()[-1]: r.box for r in plan.regions}
        for a, words, b in clauses:
            if a == b:
                continue
            one, other = at[a], at[b]
            assert {
                "left of": left(one, other), "right of": left(other, one),
                "above": above(one, other), "on": above(one, other), "below": above(other, one),
                "next to": True,
            }[words], prompt  # fmt: skip


PIECES = st.sampled_from([
    "a star", "two cats", "the star", "***", "left of", "in the middle", "with", "and", ",", ".",
    "it", "them", "is", "between", "of", "(big:1.2)", "on the left", "\\(", "a red", "99", "0",
    "an oil painting of", "in", "\u2603", "-", "chasing", "eats", "the", "her", "half", "gives",
])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=14).map(" ".join) | st.text(max_size=40))
def test_no_prompt_breaks_the_rules(prompt: str) -> None:
    try:
        plan = plan_by_rules(prompt)
    except RealCompoError as error:
        assert error.where == "prompt"
        return
    for region in plan.regions:
        assert find_phrase(plain_text(prompt), region.phrase)


def test_the_axis_keeps_order_zones_and_shares() -> None:
    axis = Axis([1.0, 2.0, 1.0], [None, None, None], [(0, 1), (1, 2)])
    assert [tuple(round(v, 3) for v in i) for i in axis.intervals()] == [
        (0.0, 0.25), (0.25, 0.75), (0.75, 1.0),
    ]  # fmt: skip
    axis = Axis([1.0, 1.0], [2, 0])
    (right, first) = axis.intervals()
    assert first[1] <= right[0] and right[0] >= 0.55 and first[1] <= 0.45
    assert axis.room([(0, 1)]) == 0.0
    with pytest.raises(ValueError, match="circle"):
        Axis([1.0, 1.0], [None, None], [(0, 1), (1, 0)]).intervals()


@pytest.mark.parametrize("prompt", ["of half a star", "of (big:1.2) a star"])
def test_a_prompt_that_begins_with_a_function_word(prompt: str) -> None:
    assert [region.phrase for region in plan_by_rules(prompt).regions]
