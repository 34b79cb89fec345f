"""Prompts and pairs for a finetuning, from what a user types."""

from __future__ import annotations

from collections import Counter

import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.finetune.prompts import TrainingPrompt, draw_pairs, parse_lines


def test_objects_follow_their_prompt() -> None:
    text = (
        "# pairs\n\n a cat and a dog | a cat | a dog \na bird, a cup and a hat|a bird|a cup|a hat"
    )
    assert parse_lines(text) == [
        TrainingPrompt("a cat and a dog", ("a cat", "a dog")),
        TrainingPrompt("a bird, a cup and a hat", ("a bird", "a cup", "a hat")),
    ]


def test_objects_are_found_where_none_are_named() -> None:
    (found,) = parse_lines("a photo of a red cat and a small dog")
    assert found.objects == ("a red cat", "a small dog")


def test_the_choices_of_a_dynamic_prompt_are_no_objects() -> None:
    (one,) = parse_lines("a {red|blue} car, a dog}|a {red|blue} car|a dog")
    assert one == TrainingPrompt("a {red|blue} car, a dog}", ("a {red|blue} car", "a dog"))
    (two,) = parse_lines("a {cat|a {cat")
    assert two.objects == ("a {cat",)


@pytest.mark.parametrize("text", ["", "  \n# only a remark\n"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(RealCompoError, match="no prompt"):
        parse_lines(text)


def test_an_object_that_the_prompt_lacks_is_named_with_its_line() -> None:
    with pytest.raises(RealCompoError, match=r"line 2: 'a cow'"):
        parse_lines("a cat and a dog | a cat | a dog\na cat and a dog | a cat | a cow")


CONCEPTS = "a cat\na dog\n# not this\na cup\na cat\n"


def test_every_pair_once_before_any_twice() -> None:
    prompts = draw_pairs(CONCEPTS, "{a} and {b} | {a} with {b}", 6, seed=3)
    seen = Counter(frozenset(prompt.objects) for prompt in prompts)
    assert set(seen.values()) == {2} and len(seen) == 3
    assert {prompt.text.split()[2] for prompt in prompts} <= {"and", "with"}
    for prompt in prompts:
        assert prompt.text.startswith(prompt.objects[0]) and prompt.text.endswith(prompt.objects[1])


def test_the_seed_decides() -> None:
    template = "a photo of {a} and {b}"
    assert draw_pairs(CONCEPTS, template, 5, 1) == draw_pairs(CONCEPTS, template, 5, 1)
    assert draw_pairs(CONCEPTS, template, 5, 1) != draw_pairs(CONCEPTS, template, 5, 2)


@pytest.mark.parametrize("text", ["", "a cat", "a cat\na cat"])
def test_one_concept_is_no_pair(text: str) -> None:
    with pytest.raises(RealCompoError, match="concepts"):
        draw_pairs(text, "{a} and {b}", 3, 0)


@pytest.mark.parametrize("template", ["", "{a} alone", "{a} and {b} and {b}", "a and b"])
def test_a_template_needs_both_places(template: str) -> None:
    with pytest.raises(RealCompoError, match="once each"):
        draw_pairs(CONCEPTS, template, 3, 0)
