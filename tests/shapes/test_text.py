"""The text encoder behind ComfyUI's own tokenizer and CLIP classes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from realcompo.shapes.world import COLOURS, SHAPES, WORDS, make_caption, make_scenes


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
        assert max(owners) == len(scene.objects) - 1


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
