"""Phrase to token positions, with a small tokenizer that splits long words in two pieces."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realcompo.balancer.attention.tokens import (
    CHUNK,
    EncodedPrompt,
    content_positions,
    match_regions,
    resolve_tokens,
)
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.tests.phrases import found

SLOW = [HealthCheck.too_slow]  # a busy machine is no reason to fail
BOX = (0.0, 0.0, 0.5, 0.5)


def encode(text: str, room: int = CHUNK - 2) -> EncodedPrompt:
    """Words and punctuation; words above five letters are two tokens; chunks hold ``room``."""
    ids, words, positions = [], [], []
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        pieces = [word[:5] + "-", word[5:]] if len(word) > 5 else [word]
        for piece in pieces:
            index = len(ids)
            ids.append(zlib.crc32(piece.encode()))
            words.append(word)
            positions.append(index // room * CHUNK + index % room + 1)
    return EncodedPrompt(tuple(ids), tuple(words), tuple(positions))


def resolve(prompt: str, *regions: Region) -> tuple[tuple[int, ...], ...]:
    return resolve_tokens(Layout(regions), encode(prompt), encode)


def region(phrase: str, **options: object) -> Region:
    return Region(phrase, BOX, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "phrase", "positions"),
    [
        ("a red car and a dog", "red car", (2, 3)),
        ("a red car and a dog", "a red car", (2, 3)),  # the article is no part of the object
        ("a red car and a dog", "the red car", (2, 3)),
        ("a red car, a dog", "Dog", (6,)),
        ("two corgis", "two corgis", (1, 2, 3)),  # counts stay; a split word keeps both pieces
        ("a photo of armadillos", "armadillos", (4, 5)),
        ("a cup of tea", "a cup of tea", (2, 4)),
        ("man in black", "man in black", (1, 3)),
        ("red, shiny car", "red, shiny car", (1, 3, 4)),
        ("on and on", "on and on", (1, 2, 3)),  # nothing but function words: all stay
    ],
)
def test_positions_of_a_phrase(prompt: str, phrase: str, positions: tuple[int, ...]) -> None:
    assert resolve(prompt, region(phrase)) == (positions,)


def test_match_is_the_whole_run() -> None:
    phrases = ("a cup of tea", "the cup of tea", "tea of cup")
    assert found("a cup of tea", encode, *phrases) == [(1, 2, 3, 4), (2, 3, 4), ()]
    assert found("a cup of tea", encode, "tea", occurrence=1) == [()]


def test_a_piece_of_a_word_is_no_match() -> None:
    # 'armadillo' and 'armadillos' share their first piece
    assert found("armadillos", encode, "armadillo") == [()]


def test_exact_article_goes_before_any_other() -> None:
    layout = Layout((region("the red car"), region("red car")))
    exact, bare = match_regions(layout, encode("a red car and the red car"), encode)
    assert exact.positions == (5, 6, 7) and exact.held == 1
    assert bare.positions == (2, 3) and bare.held == 2


def test_positions_beyond_one_chunk() -> None:
    # the border between two chunks runs through the phrase
    assert resolve("dog " * 74 + "red star", region("red star")) == ((75, 78),)
    assert resolve("dog " * 200 + "red star", region("red star")) == ((2 * 77 + 51, 2 * 77 + 52),)


def test_equal_phrases_take_occurrences_in_turn() -> None:
    prompt = "a corgi and a corgi"
    assert resolve(prompt, region("corgi"), region("corgi")) == ((2,), (5,))
    assert resolve(prompt, *[region("corgi")] * 3) == ((2,), (5,), (5,))
    assert resolve("two corgis", *[region("corgis")] * 2) == ((2, 3), (2, 3))
    assert resolve("a corgi", region("a corgi"), region("A  Corgi")) == ((2,), (2,))


def test_explicit_occurrence_rules() -> None:
    prompt = "a corgi and a corgi"
    assert resolve(prompt, region("corgi", occurrence=1)) == ((5,),)
    assert resolve(prompt, region("corgi", occurrence=1), region("corgi")) == ((5,), (2,))
    with pytest.raises(RealCompoError, match="region 1 asks for occurrence 3 .*2 times"):
        resolve(prompt, region("corgi", occurrence=2))


def test_explicit_tokens_need_no_prompt() -> None:
    assert resolve("", region("", tokens=(4, 9))) == ((4, 9),)
    with pytest.raises(RealCompoError, match=r"no prompt.*input 'prompt'"):
        resolve("", region("x", tokens=(4,)), region("a star"))


@pytest.mark.parametrize(
    ("phrase", "near"),
    [
        ("red cars", "red car"),
        ("the red vehicle car", "red car"),
        ("dog", "dogs"),
        ("armadillo", "armadillos"),
        ("rde car", "red car"),
    ],
)
def test_error_suggests_the_prompts_wording(phrase: str, near: str) -> None:
    with pytest.raises(RealCompoError) as caught:
        resolve("a red car, two dogs and armadillos", region("dogs"), region(phrase))
    assert f"region 2: the phrase '{phrase}' is not in the prompt" in str(caught.value)
    assert f"Did you mean '{near}'?" in str(caught.value)


def test_error_without_anything_near_shows_the_prompt() -> None:
    with pytest.raises(RealCompoError) as caught:
        resolve("a red car", region("zebra crossing"))
    assert "Did you mean" not in str(caught.value)
    assert "'a red car'" in str(caught.value)


def test_textual_embedding_never_matches() -> None:
    plain = encode("x red car")
    prompt = EncodedPrompt((None, *plain.ids[1:]), ("", *plain.words[1:]), plain.positions)
    vectors = EncodedPrompt((None,), ("",), (1,))
    matches = match_regions(
        Layout((region("red car"), region("nobody"))), prompt,
        lambda text: vectors if text == "nobody" else encode(text),
    )  # fmt: skip
    assert [match.positions for match in matches] == [(2, 3), ()]


def test_uneven_prompt_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        EncodedPrompt((1,), (), (1,))


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(
    st.lists(st.sampled_from(["red", "car", "the", "corgi", "elephants", "of", ","]), min_size=1,
             max_size=160),
    st.data(),
)  # fmt: skip
def test_every_run_of_words_is_found_where_it_stands(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    length = data.draw(st.integers(1, min(6, len(words) - start)))
    typed = " ".join(words[start : start + length])
    prompt, phrase = encode(" ".join(words)), encode(typed)
    held = match_regions(Layout((region(typed),)), prompt, encode)[0].held
    layout = Layout(tuple(region(typed, occurrence=n) for n in range(held)))
    spans = [match.positions for match in match_regions(layout, prompt, encode)]
    assert held >= 1 and all(spans) and spans == sorted(spans)
    index = {p: i for i, p in enumerate(prompt.positions)}
    for span in spans:
        assert tuple(prompt.ids[index[p]] for p in span) == phrase.ids
        kept = content_positions(prompt, span)
        assert kept and set(kept) <= set(span)
    flat = [p for span in spans for p in span]
    assert len(flat) == len(set(flat))
