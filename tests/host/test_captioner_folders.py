"""Captioner folders that are cut, odd or hostile: one sentence each, and the list stays whole."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError

from . import tiny_captioners
from .test_captioner import tiny_blip

pytest.importorskip("transformers")
MUTATIONS = int(os.environ.get("REALCOMPO_MUTATIONS", "24"))
LOADER = "Load Captioner (after RealignDiff)"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("originals")
    makers: dict[str, Callable[[Path], Path]] = {
        "blip": tiny_blip, "blip2": tiny_captioners.blip2, "florence2": tiny_captioners.florence2,
    }  # fmt: skip
    for name, make in makers.items():
        (base / name).mkdir()
        make(base / name)
    return {name: base / name for name in makers}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    (tmp_path / "captioners").mkdir()
    return tmp_path / "captioners"


def refused(name: str) -> RealCompoError:
    from realcompo.nodes.realignment_caption import RealCompoLoadCaptioner

    with torch.inference_mode(), pytest.raises(RealCompoError) as told:
        RealCompoLoadCaptioner().load(name)
    text = str(told.value)
    assert text.startswith(f"{LOADER}, input 'folder': ") and "\n" not in text and len(text) < 700
    return told.value


def _change(folder: Path, file: str, change: Callable[[Any], Any]) -> None:
    value = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(change(value) or value), encoding="utf-8")


@pytest.mark.parametrize("family", ["blip", "blip2", "florence2"])
def test_a_folder_without_its_tokenizer_is_refused(models, originals, family) -> None:
    folder = shutil.copytree(originals[family], models / family)
    gone = ("tokenizer", "vocab", "merges", "spiece", "special_tokens")
    for path in list(folder.iterdir()):
        if path.name.startswith(gone):
            path.unlink()
    error = refused(family)
    assert "holds no tokenizer" in error.problem and "tokenizer.json" in error.remedy


def _settings(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _change(folder, "config.json", lambda value: {**value, **changes})


def _pictures(**changes: Any) -> Callable[[Path], None]:
    file = "preprocessor_config.json"
    return lambda folder: _change(folder, file, lambda value: {**value, **changes})


def _text(file: str, text: str | bytes) -> Callable[[Path], None]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / file).write_bytes(data) and None


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_settings(text_config="x"), "'text_config' in config.json"),
        (_settings(vision_config=[1]), "'vision_config' in config.json"),
        (_pictures(size=-4), "an edge is -4"), (_pictures(size=10**9), "an edge is 1000000000"),
        (_pictures(size={"height": "x", "width": 32}), "an edge is 'x'"),
        (_pictures(size=[32, 32, 32]), "a height and a width"),
        (_pictures(size={"height": 32.5, "width": 32}), "an edge is 32.5"),
        (_pictures(size="x"), "does not say what size"),
        (_pictures(image_std=[0, 0, 0]), "image_mean and image_std"),
        (_pictures(image_mean=0.5), "image_mean and image_std"),
        (_text("preprocessor_config.json", "[" * 100_000), "levels deep"),
        (_text("preprocessor_config.json", "[]"), "is not an object"),
        (_text("tokenizer.json", "{"), "cannot be loaded"),
        (_cut, "cannot be loaded"), (_text("model.safetensors", b""), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors weights"),
    ],
)  # fmt: skip
def test_odd_files_are_told_at_the_loader(models, originals, harm, said) -> None:
    harm(shutil.copytree(originals["blip"], models / "odd"))
    assert said in refused("odd").problem


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"model_type": ' + b"9" * 5000 + b"}", b"\xff\xfe\xff", b"", b"[]",
     b'{"model_type": "\\ud800"}', b'{"model_type": NaN}', b" " * (5 << 20) + b"{}"],
)  # fmt: skip
def test_one_bad_folder_does_not_hide_the_others(models, originals, text) -> None:
    from realcompo.nodes.realignment_caption import RealCompoLoadCaptioner

    shutil.copytree(originals["blip"], models / "good")
    bad = shutil.copytree(originals["blip"], models / "bad")
    (bad / "config.json").write_bytes(text)
    (models / "link").symlink_to(models / "nowhere")
    choices = RealCompoLoadCaptioner.INPUT_TYPES()["required"]["folder"][0]
    assert choices == ["good"]
    assert "there is no model 'bad'" in refused("bad").problem


def test_a_beginning_of_any_length_is_captioned_or_refused(originals) -> None:
    from realcompo.balancer.comfy.captions.captioner_folder import load_captioner

    picture = torch.full((1, 3, 32, 32), 0.5)
    for folder in originals.values():
        captioner = load_captioner(folder)
        outcomes = set()
        for count in (0, 1, 30, 55, 58, 59, 60, 61, 62, 63, 64, 65, 90, 200):
            try:
                captioner.caption(picture, "red " * count, 3)
                captioner.likelihood(picture, ["a"], "red " * count)
                outcomes.add("told")
            except RealCompoError as error:
                assert error.where in ("prefix", "prompt")
                outcomes.add("refused")
        assert outcomes == {"told", "refused"}


_ODD = (
    None, True, 0, -1, 3, 1.5, 10**6, "", "x", [], {}, [1, 2], {"a": 1}, float("nan"), "\x00",
)  # fmt: skip


def _mutate(value: Any, draw: random.Random) -> None:
    """Change, drop or add one entry somewhere in ``value``."""
    item = value
    while True:
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))
        key = draw.choice(keys)
        inner = item[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.8:
            item = inner
            continue
        if draw.random() < 0.3:
            del item[key]
        else:
            item[key] = draw.choice(_ODD)
        return


def test_changed_files_load_and_caption_or_are_refused(models, originals) -> None:
    """Any change of a folder's JSON: it works, or one sentence says why not."""
    from realcompo.balancer.comfy.captions.captioner_folder import load_captioner

    picture = torch.full((1, 3, 32, 32), 0.5)
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        family = draw.choice(list(originals))
        folder = models / f"m{seed}"
        shutil.copytree(originals[family], folder)
        file = draw.choice(sorted(folder.glob("*.json")))
        value = json.loads(file.read_text(encoding="utf-8"))
        _mutate(value, draw)
        file.write_text(json.dumps(value), encoding="utf-8")
        try:
            captioner = load_captioner(folder)
            captioner.caption(picture, "", 3)
            captioner.likelihood(picture, ["a red circle"])
        except RealCompoError as error:
            assert "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {family}, {file.name}") from error
        shutil.rmtree(folder)
