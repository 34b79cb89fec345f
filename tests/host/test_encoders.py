"""Token positions of T5, SD3 and Qwen-Image, against the host's own tokenizers and encoders."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("comfy.text_encoders.qwen_image")

from realcompo.balancer.comfy.attention import families, qwen_image, t5  # noqa: E402
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402

from . import tiny, tiny_dit  # noqa: E402

BOX = (0.1, 0.1, 0.5, 0.5)
LONG = "a painting of " + ", ".join(f"{n} thing" for n in range(90)) + ", a red star"


@lru_cache
def tokenizer_of(module: str, name: str) -> Any:
    """One of the host's own tokenizers; reading their files takes a second."""
    return getattr(importlib.import_module(f"comfy.text_encoders.{module}"), name)()


class Rows:
    """A text encoder of the host that returns, for each token, a row that begins with its id."""

    def __init__(self, width: int, fill: float = 0.0) -> None:
        self.width, self.fill = width, fill

    def encode_token_weights(self, chunks: Any) -> tuple[Tensor, Tensor]:
        ids = [entry[0] for chunk in chunks for entry in chunk]
        rows = torch.full((1, len(ids), self.width), self.fill)
        rows[0, :, 0] = torch.tensor([float(i) if isinstance(i, int) else -1.0 for i in ids])
        return rows, torch.zeros(1, self.width)


def host_encoder(kind: type, **parts: Any) -> Any:
    """The host's encoder around other parts, without its gigabytes."""
    encoder = kind.__new__(kind)
    torch.nn.Module.__init__(encoder)
    for name, part in parts.items():
        setattr(encoder, name, part)
    return encoder


def flux_conditioning(prompt: str) -> Any:
    from comfy.text_encoders.flux import FluxClipModel

    encoder = host_encoder(FluxClipModel, clip_l=Rows(768), t5xxl=Rows(4096, 1.0))
    rows, pooled = encoder.encode_token_weights(
        tokenizer_of("flux", "FluxTokenizer").tokenize_with_weights(prompt)
    )
    return [[rows, {"pooled_output": pooled}]]


def sd3_conditioning(prompt: str, clip: bool = True, t5: bool = True) -> Any:
    from comfy.text_encoders.sd3_clip import SD3ClipModel

    encoder = host_encoder(
        SD3ClipModel, clip_l=Rows(768, 1.0) if clip else None,
        clip_g=Rows(1280, 1.0) if clip else None, t5xxl=Rows(4096, 1.0) if t5 else None,
        t5_attention_mask=False,
    )  # fmt: skip
    rows, pooled, _ = encoder.encode_token_weights(
        tokenizer_of("sd3_clip", "SD3Tokenizer").tokenize_with_weights(prompt)
    )
    return [[rows, {"pooled_output": pooled}]]


def spelt(conditioning: Any, positions: tuple[int, ...]) -> list[str]:
    """The pieces whose rows stand at ``positions``, CLIP's told from T5's by the upper channels."""
    from realcompo.balancer.comfy.text.tokenizer import clip_tokenizer

    out = []
    for row in conditioning[0][0][0, list(positions)]:
        by_t5 = bool(row[2048:].any())
        vocabulary = (t5._tokenizer() if by_t5 else clip_tokenizer()).inv_vocab
        out.append(("t5:" if by_t5 else "clip:") + vocabulary[int(row[0])])
    return out


def layout_of(prompt: str, *phrases: str) -> Layout:
    return Layout(tuple(Region(phrase, BOX) for phrase in phrases), prompt)


def located(model: Any, conditioning: Any, prompt: str, *phrases: str) -> Any:
    return families.locate(layout_of(prompt, *phrases), model.model, conditioning, "positive")


@pytest.fixture(scope="module")
def flux():
    return tiny_dit.flux(1, context=4096)


@pytest.fixture(scope="module")
def sd3():
    return tiny_dit.sd3(1, context=4096)


@pytest.fixture(scope="module")
def qwen():
    return tiny_dit.qwen_image(1, context=3584)


T5_CASES = [
    ("a red car and a dog", "red car", "\u2581red \u2581car"),
    ("a (red car:1.2) and a dog", "red car", "\u2581red \u2581car"),
    ("a (red:1.4) car", "a red car", "\u2581red \u2581car"),
    ("Red Car, (a dog)", "red car", "\u2581Red \u2581Car"),
    ("RED CARS. a red car!", "red car", "\u2581red \u2581car"),
    ("a catalog of a cat", "cat", "\u2581cat"),
    ("two kaleidoscopic armadillos, resting", "armadillos", "arma d il los"),
    ("das M\u00e4dchen lacht", "m\u00e4dchen", "\u2581M\u00e4dchen"),
    ("red-haired woman; a cat!", "red-haired woman", "\u2581red hair e d \u2581woman"),
    ("\\(a red car\\) on paper", "red car", "\u2581red \u2581car"),
    (LONG, "red star", "\u2581red \u2581star"),
]


