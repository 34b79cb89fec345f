"""Phrases in prompts, in the prompt's own words."""

from __future__ import annotations

import pytest
from realcompo.balancer.text.nearest import nearest_wording
from realcompo.balancer.text.weights import plain_text
from realcompo.balancer.text.words import find_phrase

TEXT = "The red car, a Red-haired woman's dog and the red car"


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a (red car:1.2)", "a red car"),
        ("((big)) (tiny :0.5) x", "big tiny  x"),
        (r"a cat \(the fat one\)", "a cat (the fat one)"),
        ("time 9:30 (now:-.5)", "time 9:30 now"),
    ],
)
def test_weights_are_taken_out(prompt: str, plain: str) -> None:
    assert plain_text(prompt) == plain


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("red car", ["red car", "red car"]),
        ("THE  red, car", ["The red car", "the red car"]),
        ("a red car", ["red car", "red car"]),
        ("a red-haired woman's dog", ["a Red-haired woman's dog"]),
        ("car a", ["car, a"]),
        ("woman", ["woman"]),  # as text encoders read it
        ("wom", []),
        ("blue car", []),
        ("a", ["a"]),
        ("", []),
        ("...", []),
    ],
)
def test_phrases_are_found_as_words(phrase: str, found: list[str]) -> None:
    assert [TEXT[start:end] for start, end in find_phrase(TEXT, phrase)] == found


def test_occurrences_do_not_overlap() -> None:
    assert find_phrase("very very very good", "very very") == [(0, 9)]


@pytest.mark.parametrize(
    ("phrase", "near"),
    [("the red cars", "red car"), ("red hared woman's dog", None), ("blue whale", None)],
)
def test_near_wordings(phrase: str, near: str | None) -> None:
    found = nearest_wording("a red car and a tree", phrase)
    assert found == near
