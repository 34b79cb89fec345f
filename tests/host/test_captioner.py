"""Captioners from model folders: BLIP, BLIP-2 and Florence-2 of random weights, read by one way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError

from . import tiny_captioners

pytest.importorskip("transformers")
PICTURES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(1))
TEXTS = ["a red circle and a blue square", "a circle", "blue"]


def tiny_blip(folder: Path) -> Path:
    from realcompo.shapes.captioner import blip_config, write_folder
    from transformers import BlipForConditionalGeneration

    torch.manual_seed(3)
    write_folder(folder, BlipForConditionalGeneration(blip_config()).state_dict(), {})
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "blip": tiny_blip,
    "blip2 opt": tiny_captioners.blip2,
    "blip2 t5": lambda folder: tiny_captioners.blip2(folder, "t5"),
    "florence2": tiny_captioners.florence2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("captioners")
    result = {}
    for name, make in FAMILIES.items():
        folder = base / name.replace(" ", "-")
        folder.mkdir()
        result[name] = make(folder)
    return result


@pytest.fixture(scope="module")
def captioners(folders: dict[str, Path]) -> dict[str, Any]:
    from realcompo.balancer.comfy.captions.captioner_folder import load_captioner

    # as a node is run
    with torch.inference_mode():
        return {name: load_captioner(folder) for name, folder in folders.items()}


@pytest.fixture(params=list(FAMILIES))
def captioner(request: pytest.FixtureRequest, captioners: dict[str, Any]) -> Any:
    return captioners[request.param]


@pytest.fixture
def in_executor() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_a_caption_per_picture_in_order_and_none_longer_than_asked(
    captioner: Any, in_executor: None
) -> None:
    told = captioner.caption(PICTURES, longest=4)
    assert len(told) == 3 and all(isinstance(text, str) for text in told)
    assert all(len(text.replace(",", " ,").split()) <= 4 for text in told)
    assert captioner.caption(PICTURES[1:2], longest=4) == told[1:2]


def test_a_caption_is_what_the_model_finds_likeliest_word_by_word(captioner: Any) -> None:
    family, model = captioner.family, captioner.module
    pixels = captioner.preparation(PICTURES[:1])
    begin = torch.tensor([family.begin(captioner.tokenizer, "a photo of")])
    with torch.no_grad():
        told = family.generate(model, pixels, begin, max_new_tokens=5, do_sample=False)
        if getattr(model.config, "is_encoder_decoder", False) or told[0, 0] in (0, 2):
            told = told[:, 1:]
        logits = family.logits(model, pixels, begin, told)
    assert torch.equal(logits.argmax(-1), told)


def test_likelihood_is_the_librarys_own_loss(captioners: dict[str, Any]) -> None:
    captioner = captioners["blip"]
    ids = torch.tensor([captioner.family.begin(captioner.tokenizer, "")
                        + captioner.family.text(captioner.tokenizer, TEXTS[0])])  # fmt: skip
    with torch.no_grad():
        own = captioner.module(
            pixel_values=captioner.preparation(PICTURES[:1]), input_ids=ids, labels=ids
        ).loss
        ours = captioner.likelihood(PICTURES[:1], TEXTS[:1])
    torch.testing.assert_close(-own[None], ours)


def test_likelihoods_of_a_batch_are_those_of_its_pictures(captioner: Any) -> None:
    with torch.no_grad():
        together = captioner.likelihood(PICTURES, TEXTS, "a photo of")
        alone = [
            captioner.likelihood(PICTURES[i : i + 1], TEXTS[i : i + 1], "a photo of")
            for i in range(3)
        ]
    assert bool((together <= 0).all())
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_pictures_of_a_captioner_loaded_in_inference_mode(
    captioner: Any,
) -> None:
    from realcompo.balancer.comfy.autograd.inference_weights import (
        gradient_mode,
        without_inference_tensors,
    )

    with gradient_mode(), without_inference_tensors((captioner.module,)):
        pictures = PICTURES.clone().requires_grad_(True)
        captioner.likelihood(pictures, TEXTS).sum().backward()
    assert pictures.grad is not None
    assert bool((pictures.grad.flatten(1).abs().sum(1) > 0).all())
    assert all(p.grad is None for p in captioner.module.parameters())


def test_prompts_that_cannot_be_read_are_refused(captioners: dict[str, Any]) -> None:
    with pytest.raises(RealCompoError, match="it is empty"):
        captioners["blip"].likelihood(PICTURES[:1], ["  "])
    with pytest.raises(RealCompoError, match="tokens, the captioner reads up to"):
        captioners["blip"].likelihood(PICTURES[:1], ["red " * 60])


def test_a_prefix_is_no_part_of_the_caption(captioners: dict[str, Any]) -> None:
    told = captioners["blip"].caption(PICTURES[:1], "a photo of", 3)
    assert not told[0].startswith("a photo of") and len(told[0].split()) <= 3


def test_pictures_are_prepared_as_the_folder_says(folders: dict[str, Path]) -> None:
    from realcompo.balancer.comfy.captions.captioner_pictures import Preparation

    squashed = Preparation((8, 8), None, (0.5,) * 3, (0.25,) * 3)(PICTURES)
    assert squashed.shape == (3, 3, 8, 8)
    assert float(squashed.min()) >= -2 and float(squashed.max()) <= 2
    same = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(
        Preparation((8, 8), None, (0.5,) * 3, (0.25,) * 3)(same), (same - 0.5) / 0.25
    )
    # the middle of a wide picture, whose height is brought to the shortest edge
    wide = torch.zeros(1, 3, 16, 32)
    wide[..., 8:24] = 1.0
    cropped = Preparation((8, 8), 8, (0.0,) * 3, (1.0,) * 3)(wide)
    assert cropped.shape == (1, 3, 8, 8) and float(cropped[..., 1:-1].min()) > 0.9


def test_the_stop_button_stops_a_caption(captioners: dict[str, Any]) -> None:
    import comfy.model_management as management

    management.interrupt_current_processing()
    try:
        with pytest.raises(management.InterruptProcessingException):
            captioners["blip"].caption(PICTURES, longest=30)
    finally:
        management.interrupt_current_processing(False)


def _copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_folders_that_are_no_captioners_say_what_is_wrong(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from realcompo.balancer.comfy.captions.captioner_folder import load_captioner

    def refused(folder: Path, match: str) -> None:
        with pytest.raises(RealCompoError, match=match) as told:
            load_captioner(folder)
        assert str(tmp_path) not in str(told.value).split("cannot be loaded")[0]

    refused(tmp_path / "nothing", "config.json of 'nothing' cannot be read: No such file")
    other = _copy(folders["blip"], tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    refused(other, "is a 'llama' model, not a captioner")
    pickled = _copy(folders["blip"], tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, "holds no .safetensors weights")
    broken = _copy(folders["blip"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"junk")
    refused(broken, "cannot be loaded")
    config = json.loads((folders["blip"] / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 3
    deeper = _copy(folders["blip"], tmp_path / "deeper")
    (deeper / "config.json").write_text(json.dumps(config), encoding="utf-8")
    refused(deeper, "of the model's open")


def test_model_folders_are_found_by_their_names_alone(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths
    from realcompo.balancer.comfy.captions import model_folders

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    assert model_folders.names("captioners") == []
    _copy(folders["blip"], tmp_path / "captioners" / "owner" / "small")
    _copy(folders["florence2"], tmp_path / "LLM" / "florence")
    (tmp_path / "LLM" / "chat").mkdir()
    (tmp_path / "LLM" / "chat" / "config.json").write_text('{"model_type": "qwen2"}')
    assert model_folders.names("captioners") == ["owner/small", "florence"]
    assert model_folders.names("sentence_encoders") == []
    found = model_folders.find("captioners", "owner/small", "folder")
    assert found == tmp_path / "captioners" / "owner" / "small"
    for outside in ("../LLM/florence", str(found), "chat", ""):
        with pytest.raises(RealCompoError, match="there is no model"):
            model_folders.find("captioners", outside, "folder")
