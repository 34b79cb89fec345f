"""What planner, rules, captions and suggestions give, the host's own tokenizers find."""

from __future__ import annotations

import importlib.util
import inspect
import re
import time

import pytest
import torch
from hypothesis import assume, example, given

pytest.importorskip("comfy.sd1_clip")
import comfy.sd1_clip  # noqa: E402
from realcompo.balancer.attention.prompt_words import describe_match  # noqa: E402
from realcompo.balancer.attention.tokens import EncodedPrompt, match_regions, resolve_tokens  # noqa: E402
from realcompo.balancer.comfy.text import tokenizer as text  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.balancer.text.weights import plain_text  # noqa: E402
from realcompo.tests.phrases import BOX, PARTS, holds_together, prompts, wordings  # noqa: E402

HAS_T5 = importlib.util.find_spec("comfy.text_encoders.flux") is not None
HAS_QWEN = importlib.util.find_spec("comfy.text_encoders.qwen_image") is not None
NAMES_END = "[<" in inspect.getsource(comfy.sd1_clip.SDTokenizer)
ZH = "\u4e00\u53ea\u7ea2\u8272\u7684\u732b\u548c\u4e00\u4e2a\u84dd\u8272\u7684\u7403"


@pytest.fixture(scope="module", autouse=True)
def with_embedding(tmp_path_factory):
    """A tokenizer that has the textual embedding 'charA', of three vectors."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"clip_l": torch.zeros(3, 768)}, folder / "charA.safetensors")
    kept = text._tokenizer
    text._tokenizer = comfy.sd1_clip.SDTokenizer(embedding_directory=[str(folder)])
    yield
    text._tokenizer = kept


@given(wordings())
@example(("a (red ball:1.2), embedding:charA", "red ball", "Red Ball"))
@example(("a red car and embedding:charA. embedding:charA, ", "embedding:charA", "embedding:charA"))
@example(("embedding:nobody embedding:charA girl", "embedding:charA girl", "embedding:charA"))
def test_clip_finds_what_is_given(case: tuple[str, str, str]) -> None:
    # older hosts drop what follows an embedding's name without a space
    assume(NAMES_END or not re.search(r"embedding:[^\s<\[]*[<\[]", case[0]))
    holds_together(*case, text.encode_prompt)


@pytest.mark.skipif(not HAS_T5, reason="this host has no Flux")
@given(wordings())
def test_t5_finds_what_is_given(case: tuple[str, str, str]) -> None:
    from realcompo.balancer.comfy.attention import t5

    def encode(prompt: str) -> EncodedPrompt:
        words, _ = t5.t5_words(prompt)
        assert all(words.tokens) and len(words.tokens) == len(words.prompt)
        return words.prompt

    holds_together(*case, encode)


@pytest.mark.skipif(not HAS_QWEN, reason="this host has no Qwen-Image")
@given(wordings())
def test_qwen_finds_what_is_given(case: tuple[str, str, str]) -> None:
    from realcompo.balancer.attention.tokens import plain_prompt
    from realcompo.balancer.comfy.attention import qwen_image

    found = qwen_image.qwen_words(case[0])
    # a line break in front becomes one token with the template's
    assert found is not None or case[0][:1].isspace()
    if found is None:
        return
    assert all(found[0].tokens)

    def encode(prompt: str) -> EncodedPrompt:
        return found[0].prompt if prompt == case[0] else plain_prompt(plain_text(prompt))

    holds_together(*case, encode)


@given(prompts)
def test_weights_are_read_as_by_the_host(prompt: str) -> None:
    """Blanks aside, which are put where brackets alone part two words."""
    parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(prompt), 1.0)
    read = "".join(comfy.sd1_clip.unescape_important(part) for part, _ in parts)
    assert "".join(plain_text(prompt).split()) == "".join(read.split())


@pytest.mark.parametrize("prompt", PARTS)
def test_clips_tokens_are_placed_in_the_text(prompt: str) -> None:
    """Every kind of prompt is aligned, none is searched by the tokenizer's own words only."""
    encoded = text.encode_prompt("x " + prompt)
    assert encoded.text == plain_text("x " + prompt) and len(encoded.places) == len(encoded)


def words_at(prompt: str, phrase: str) -> set[str]:
    encoded = text.encode_prompt(prompt)
    layout = Layout((Region(phrase, BOX),), prompt)
    (positions,) = resolve_tokens(layout, encoded, text.encode_prompt)
    return {encoded.words[encoded.index.at[p]] for p in positions}


def test_the_dog_is_found_and_not_its_article() -> None:
    assert words_at("a \U0001f436 and a ball", "a \U0001f436") == {"\U0001f436"}
    assert words_at("a \U0001f436\U0001f431 and a ball", "a \U0001f436") == {"\U0001f436\U0001f431"}


