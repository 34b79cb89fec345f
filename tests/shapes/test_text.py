"""The text encoder behind ComfyUI's own tokenizer and CLIP classes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from realcompo.shapes.text import END, START
from realcompo.shapes.world import (
    COLOURS,
    NUMBERS,
    PLURALS,
    SHAPES,
    WORDS,
    make_caption,
    make_scenes,
)


@pytest.fixture(scope="module")
def clip() -> Any:
    from realcompo.shapes.host_models import load_demo

    with torch.inference_mode():
        return load_demo("realistic", "realism")[1]


def encode(clip: Any, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")


def test_training_and_host_tokenize_alike(clip: Any) -> None:
    from realcompo.shapes.train_text import CaptionTokens, word_ids

    assert set(word_ids()) == set(WORDS)
    captions, rng = CaptionTokens(), random.Random(1)
    for scene in make_scenes(40, torch.Generator().manual_seed(1)):
        caption = make_caption(scene, rng)
        tokens, owners = captions.encode(caption)
        assert [t for t, _ in clip.tokenize(caption.text)["l"][0]] == tokens
        assert set(owners) == {-1, *scene.groups}


def test_shapes_and_pooled(clip: Any) -> None:
    vectors, pooled = encode(clip, "a red circle")
    assert vectors.shape == (1, 77, 64) and pooled.shape == (1, 64)
    assert torch.isfinite(vectors).all()
    assert encode(clip, "")[1].shape == (1, 64)


def test_phrase_vector_means_the_noun_wherever_it_stands(clip: Any) -> None:
    alone = encode(clip, "a red star")[1]
    later = encode(clip, "a blue circle and a red star")[1]
    assert torch.allclose(alone, later, atol=1e-5)
    everything = {f"{c} {s}": encode(clip, f"a {c} {s}")[1][0] for c in COLOURS for s in SHAPES}
    stacked = torch.stack(list(everything.values()))
    distances = torch.cdist(stacked, stacked) + torch.eye(len(stacked)) * 99
    assert distances.min() > 1


def test_noun_sees_its_colour_and_no_further(clip: Any) -> None:
    one = encode(clip, "a red star and a blue circle")[0][0]
    two = encode(clip, "a green star and a blue circle")[0][0]
    same = (one - two).abs().amax(-1) < 1e-5
    # Only 'red'/'green' (2) and the noun after it (3) differ.
    assert [i for i, equal in enumerate(same.tolist()) if not equal] == [2, 3]


def test_every_word_of_the_world_has_a_vector_of_its_own() -> None:
    from realcompo.shapes.host_models import read_weights
    from realcompo.shapes.train_text import known_ids, word_ids

    known = read_weights("text.safetensors")[0]["known"]
    assert torch.equal(known, known_ids(word_ids()))


def test_plurals_mean_their_noun_and_colour_and_numbers_differ(clip: Any) -> None:
    many = {
        f"{c} {s}": encode(clip, f"two {c} {PLURALS[s]}")[1][0] for c in COLOURS for s in PLURALS
    }
    stacked = torch.stack(list(many.values()))
    distances = torch.cdist(stacked, stacked) + torch.eye(len(stacked)) * 99
    assert distances.min() > 1
    counted = [encode(clip, f"{n} red stars")[0][0] for n in NUMBERS.values()]
    for place, one in enumerate(counted):
        for other in counted[:place]:
            # The number's own token tells it; the noun looks back to its colour only.
            assert (one[1] - other[1]).abs().max() > 0.5
            assert (one[3] - other[3]).abs().max() < 1e-5


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """An encoder that knew singulars only, and what a few steps with all words make of it."""
    from realcompo.shapes.train_text import CompactText, known_ids, text_state, train_text, word_ids

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("text")
    ids = word_ids()
    early = {word: ids[word] for word in (*COLOURS, *SHAPES, "a", "an", "and", ",")}
    before = CompactText(known_ids(early))
    state = {f"text.{key}": value for key, value in before.state_dict().items()}
    torch.save({"averaged_model": state}, folder / "early.pt")
    train_text(folder, 1.0, 8, False, folder / "early.pt")
    saved = torch.load(folder / "text.pt")
    live = {k[5:]: v for k, v in saved["model"].items() if k.startswith("text.")}
    return {
        "before": text_state(folder / "early.pt"),
        "live": live,
        "averaged": text_state(folder / "text.pt"),
    }


@pytest.mark.parametrize("kind", ["live", "averaged"])
def test_known_words_keep_their_vectors_exactly(
    grown: dict[str, dict[str, torch.Tensor]], kind: str
) -> None:
    from realcompo.shapes.train_text import CompactText, word_ids

    before, after = grown["before"], grown[kind]
    old, new = before["known"], after["known"]
    rows = torch.searchsorted(new, old)
    assert torch.equal(new[rows], old) and len(new) > len(old)
    assert torch.equal(after["table.weight"][rows], before["table.weight"][: len(old)])
    assert torch.equal(after["table.weight"][len(new) :], before["table.weight"][len(old) :])
    for key, value in before.items():
        if key.startswith("trunk."):
            assert torch.equal(after[key], value)
    ids = word_ids()
    tokens = torch.tensor([[START, ids["a"], ids["red"], ids["star"], *[END] * 73]])
    answers = []
    for state in (before, after):
        text = CompactText(state["known"])
        text.load_state_dict(state)
        answers.append(text(tokens)[0])
    assert torch.equal(*answers)


def test_new_words_are_learned_and_plurals_start_as_their_singulars(
    grown: dict[str, dict[str, torch.Tensor]],
) -> None:
    from realcompo.shapes.train_text import word_ids

    ids, after = word_ids(), grown["live"]

    def vector(word: str) -> torch.Tensor:
        return after["table.weight"][int((after["known"] == ids[word]).nonzero())]

    for one, many in PLURALS.items():
        # Eight small steps from where it began: near its singular, and no longer there.
        near = (vector(many) - vector(one)).norm()
        assert 0 < near < 0.25 * vector(one).norm()


def test_weights_long_prompts_and_unknown_words(clip: Any) -> None:
    plain, strong = encode(clip, "a red star")[0], encode(clip, "a (red:1.5) star")[0]
    moved = (plain - strong).abs().amax(-1)[0]
    assert moved[2] > 0.05 and moved[3] < 1e-4
    assert encode(clip, "a red star, " * 30)[0].shape == (1, 154, 64)
    assert torch.isfinite(encode(clip, "Donaudampfschiff, masterpiece \u2603")[0]).all()


def test_textual_embedding(tmp_path: Any, clip: Any) -> None:
    from safetensors.torch import save_file

    save_file({"emb_params": torch.full((2, 64), 0.3)}, str(tmp_path / "mine.safetensors"))
    inner = clip.tokenizer.clip_l
    before, inner.embedding_directory = inner.embedding_directory, [str(tmp_path)]
    try:
        with torch.inference_mode():
            told = encode(clip, "embedding:mine star")[0]
    finally:
        inner.embedding_directory = before
    assert told.shape == (1, 77, 64)
    assert (told - encode(clip, "star")[0]).abs().amax() > 0.1
