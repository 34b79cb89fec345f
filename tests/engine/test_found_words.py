"""What planner, rules, captions and suggestions give, the sampler finds: any script and notation.

The tokenizer here cuts words as CLIP does, and their UTF-8 bytes anywhere.
"""

from __future__ import annotations

import time
import unicodedata
import zlib

import pytest
from hypothesis import example, given
from realcompo.balancer.attention.prompt_words import describe_match
from realcompo.balancer.attention.tokens import (
    CHUNK,
    EncodedPrompt,
    match_regions,
    plain_prompt,
    resolve_tokens,
)
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.finetune.prompts import parse_lines
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.planner.answer import read_answer
from realcompo.balancer.planner.rules import plan_by_rules
from realcompo.balancer.text.letters import EMBEDDED, atoms
from realcompo.balancer.text.nearest import nearest_wording
from realcompo.balancer.text.spelling import Piece, Vectors, spell
from realcompo.balancer.text.weights import escaped, plain_text
from realcompo.balancer.text.words import find_phrase, words_of
from realcompo.tests.phrases import BOX, found, holds_together, prompts, wordings

EMBEDDINGS = {"embedding:charA": 3}


def _clip_words(text: str) -> list[str]:
    """Runs of letters, single digits, runs of signs; lower case, composed."""
    words: list[str] = []
    before = ""
    for character in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(character)[0]
        kind = kind if kind in "LN" else "Z" if character.isspace() else "P"
        if kind == "Z":
            before = ""
            continue
        lowered = "".join(c.lower() for c in character)
        if kind == before and kind != "N":
            words[-1] += lowered
        else:
            words.append(lowered)
        before = kind
    return words


