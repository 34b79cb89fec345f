"""The node's prompt side: phrases among the tokens, their vectors, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("comfy.sd1_clip")
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
from realcompo.balancer.attention.tokens import phrase_spans  # noqa: E402
from realcompo.balancer.comfy.dense.phrases import with_phrases  # noqa: E402
from realcompo.balancer.comfy.text.tokenizer import encode_prompt  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402

from . import tiny  # noqa: E402

BOX = (0.1, 0.1, 0.5, 0.5)
DIM = 64
# Captions with their segments' phrases, largest area first, an empty one for a mute background.
CAPTIONS = [
    ("A lighthouse on a rocky cliff above the stormy sea, gulls around it.",
     ["the stormy sea", "a rocky cliff", "A lighthouse"]),
    ("two foxes and a hedgehog are having a picnic on a checkered blanket in the birch forest",
     ["the birch forest", "a checkered blanket", "two foxes", "a hedgehog"]),
    ("a cat next to a laptop computer", ["", "a cat", "a laptop computer"]),
    ("An oil painting of a robot's hand holding a half-eaten apple; a snow-covered mountain behind",
     ["", "a snow-covered mountain", "a robot's hand", "a half-eaten apple"]),
    ("A red truck parked behind a red fire hydrant",
     ["", "A red truck", "a red fire hydrant"]),
]  # fmt: skip


class Clip:
    """An encoder whose vectors say token, weight and place; two chunks run on as in the host."""

    def __init__(self, tokenizer: Any, dim: int = DIM) -> None:
        self.tokenizer, self.dim = tokenizer, dim

    def tokenize(self, text: str) -> Any:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens(self, tokens: Any, **_: Any) -> torch.Tensor:
        chunks = next(iter(tokens.values()))
        out = torch.zeros(1, 77 * len(chunks), self.dim)
        for place, (token, weight) in enumerate(pair for chunk in chunks for pair in chunk):
            out[0, place, :3] = torch.tensor([float(token), weight, float(place)])
        return out

    def encode_from_tokens_scheduled(self, tokens: Any, **_: Any) -> Any:
        return [[self.encode_from_tokens(tokens), {"pooled_output": torch.zeros(1, 8)}]]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(comfy.sd1_clip.SD1Tokenizer())


def replaced(clip: Clip, layout: Layout) -> tuple[Any, torch.Tensor, torch.Tensor]:
    spans = phrase_spans(layout, encode_prompt(layout.prompt), encode_prompt)
    before = clip.encode_from_tokens(clip.tokenize(layout.prompt))
    kept = before.clone()
    ((after, options),) = with_phrases([[before, {"seen": 1}]], clip, layout, spans)
    assert torch.equal(before, kept) and options == {"seen": 1}
    return spans, before, after


@pytest.mark.parametrize("caption, phrases", CAPTIONS)
def test_captions_with_their_segments(clip, caption, phrases) -> None:
    regions = tuple(Region(phrase, BOX) for phrase in phrases if phrase)
    spans, before, after = replaced(clip, Layout(regions, caption))
    taken = [position for span in spans for position in span]
    assert len(taken) == len(set(taken)), "phrases do not overlap"
    for region, span in zip(regions, spans, strict=True):
        alone = clip.encode_from_tokens(clip.tokenize(region.phrase))[0, 1 : 1 + len(span)]
        assert list(span) == list(range(span[0], span[0] + len(span)))
        assert torch.equal(after[0, list(span)], alone)
        # the very words, standing where the phrase has them
        assert torch.equal(before[0, list(span), 0], alone[:, 0])
        assert torch.equal(before[0, list(span)], alone) == (span[0] == 1)
    others = [n for n in range(77) if n not in taken]
    assert torch.equal(after[0, others], before[0, others])


def test_weights_articles_and_long_prompts(clip) -> None:
    long = ", ".join(f"{n} thing" for n in range(40))
    layout = Layout(
        (Region("a red star", BOX), Region("the blue circle", BOX), Region("x", BOX, tokens=(3,))),
        f"{long}, a (red:1.3) star, blue circle",
    )
    spans, before, after = replaced(clip, layout)
    assert min(spans[0]) > 77
    first, second = (after[0, list(span)] for span in spans[:2])
    assert [round(float(w), 2) for w in first[:, 1]] == [1.0, 1.3, 1.0]
    assert [int(n) for n in first[:, 2]] == [1, 2, 3]
    # 'the' is not in the prompt: the vectors are those of the words after it
    assert len(second) == 2 and [int(n) for n in second[:, 2]] == [2, 3]
    assert torch.equal(after[0, 3], before[0, 3])


def test_two_encoders_side_by_side() -> None:
    """SDXL's tokenizer gives two lists of tokens; weights go into both."""
    seen = {}

    class Double(Clip):
        def encode_from_tokens(self, tokens: Any, **_: Any) -> torch.Tensor:
            seen.update(tokens)
            return super().encode_from_tokens(tokens)

    double = Double(comfy.sdxl_clip.SDXLTokenizer())
    layout = Layout((Region("red star", BOX),), "a (red star:1.2) here")
    replaced(double, layout)
    assert set(seen) == {"l", "g"}
    assert all([w for _, w in chunks[0][1:3]] == [1.2, 1.2] for chunks in seen.values())