@pytest.mark.parametrize(("prompt", "phrase", "pieces"), T5_CASES)
def test_flux_rows_at_the_positions_spell_the_phrase(flux, prompt, phrase, pieces) -> None:
    conditioning = flux_conditioning(prompt)
    (positions,) = located(flux, conditioning, prompt, phrase)
    found = spelt(conditioning, positions)
    assert found == ["t5:" + piece for piece in pieces.split(" ")]


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("prompt", ["a (red star:1.3), a blue circle", "Red Star on a roof", LONG])
def test_sd3_rows_of_every_make_up(sd3, prompt, parts) -> None:
    """CLIP and T5 in one row, or one of them alone: told by what the conditioning is made of."""
    conditioning = sd3_conditioning(prompt, *parts)
    (positions,) = located(sd3, conditioning, prompt, "red star")
    found = spelt(conditioning, positions)
    wanted = ["clip:red</w>", "clip:star</w>"] * parts[0]
    t5 = [piece.lower() for piece in found[len(wanted) :]]
    assert found[: len(wanted)] == wanted
    assert t5 == ["t5:\u2581red", "t5:\u2581star"] * parts[1]
    assert "a blue" not in prompt or len(located(sd3, conditioning, prompt, "circle")[0]) == sum(
        parts
    )


QWEN_CASES = [
    ("red car and a dog", "red car", ["red", " car"]),
    ("a red car and a dog", "Red Car", [" red", " car"]),
    ("a (red car:1.2) and a dog", "red car", ["red", " car"]),
    ("\\(a Dog\\), caf\u00e9", "a dog", [" Dog"]),
    ("kaleidoscopic sky, a kaleidoscopic armadillo", "armadillo", None),
    ("\u4e00\u8f86\u7ea2\u8272\u7684\u6c7d\u8f66\u505c\u5728\u6811\u65c1", "\u6c7d\u8f66",
     ["\u6c7d\u8f66"]),
    ("a user and an assistant", "assistant", [" assistant"]),
    ("sky\nand a cat", "cat", [" cat"]),
]  # fmt: skip


def qwen_conditioning(prompt: str) -> Any:
    from comfy.text_encoders.qwen_image import QwenImageTEModel

    class Masked(Rows):
        def encode_token_weights(self, chunks: Any) -> Any:
            rows, pooled = super().encode_token_weights(chunks)
            return rows, pooled, {"attention_mask": torch.ones(rows.shape[:2])}

    tokenizer = tokenizer_of("qwen_image", "QwenImageTokenizer")
    encoder = host_encoder(
        QwenImageTEModel, clip_name="qwen25_7b", clip="qwen25_7b", qwen25_7b=Masked(3584)
    )
    rows, _, extra = encoder.encode_token_weights(tokenizer.tokenize_with_weights(prompt))
    assert "attention_mask" not in extra
    return [[rows, {}]]


@pytest.mark.parametrize(("prompt", "phrase", "pieces"), QWEN_CASES)
def test_qwen_rows_at_the_positions_spell_the_phrase(qwen, prompt, phrase, pieces) -> None:
    conditioning = qwen_conditioning(prompt)
    (positions,) = located(qwen, conditioning, prompt, phrase)
    tokenizer = qwen_image._tokenizer().qwen25_7b.tokenizer
    ids = conditioning[0][0][0, list(positions), 0].long().tolist()
    assert tokenizer.decode(ids).strip().casefold().endswith(phrase.casefold().split()[-1])
    if pieces is not None:
        assert [tokenizer.decode([i]) for i in ids] == pieces


def test_qwens_language_model_changes_from_the_phrase_on(monkeypatch) -> None:
    """The host's own causal model, tiny: another word moves its conditioning there, not before."""
    import comfy.text_encoders.qwen_vl as vision
    from comfy.text_encoders.qwen_image import QwenImageTEModel

    monkeypatch.setattr(vision, "Qwen2VLVisionTransformer", lambda **kwargs: torch.nn.Identity())
    sizes = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    with torch.inference_mode():
        options = {"qwen25_7b_model_config": sizes}
        encoder = QwenImageTEModel(device="cpu", dtype=torch.float32, model_options=options)
        tiny.randomize(encoder, 1)
        tokenizer = tokenizer_of("qwen_image", "QwenImageTokenizer")

        def rows(prompt: str) -> Tensor:
            return encoder.encode_token_weights(tokenizer.tokenize_with_weights(prompt))[0][0]

        prompt = "a painting of a house, (a red car:1.2) and a dog"
        moved = (rows(prompt) - rows(prompt.replace("red", "blue"))).abs().sum(-1)
    found = qwen_image.qwen_words(prompt)
    assert found is not None
    words, length = found
    assert length == rows(prompt).shape[0]
    first = words.tokens[words.prompt.words.index("red")][0]
    assert int(moved.nonzero()[0]) == first


