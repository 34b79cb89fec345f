"""Token positions against the host's own tokenizers and CLIPTextEncode's conditioning layout."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("comfy.sd1_clip")
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.text_encoders.sd2_clip  # noqa: E402
from realcompo.balancer.attention.tokens import resolve_tokens  # noqa: E402
from realcompo.balancer.comfy.text import tokenizer as text  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.tests.phrases import found  # noqa: E402

BOX = (0.1, 0.1, 0.5, 0.5)
LONG = "a painting of " + ", ".join(f"{n} thing" for n in range(40)) + ", a red star"


def chunk_words(chunks: list[list[tuple]]) -> dict[int, int]:
    """Position -> token id of everything that is real text, straight from the host."""
    return {
        77 * number + index: token
        for number, chunk in enumerate(chunks)
        for index, (token, _, word) in enumerate(chunk)
        if word
    }


@pytest.mark.parametrize("prompt", ["", "a red star", "A (Red:1.3) STAR, on \\(paper\\)", LONG])
def test_positions_equal_those_of_every_clip_family(prompt: str) -> None:
    mine = text.encode_prompt(prompt)
    flat = dict(zip(mine.positions, mine.ids, strict=True))
    sdxl = comfy.sdxl_clip.SDXLTokenizer().tokenize_with_weights(prompt, True)
    sd1 = comfy.sd1_clip.SD1Tokenizer().tokenize_with_weights(prompt, True)
    sd2 = comfy.text_encoders.sd2_clip.SD2Tokenizer().tokenize_with_weights(prompt, True)
    for chunks in (sd1["l"], sdxl["l"], sdxl["g"], sd2["h"]):
        assert chunk_words(chunks) == flat
        assert all(len(chunk) == 77 for chunk in chunks)


@pytest.mark.parametrize(
    ("prompt", "phrase", "words"),
    [
        ("a red car and a dog", "red car", ["red", "car"]),
        ("a (red car:1.2) and a dog", "Red CAR", ["red", "car"]),
        ("a (red:1.4) car", "red car", ["red", "car"]),
        ("two kaleidoscopic armadillos, resting", "kaleidoscopic armadillos", None),
        ("red-haired woman; a cat!", "a cat", ["a", "cat"]),
        ("das M\u00e4dchen lacht", "M\u00e4dchen", None),
    ],
)
def test_phrase_is_found_at_the_right_words(
    prompt: str, phrase: str, words: list[str] | None
) -> None:
    encoded = text.encode_prompt(prompt)
    (span,) = found(prompt, text.encode_prompt, phrase)
    word_at = dict(zip(encoded.positions, encoded.words, strict=True))
    assert span and list(span) == list(range(span[0], span[-1] + 1))
    assert list(dict.fromkeys(word_at[p] for p in span)) == (words or phrase.lower().split())


def test_words_are_whole_across_byte_pairs() -> None:
    encoded = text.encode_prompt("kaleidoscopic M\u00e4dchen")
    assert len(encoded) > 2
    assert set(encoded.words) == {"kaleidoscopic", "m\u00e4dchen"}


def test_long_prompt_continues_in_the_next_chunk() -> None:
    (span,) = found(LONG, text.encode_prompt, "red star")
    chunks = text.clip_tokenizer().tokenize_with_weights(LONG, return_word_ids=True)
    assert span[0] > 77
    inverse = text.clip_tokenizer().inv_vocab
    assert [inverse[chunks[p // 77][p % 77][0]] for p in span] == ["red</w>", "star</w>"]


def test_every_border_between_chunks_keeps_the_phrase() -> None:
    for filler in range(66, 78):
        prompt = "dog " * filler + "red star"
        (span,) = found(prompt, text.encode_prompt, "red star")
        assert len(span) == 2
        assert not {p % 77 for p in span} & {0, 76}


@pytest.fixture
def with_embedding(tmp_path, monkeypatch):
    """A tokenizer that has the textual embedding 'charA', of three vectors."""
    from safetensors.torch import save_file

    save_file({"clip_l": torch.zeros(3, 768)}, tmp_path / "charA.safetensors")
    monkeypatch.setattr(
        text, "_tokenizer", comfy.sd1_clip.SDTokenizer(embedding_directory=[str(tmp_path)])
    )


@pytest.mark.parametrize(
    ("prompt", "phrase", "positions"),
    [
        ("embedding:charA and a red ball", "embedding:charA", (1, 2, 3)),
        ("embedding:charA and a red ball", "red ball", (6, 7)),
        ("a (embedding:charA:1.2), a ball", "embedding:charA", (2, 3, 4)),
        ("a embedding:charA, girl", "a embedding:charA girl", (2, 3, 4, 6)),
        ("a dog, embedding:charA", "dog", (2,)),
    ],
)
def test_a_textual_embedding_is_found_by_its_name(
    with_embedding, prompt: str, phrase: str, positions: tuple[int, ...]
) -> None:
    layout = Layout((Region(phrase, BOX),), prompt)
    encoded = text.encode_prompt(prompt)
    assert resolve_tokens(layout, encoded, text.encode_prompt) == (positions,)


def test_an_embedding_that_is_not_there_is_named(with_embedding) -> None:
    prompt = "embedding:charB and embedding:charA and a red ball"
    layout = Layout((Region("red ball", BOX), Region("a embedding:charB", BOX)), prompt)
    with pytest.raises(RealCompoError, match="region 2: .* the embedding 'charB'.*not there"):
        resolve_tokens(layout, text.encode_prompt(prompt), text.encode_prompt)


def test_conditioning_of_cliptextencode_changes_only_from_the_phrase_on(tmp_path) -> None:
    """CLIP is causal: another word at the span changes the conditioning there, not before."""
    torch.manual_seed(0)
    with torch.inference_mode():
        config = {
            "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32,
            "intermediate_size": 64, "hidden_act": "quick_gelu", "vocab_size": 49408,
            "max_position_embeddings": 77, "eos_token_id": 49407, "layer_norm_eps": 1e-5,
            "num_positions": 77, "projection_dim": 32,
        }  # fmt: skip
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        model = comfy.sd1_clip.SDClipModel(
            device="cpu", textmodel_json_config=str(file), dtype=torch.float32
        )
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
        tokenizer = text.clip_tokenizer()

        def conditioning(prompt: str) -> torch.Tensor:
            return model.encode_token_weights(tokenizer.tokenize_with_weights(prompt))[0]

        prompt = LONG
        (span,) = found(prompt, text.encode_prompt, "red star")
        moved = (conditioning(prompt) - conditioning(prompt.replace("red", "blue"))).abs().sum(-1)
    assert int(moved[0].nonzero()[0]) == span[0]


def test_resolve_names_the_nearest_wording() -> None:
    prompt = text.encode_prompt("a photo of a red car beside two dogs")
    with pytest.raises(RealCompoError, match=r"region 2: the phrase 'red cars'.*'red car'"):
        resolve_tokens(
            Layout((Region("two dogs", BOX), Region("red cars", BOX))), prompt, text.encode_prompt
        )