def test_a_scheduled_encoder_gives_every_part_its_own(clip) -> None:
    class Scheduled(Clip):
        def encode_from_tokens_scheduled(self, tokens: Any, **_: Any) -> Any:
            vectors = self.encode_from_tokens(tokens)
            return [
                [vectors + 1000 * n, {"clip_start_percent": n / 2, "clip_end_percent": n / 2 + 0.5}]
                for n in range(2)
            ]

    encoder = Scheduled(clip.tokenizer)
    layout = Layout((Region("red star", BOX),), "a red star")
    spans = phrase_spans(layout, encode_prompt(layout.prompt), encode_prompt)
    entries = encoder.encode_from_tokens_scheduled(encoder.tokenize(layout.prompt))
    out = with_phrases(entries[::-1], encoder, layout, spans)
    assert float(out[0][0][0, spans[0][0], 2]) == 1001
    assert float(out[1][0][0, spans[0][0], 2]) == 1


def node(**changes: Any) -> Any:
    from realcompo.nodes.modulation import RealCompoDenseAttention

    layout = Layout((Region("a red star", BOX), Region("a cat", BOX)), "a red star and a cat")
    given = {
        "model": tiny.tiny_unet(1), "clip": Clip(comfy.sd1_clip.SD1Tokenizer()),
        "positive": tiny.conditioning(3), "layout": layout, "cross_strength": 1.0,
        "self_strength": 0.3, "end_fraction": 0.3,
    }  # fmt: skip
    with torch.inference_mode():
        return RealCompoDenseAttention().apply(**{**given, **changes})


def test_the_nodes_outputs() -> None:
    model, positive = node()
    embedding, options = positive[0]
    assert float(embedding[0, 2, 2]) == 2.0, "the phrase's own second word"
    assert torch.equal(node(replace_phrases=False)[1][0][0], tiny.conditioning(3)[0][0])
    plan = options["realcompo_dense"]
    assert plan.regions.tokens == (((1, 2, 3), (5, 6)),), "articles belong to the phrase"
    assert model is not None


@pytest.mark.parametrize(
    "changes, where, words",
    [
        ({"model": None}, "model", "not a MODEL"),
        ({"model": tiny.tiny_flux}, "model", "not a MODEL"),
        ({"positive": "text"}, "positive", "not CONDITIONING"),
        ({"positive": []}, "positive", "empty"),
        ({"layout": None}, "layout", "not a REALCOMPO_LAYOUT"),
        ({"layout": Layout((), "a cat")}, "layout", "no regions"),
        ({"layout": Layout((Region("a dog", BOX),), "a cat")}, "layout", "not in the prompt"),
        ({"layout": Layout((Region("a dog", BOX),))}, "layout", "knows no prompt"),
        ({"layout": Layout((Region("a cat", BOX, tokens=(99,)),), "a cat")}, "positive", "99"),
        ({"clip": None}, "clip", "no text encoder"),
        ({"clip": Clip(comfy.sd1_clip.SD1Tokenizer(), 48)}, "clip", "48 numbers"),
        ({"cross_strength": 3.0}, "cross_strength", "outside 0 to 2"),
        ({"outside": "somewhere"}, "outside", "unknown"),
    ],
)
def test_bad_input_is_refused(changes, where, words) -> None:
    with pytest.raises(RealCompoError, match=words) as caught:
        node(**changes)
    assert (caught.value.node, caught.value.where) == ("Dense Attention (DenseDiffusion)", where)
    assert str(caught.value).endswith(".") and caught.value.__cause__ is None


def test_a_transformer_is_refused() -> None:
    with pytest.raises(RealCompoError, match="no cross-attention blocks"):
        node(model=tiny.tiny_flux(1))