def test_occurrences_and_suggestions_work_as_with_clip(flux) -> None:
    prompt = "A corgi, another corgi and two Cats"
    conditioning = flux_conditioning(prompt)
    spans = located(flux, conditioning, prompt, "corgi", "corgi", "two cats")
    spellings = [spelt(conditioning, span) for span in spans]
    assert spellings[0] == spellings[1]
    assert spellings[2] == ["t5:\u2581two", "t5:\u2581Cat", "t5:s"]
    assert spans[0] < spans[1] < spans[2]
    with pytest.raises(RealCompoError, match="Did you mean 'corgi'"):
        located(flux, conditioning, prompt, "corgis")
    explicit = Layout((Region("x", BOX, tokens=(4, 9)), Region("two cats", BOX)), prompt)
    found = families.locate(explicit, flux.model, conditioning, "positive")
    assert found == ((4, 9), spans[2])


def refused(model: Any, conditioning: Any, prompt: str = "a red star") -> None:
    with pytest.raises(RealCompoError, match="token") as caught:
        located(model, conditioning, prompt, "red star")
    assert caught.value.where == "positive"
    assert "token positions" in caught.value.remedy
    explicit = Layout((Region("red star", BOX, tokens=(3,)),), prompt)
    assert families.locate(explicit, model.model, conditioning, "positive") == ((3,),)


def test_conditioning_that_is_something_else_is_refused(flux, sd3, qwen) -> None:
    """Positions are never guessed; explicit ones are always taken."""
    prompt = "a red star"
    both = sd3_conditioning(prompt)[0][0]
    clip = both[:, :77]
    # two prompts joined, all zero, T5 first, a longer prompt's chunks, another width
    for odd in (
        torch.cat([both, both], dim=1), torch.zeros_like(both), both.flip(1),
        torch.cat([clip, both], dim=1), both[..., :2048],
    ):  # fmt: skip
        refused(sd3, [[odd, {}]])
    refused(flux, [[torch.ones(1, 256, 3072), {}]])
    refused(flux, [[torch.ones(1, 3, 4096), {}]])
    good = qwen_conditioning(prompt)[0][0]
    # a picture's tokens in front, another template
    refused(qwen, [[torch.cat([good[:, :1].expand(-1, 20, -1), good], dim=1), {}]])
    own = "<|im_start|>system\nDraw.<|im_end|>\n<|im_start|>user\na red star<|im_end|>\n"
    refused(qwen, qwen_conditioning(own), own)
    refused(qwen, qwen_conditioning("\n\na red star"), "\n\na red star")


def test_a_layout_without_a_prompt_is_told_so(flux, sd3, qwen) -> None:
    for model, text in (
        (flux, flux_conditioning("x")), (sd3, sd3_conditioning("x")),
        (qwen, qwen_conditioning("x")),
    ):  # fmt: skip
        with pytest.raises(RealCompoError, match="knows no prompt"):
            located(model, text, " ", "red star")


def test_the_layout_editor_passes_explicit_positions_on(flux) -> None:
    """The remedy that the refusals name."""
    import json

    from realcompo.nodes.layout_editor import RealCompoLayout

    region = {"phrase": "red star", "box": list(BOX), "tokens": [4, 9]}
    drawn = json.dumps({**Layout((), "a red star").to_dict(), "regions": [region]})
    out = RealCompoLayout().build(layout_json=drawn, prompt="", width=512, height=512)
    layout = out["result"][0]
    odd = [[torch.ones(1, 3, 3072), {}]]
    assert families.locate(layout, flux.model, odd, "positive") == ((4, 9),)


def test_an_unknown_family_is_refused(flux) -> None:
    class Later(type(flux.model)):
        pass

    kept = flux.model.__class__
    flux.model.__class__ = Later
    try:
        refused(flux, flux_conditioning("a red star"))
    finally:
        flux.model.__class__ = kept


def test_unets_are_told_by_clip_as_before() -> None:
    from realcompo.balancer.comfy.inputs.types import resolve

    layout = layout_of("a red star and a (blue circle:1.2)", "a red star", "blue circle")
    model = tiny.tiny_unet(1)
    found = families.locate(layout, model.model, tiny.conditioning(3), "positive")
    assert found == resolve(layout)
