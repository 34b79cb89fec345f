"""Rewards of captions without a model: order, ties, empty texts, several prompts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realcompo.balancer.captions.rewards import (
    best_indices,
    cosines,
    flat_texts,
    lexical_similarity,
    pair_texts,
    report,
)
from realcompo.balancer.errors import RealCompoError

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROMPT = "a blue bus and a green light"


def test_a_right_caption_goes_before_swapped_and_missing_ones_and_these_before_unrelated() -> None:
    right = lexical_similarity(PROMPT, "a green light, a blue bus")
    swapped = lexical_similarity(PROMPT, "a green bus and a blue light")
    missing = lexical_similarity(PROMPT, "a photo of a blue bus")
    unrelated = lexical_similarity(PROMPT, "two cats on a couch")
    assert right == 1.0 and unrelated == 0.0
    assert right > missing > unrelated and right > swapped > unrelated
    # 4 words of 4 and no pair of 2, against 2 words and 1 pair of 6 and nothing wrong
    assert swapped == pytest.approx(2 * 4 / 12) and missing == pytest.approx(2 * 3 / 9)


def test_things_that_were_not_asked_for_cost() -> None:
    assert lexical_similarity(PROMPT, PROMPT + " and a red dog") < 1.0


def test_texts_without_spaces_are_read_by_the_character() -> None:
    assert lexical_similarity("\u84dd\u8272\u5df4\u58eb", "\u84dd\u8272\u5df4\u58eb") == 1.0
    assert 0 < lexical_similarity("\u84dd\u8272\u5df4\u58eb", "\u7ea2\u8272\u5df4\u58eb") < 1


@pytest.mark.parametrize("caption", ["", "   ", "...", "a the of"])
def test_a_caption_that_says_nothing_has_no_reward(caption: str) -> None:
    assert lexical_similarity(PROMPT, caption) == 0.0
    assert lexical_similarity(caption, caption) == 0.0


@UNHURRIED
@given(st.text(), st.text())
def test_it_is_a_share_and_the_same_both_ways(first: str, second: str) -> None:
    value = lexical_similarity(first, second)
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(lexical_similarity(second, first))


def test_cosines_of_nothing_are_zero() -> None:
    first = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[6.0, 8.0], [1.0, 1.0], [-2.0, 0.0]])
    assert cosines(first, second).tolist() == pytest.approx([1.0, 0.0, -1.0])


def test_of_equal_rewards_the_first_is_the_best_and_no_number_comes_last() -> None:
    assert best_indices([0.5, 0.9, 0.9], 1) == [1]
    assert best_indices([0.5, 0.9, 0.9, 0.1], 3) == [1, 2, 0]
    assert best_indices([math.nan, -5.0, math.nan], 3) == [1, 0, 2]
    assert best_indices([math.nan, math.nan]) == [0]
    assert best_indices([math.nan, -math.inf], 2) == [1, 0]
    assert best_indices([0.1, 0.2], 9) == [1, 0]


@UNHURRIED
@given(st.lists(st.floats(), min_size=1, max_size=12), st.integers(1, 12))
def test_no_reward_that_is_kept_is_below_one_that_is_not(rewards: list[float], keep: int) -> None:
    kept = best_indices(rewards, keep)
    assert len(kept) == len(set(kept)) == min(keep, len(rewards))
    left = [r for place, r in enumerate(rewards) if place not in kept and not math.isnan(r)]
    if left:
        assert min(rewards[place] for place in kept) >= max(left)


def test_lists_in_lists_become_one_list_and_anything_else_is_refused() -> None:
    assert flat_texts(["a", ["b", ("c",)]], "captions") == ["a", "b", "c"]
    for wrong in (3, None, {"a": 1}, ["a", 4]):
        with pytest.raises(RealCompoError, match="captions"):
            flat_texts(wrong, "captions")


def test_prompts_share_captions_in_order() -> None:
    assert pair_texts(["p"], ["1", "2", "3"]) == ["p"] * 3
    assert pair_texts(["p", "q"], ["1", "2", "3", "4"]) == ["p", "p", "q", "q"]
    with pytest.raises(RealCompoError, match="2 prompts cannot share 3 captions"):
        pair_texts(["p", "q"], ["1", "2", "3"])
    with pytest.raises(RealCompoError, match="no caption"):
        pair_texts(["p"], [])


def test_the_report_names_the_best_of_every_prompt() -> None:
    text = report(["p", "p", "q"], ["one", "", "three"], [0.1, 0.2, -1.0], "how")
    assert text.splitlines() == [
        "how", "prompt: p", "0: 0.1000  one", "1: 0.2000  (empty caption) <- best",
        "prompt: q", "2: -1.0000  three",
    ]  # fmt: skip