def encode(text: str) -> EncodedPrompt:
    ids: list[int | None] = []
    words: list[str] = []
    pieces: list[Piece] = []
    plain = plain_text(text)

    def add(part: str) -> None:
        for word in _clip_words(part):
            spelt = word.encode("utf-8", "surrogatepass")
            step = 1 + zlib.crc32(spelt) % 4
            for at in range(0, len(spelt), step):
                piece = spelt[at : at + step]
                ids.append(zlib.crc32(piece + b"/" * (at + step >= len(spelt))))
                words.append(word)
                pieces.append(piece)

    cursor = 0
    for atom in atoms(plain):
        if EMBEDDED.fullmatch(atom.text):
            add(plain[cursor : atom.start])
            for _ in range(EMBEDDINGS.get(atom.text, 0)):
                ids.append(None)
                words.append("")
                pieces.append(Vectors(atom.start))
            cursor = atom.end
    add(plain[cursor:])
    positions = tuple(n // (CHUNK - 2) * CHUNK + n % (CHUNK - 2) + 1 for n in range(len(ids)))
    known = spell(pieces, plain, lambda name: EMBEDDINGS.get("embedding:" + name, 0) > 0)
    assert known is not None, (text, pieces)
    return EncodedPrompt(tuple(ids), tuple(words), positions, plain, *known)


def spoken(prompt: str, phrase: str, tokenizer=encode) -> str:
    """The characters of the prompt that the phrase's tokens spell."""
    encoded = tokenizer(prompt)
    (positions,) = found(prompt, tokenizer, phrase)
    assert positions, (prompt, phrase)
    places = [encoded.places[encoded.index.at[p]] for p in positions]
    return encoded.text[places[0][0] : places[-1][1]]


@given(wordings())
@example(("a woman's dog and a woman", "woman", "woman"))
@example(("a red, shiny car and a red shiny car", "a red shiny car", "a red shiny car"))
@example(("a red car and embedding:charA. embedding:charA, ", "embedding:charA", "embedding:charA"))
@example(("embedding:nobody embedding:charA girl", "embedding:charA girl", "embedding:charA"))
@example(("a cat (; (embedding:charA:1.1), ", "cat (; (embedding:charA", "cat (; (embedding:charA"))
def test_what_is_given_is_found(case: tuple[str, str, str]) -> None:
    holds_together(*case, encode)
    holds_together(*case, plain_prompt_of)


def plain_prompt_of(text: str) -> EncodedPrompt:
    return plain_prompt(plain_text(text))


ZH = "\u4e00\u53ea\u7ea2\u8272\u7684\u732b\u548c\u4e00\u4e2a\u84dd\u8272\u7684\u7403"
FOUND = [
    ("a saber \\(fate\\) doll and a red ball", "a saber (fate) doll", "a saber (fate) doll"),
    ("hatsune_miku, red_ball", "hatsune miku", "hatsune_miku"),
    ("a dog\u2019s bowl", "dog's bowl", "dog\u2019s bowl"),
    ("a dog's bowl", "dog\u2019s bowl", "dog's bowl"),
    (ZH, "\u7ea2\u8272\u7684\u732b", "\u7ea2\u8272\u7684\u732b"),
    ("\u8d64\u3044\u732b\u3068\u9752\u3044\u30dc\u30fc\u30eb", "\u9752\u3044\u30dc\u30fc\u30eb",
     "\u9752\u3044\u30dc\u30fc\u30eb"),
    ("\u0e25\u0e39\u0e01\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e41\u0e14\u0e07", "\u0e41\u0e21\u0e27",
     "\u0e41\u0e21\u0e27"),
    ("a caf\u00e9 table", "cafe\u0301 table", "caf\u00e9 table"),
    ("a cafe\u0301 table", "CAF\u00c9 table", "cafe\u0301 table"),
    ("a \U0001f436\U0001f431 pair", "a \U0001f436", "a \U0001f436"),
    ("a (red:1.4) car", "(red car:1.2)", "red car"),
    ("a lamp \\(old:1.2\\)", "lamp (old:1.2)", "lamp (old:1.2"),
    ("\uff32ed car", "red car", "\uff32ed car"),
    ("1girl, 2boys", "girl", "girl"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "phrase", "place"), FOUND)
@pytest.mark.parametrize("tokenizer", [encode, plain_prompt_of])
def test_a_wording_is_found_where_it_stands(prompt, phrase, place, tokenizer) -> None:
    said = spoken(prompt, phrase, tokenizer).rstrip(")")
    # a piece may hold parts of two characters, but never goes across a space
    assert place.rstrip(")") in said and len(said) <= len(place) + 2 * (said.isalpha())


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("concatenate", "cat"), ("a cat", "concatenate"), ("12 cats", "2 cats"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947", "\u0928\u092e\u0938"),
        ("a {red|blue} car", "red blue car"), ("a {red|blue} car", "red car"),
        ("a cat", "a \U0001f436"), ("a \U0001f44d\U0001f3fd", "\U0001f44d"), ("a b", "the a"),
        ("\u7ea2\u732b", "\u7ea2\u8272\u732b"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokenizer", [encode, plain_prompt_of])
def test_what_is_not_there_is_not_found(prompt, phrase, tokenizer) -> None:
    assert found(prompt, tokenizer, phrase) == [()] and not find_phrase(prompt, phrase)


def test_an_emoji_is_what_a_phrase_is_about() -> None:
    prompt = "a \U0001f436 and a ball"
    assert find_phrase(prompt, "a \U0001f436") == [(0, 3)]
    layout = Layout((Region("a \U0001f436", BOX),), prompt)
    encoded = encode(prompt)
    (positions,) = resolve_tokens(layout, encoded, encode)
    assert positions and {encoded.words[encoded.index.at[p]] for p in positions} == {"\U0001f436"}


def suggested(prompt: str, phrase: str) -> str | None:
    layout = Layout((Region(phrase, BOX),), prompt)
    (entry,) = describe_match(layout, encode(prompt), encode)["regions"]
    assert not entry["found"]
    return entry["suggestion"]


@pytest.mark.parametrize(
    ("prompt", "phrase", "near"),
    [
        ("a red star and a blue circle", "a red stra", "a red star"),
        ("a red star and a blue circle", "red stra", "red star"),
        ("a red star and a blue circle", "the red stra", "red star"),
        ("a dog\u2019s bowl, a cat", "a dogs bowl", "a dog\u2019s bowl"),
        ("a red, shiny car", "a red, shiny cra", "a red, shiny car"),
        ("hatsune_miku, red_ball", "hatsune mikku", "hatsune_miku"),
        ("a saber \\(fate\\) doll", "saber fate dol", "saber (fate) doll"),
        ("a {red|blue} car", "blue carr", "blue"),
        ("a {cherry|apple} tree", "cherry appletree", None),
        ("__animal__ with eyes", "animal eyes", "animal"),
        ("embedding:charA girl", "a girrl", "girl"),
        (ZH, "\u84dd\u8272\u5927\u7403", "\u84dd\u8272\u7684\u7403"),
        ("a red car", "zebra crossing", None),
    ],
)
def test_a_suggestion_is_a_wording_that_is_found(prompt, phrase, near) -> None:
    assert suggested(prompt, phrase) == near
    assert near is None or found(prompt, encode, near) != [()]


def test_the_nearest_wording_keeps_its_article_and_signs() -> None:
    assert nearest_wording("a red star, a dog\u2019s bowl", "a red stars") == "a red star"
    assert nearest_wording("a red star, a dog\u2019s bowl", "a dogs bowl") == "a dog\u2019s bowl"


def test_rules_keep_brackets_and_leave_embeddings_out() -> None:
    prompt = "a saber \\(fate\\) doll and a red ball"
    regions = plan_by_rules(prompt).regions
    assert [region.phrase for region in regions] == ["a saber (fate) doll", "a red ball"]
    plan = plan_by_rules("embedding:charA and a red ball")
    assert [region.phrase for region in plan.regions] == ["a red ball"]
    assert any("'embedding:charA' (a textual embedding)" in note for note in plan.notes)
    for prompt in ("a embedding:charA girl and a ball", "a girl, (embedding:charA:1.2), a ball"):
        phrases = [region.phrase for region in plan_by_rules(prompt).regions]
        assert "a ball" in phrases and not any("embedding" in phrase for phrase in phrases)


def test_a_later_mention_is_the_one_that_is_meant() -> None:
    """Counted as the sampler counts, whatever stands between."""
    for prompt in (
        "a woman's dog and a woman", "a red, shiny car and a red shiny car", "12 cats and 2 cats",
    ):  # fmt: skip
        plan = plan_by_rules(prompt)
        encoded = encode(prompt)
        matches = match_regions(Layout(plan.regions, prompt), encoded, encode)
        last = encoded.places[encoded.index.at[matches[-1].positions[0]]]
        assert encoded.text[last[0] :].startswith(plan.regions[-1].phrase), prompt


def test_an_embedding_is_found_or_named() -> None:
    prompt = "embedding:charA and a red ball, embedding:nobody"
    assert found(prompt, encode, "embedding:charA") == [(1, 2, 3)]
    layout = Layout((Region("embedding:nobody", BOX),), prompt)
    with pytest.raises(RealCompoError, match="region 1: .*'nobody', which is not there"):
        resolve_tokens(layout, encode(prompt), encode)
    answer = describe_match(layout, encode(prompt), encode)
    assert answer["regions"][0]["suggestion"] is None and answer["things"] == ["a red ball"]


def test_free_things_are_those_that_no_region_speaks_of() -> None:
    prompt = "A Red Star, a blue circle and a blue circle on hatsune_miku"
    layout = Layout((Region("the red star", BOX), Region("a blue circle", BOX)), prompt)
    answer = describe_match(layout, encode(prompt), encode)
    assert answer["things"] == ["a red star", *["a blue circle"] * 2, "hatsune_miku"]
    assert answer["free"] == ["a blue circle", "hatsune_miku"]


def test_words_stand_in_the_typed_text() -> None:
    prompt = "a (\U0001f436:1.2), \\(caf\u00e9\\) " + ZH
    layout = Layout((Region("\u7ea2\u8272\u7684\u732b", BOX), Region("a \U0001f436", BOX)), prompt)
    answer = describe_match(layout, plain_prompt_of(prompt), plain_prompt_of)
    words = [prompt[word["start"] : word["end"]] for word in answer["words"]]
    shown = ["".join(words[n] for n in entry["words"]) for entry in answer["regions"]]
    assert shown == ["\u7ea2\u8272\u7684\u732b", "a\U0001f436"]
    assert words[:2] == ["a", "\U0001f436"] and "caf\u00e9" in words


def test_weights_in_training_prompts_are_taken_out() -> None:
    (one,) = parse_lines("a (red:1.3) star and a blue circle")
    assert one.text == "a red star and a blue circle"
    assert one.objects == ("a red star", "a blue circle")
    (two,) = parse_lines("a (red:1.3) star and a \\(big\\) dog | (red star:1.2) | a \\(big\\) dog")
    assert two.text == "a red star and a \\(big\\) dog"
    assert two.objects == ("red star", "a \\(big\\) dog")
    (three,) = parse_lines("a {red|blue} car and a dog | a {red|blue} car | a dog")
    assert three.objects == ("a {red|blue} car", "a dog")


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a (red car", "a (red car"), ("a red) car (x)", "a red) car (x)"),
        ("(a:1e1) (b: +.5 )", "a b"), ("(:1.2)", ":1.2"), ("(a:b)", "a:b"),
        ("big(red:1.2)car", "big red car"), ("a(,:1.2)b", "a,b"),
        ("x(embedding:charA)", "x embedding:charA"),
        ("(embedding:charA:1.2). A cat", "embedding:charA . A cat"),
        ("\\(a (b:1.2)\\)", "(a b)"), ("(a (b (c:1.2)", "a (b (c"), ("((a:1.3):1.2)", "a"),
    ],
)  # fmt: skip
def test_weights_are_read_as_the_host_reads_them(prompt: str, plain: str) -> None:
    assert plain_text(prompt) == plain


@given(prompts)
def test_escaped_text_is_the_same_text(prompt: str) -> None:
    plain = plain_text(prompt)
    assert plain_text(escaped(plain)) == plain


@given(wordings())
def test_words_are_slices(case: tuple[str, str, str]) -> None:
    plain = plain_text(case[0])
    for word in words_of(plain):
        assert 0 <= word.start < word.end <= len(plain) and word.text
    for atom in atoms(plain):
        assert 0 <= atom.start < atom.end <= len(plain)


def test_long_prompts_are_searched_in_time() -> None:
    """20 kB of prompt, 64 phrases that are not in it: well under a second on a quick machine."""
    words = [f"{a}{b}{c}" for a in "abdegklmnprst" for b in "aeiou" for c in "dglmnrstz"]
    prompt = " ".join(words[(7 * n * n + 3 * n) % len(words)] for n in range(5000))
    foreign = [f"the {w}ish {w[::-1]} {w}o near{w} a {w}{w}" for w in words[:64]]
    layout = Layout(tuple(Region(phrase, BOX) for phrase in foreign), prompt)
    encoded = encode(prompt)
    start = time.process_time()
    matches = match_regions(layout, encoded, encode)
    for phrase in foreign:
        nearest_wording(prompt, phrase)
    taken = time.process_time() - start
    assert not any(match.positions for match in matches) and taken < 3.0
    answer = '{"regions": [' + ",".join(
        f'{{"phrase": "{phrase}", "box": [0, 0, 1, 1]}}' for phrase in foreign
    ) + "]}"
    start = time.process_time()
    read_answer(answer, prompt)
    assert time.process_time() - start < 3.0