def test_a_phrase_within_a_word_of_the_tokenizers_has_its_own_pieces() -> None:
    encoded = text.encode_prompt(ZH)
    layout = Layout(
        (Region("\u7ea2\u8272\u7684\u732b", BOX), Region("\u84dd\u8272\u7684\u7403", BOX)), ZH
    )
    red, blue = resolve_tokens(layout, encoded, text.encode_prompt)
    inverse = text.clip_tokenizer().inv_vocab
    spelt = [
        b"".join(text.character_bytes(inverse[encoded.ids[encoded.index.at[p]]].removesuffix("</w>"))
                 for p in positions).decode()
        for positions in (red, blue)
    ]  # fmt: skip
    assert spelt == ["\u7ea2\u8272\u7684\u732b", "\u84dd\u8272\u7684\u7403"]
    answer = describe_match(layout, encoded, text.encode_prompt)
    shown = [[answer["words"][n]["text"] for n in entry["words"]] for entry in answer["regions"]]
    assert ["".join(row) for row in shown] == spelt


@pytest.mark.skipif(not HAS_T5, reason="this host has no Flux")
@pytest.mark.parametrize(
    ("prompt", "phrase", "pieces"),
    [
        ("a \U0001f436 and a ball", "a \U0001f436", ["<unk>"]),
        ("hatsune_miku, red_ball", "red ball", ["red", "ball"]),
        ("a dog\u2019s bowl", "dog's bowl", None),
        ("a saber \\(fate\\) doll", "a saber (fate) doll", None),
        (ZH, "\u7ea2\u8272\u7684\u732b", ["<unk>"]),
    ],
)
def test_t5_takes_the_pieces_that_overlap(prompt: str, phrase: str, pieces) -> None:
    from realcompo.balancer.comfy.attention import phrases, t5

    words, _ = t5.t5_words(prompt)
    layout = Layout((Region(phrase, BOX),), prompt)
    (found,) = phrases.find_phrases(layout, words, lambda p: t5.t5_words(p)[0].prompt)
    tokenizer = t5._tokenizer()
    (chunk,) = tokenizer.tokenize_with_weights(prompt)
    spelt = [tokenizer.inv_vocab[chunk[position][0]].lstrip("\u2581") for position in found]
    assert spelt and pieces in (None, [piece for piece in spelt if piece])


def test_a_phrases_own_vectors_fit_its_tokens() -> None:
    """DenseDiffusion's phrases that are encoded alone: one row for every token of the prompt's."""
    from realcompo.balancer.comfy.dense.phrases import _alone

    for prompt, phrase in (
        ("a saber \\(fate\\) doll and a ball", "a saber (fate) doll"),
        (ZH, "\u7ea2\u8272\u7684\u732b"),
        ("a hatsune_miku", "hatsune miku"), ("a red car", "the red car"),
        ("embedding:charA and a ball", "embedding:charA"),
        ("a (red:1.2), shiny car", "red shiny car"),
    ):  # fmt: skip
        encoded = text.encode_prompt(prompt)
        (match,) = match_regions(
            Layout((Region(phrase, BOX),), prompt), encoded, text.encode_prompt
        )
        typed, own = _alone(encoded, phrase, match.positions)
        alone = text.encode_prompt(typed)
        assert len(own) == len(match.positions) and set(own) <= set(alone.positions)
        one = [encoded.words[encoded.index.at[p]] for p in match.positions]
        other = [alone.words[alone.index.at[p]] for p in own]
        assert all(b in a for a, b in zip(one, other, strict=True)), (one, other)


def test_a_full_stop_belongs_to_an_embeddings_name() -> None:
    """As the host reads it, which then finds no such file, and drops it with its full stop."""
    encoded = text.encode_prompt("a car, embedding:charA. embedding:charA, embedding:charA")
    assert encoded.missing == ("charA.",)
    spelt = {encoded.text[slice(*place)] for place, token in
             zip(encoded.places, encoded.ids, strict=True) if token is None}  # fmt: skip
    assert spelt == {"embedding:charA"} and encoded.ids.count(None) == 6
    assert "." not in encoded.words and encoded.words.count(",") == 2


def test_half_a_character_is_named() -> None:
    """A page or a file can bring a lone surrogate, which no tokenizer reads."""
    layout = Layout((Region("a cat", BOX),), "a cat \ud83d")
    with pytest.raises(RealCompoError, match=r"half a character \(U\+D83D\) after 'a cat '"):
        resolve_tokens(layout, text.encode_prompt(layout.prompt), text.encode_prompt)


def test_a_long_prompt_is_matched_in_time() -> None:
    """As long as the page may ask about, as one word of the tokenizer's, with 64 phrases."""
    characters = [chr(0x4E00 + number) for number in range(900)]
    prompt = "".join(characters[(7 * n * n + 3 * n) % 900] for n in range(19_900))
    phrases = [f"a strange {number} {characters[number]}" for number in range(64)]
    layout = Layout(tuple(Region(phrase, BOX) for phrase in phrases), prompt)
    encoded = text.encode_prompt(prompt)
    start = time.process_time()
    answer = describe_match(layout, encoded, text.encode_prompt)
    assert time.process_time() - start < 3.0
    assert not any(entry["found"] for entry in answer["regions"])
