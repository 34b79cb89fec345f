"""Inputs by wire and from scripts, which the host does not check: taken, or one sentence."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import hostpack
import pytest
import torch
from realcompo.balancer.comfy.node_inputs import checked_inputs
from realcompo.balancer.errors import RealCompoError

from . import tiny

CLIP = type("Clip", (), {"encode_from_tokens": lambda self, tokens: None})()


def nodes() -> dict[str, Any]:
    return hostpack.load_pack().NODE_CLASS_MAPPINGS  # type: ignore[attr-defined]


def refused(node: str, **inputs: Any) -> RealCompoError:
    kind = nodes()[node]
    with pytest.raises(RealCompoError) as caught:
        checked_inputs(kind, inputs, (), ())
    return caught.value


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("seed", 912345678901234567.0, "came as a number with a point, which is exact up to"),
     ("seed", -1, "-1 is outside 0 to 18446744073709551615"), ("seed", math.nan, "outside"),
     ("seed", "7", "got a text"), ("seed", True, "got a yes or no"),
     ("steps", 1e20, "1e+20 is outside 1 to 1000000"), ("steps", 0, "0 is outside"),
     ("batch_size", 0, "0 is outside 1 to 256"), ("batch_size", 2.5, "2.5 is not a whole number"),
     ("learning_rate", math.inf, "inf is outside"), ("learning_rate", None, "got nothing"),
     ("lines", "prompt", "'prompt' is unknown"), ("clip", None, "got nothing, not a CLIP"),
     ("model", "SD15", "got a str"), ("prompts", "a\ud800", "half a character"),
     ("latents", {"samples": torch.zeros(0, 4, 8, 8)}, "empty"),
     ("latents", {"samples": torch.full((1, 4, 8, 8), math.nan)}, "NaN"),
     ("latents", {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1, 2]}, "batch_index of 2"),
     ("latents", {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1 << 40]}, "outside"),
     ("latents", {"samples": torch.zeros(8)}, "shape (8,)")],
)  # fmt: skip
def test_what_a_training_node_does_not_take(name: str, value: Any, words: str) -> None:
    error = refused("RealCompoSeparateEnhance", **{name: value})
    assert error.where == name and words in error.problem and error.remedy


@pytest.mark.parametrize(
    ("given", "plain"),
    [({"seed": 7.0}, {"seed": 7}), ({"seed": (1 << 64) - 1}, {"seed": (1 << 64) - 1}),
     ({"steps": 20.0, "learning_rate": 1}, {"steps": 20, "learning_rate": 1.0}),
     ({"lines": None, "latents": None, "pairs": None}, {}), ({"unknown": 1}, {"unknown": 1}),
     ({"clip": CLIP}, {"clip": CLIP})],
)  # fmt: skip
def test_what_it_takes(given: dict[str, Any], plain: dict[str, Any]) -> None:
    found = checked_inputs(nodes()["RealCompoSeparateEnhance"], given, (), ())
    assert found == plain and all(type(found[name]) is type(plain[name]) for name in plain)


def test_conditioning_is_vectors_of_tokens() -> None:
    good = tiny.conditioning(3)
    found = checked_inputs(nodes()["RealCompoAttentionMaps"], {"positive": good}, (), ())
    assert found["positive"] is good
    text, options = good[0]
    for bad in (None, "x", text[0], text[:, :0], text * math.nan, text.to_sparse()):
        assert refused("RealCompoAttentionMaps", positive=[[bad, options]]).where == "positive"


def test_lists_are_looked_at_entry_by_entry() -> None:
    pick = nodes()["RealCompoPickBest"]
    image = torch.rand(1, 8, 8, 3)
    given = {"keep": 2.0, "among": ["all"], "images": [None, image], "latents": [None]}
    found = checked_inputs(pick, given, (), ())
    assert found["keep"] == [2] and found["images"][0] is not None and "latents" not in found
    assert refused("RealCompoPickBest", keep=[]).problem == "the list is empty"
    assert refused("RealCompoPickBest", keep=[1, 0]).where == "keep"
    assert refused("RealCompoPickBest", images=[image, image * math.nan]).where == "images"


def test_an_error_is_told_once_under_the_nodes_name() -> None:
    kind = nodes()["RealCompoBalancer"]
    with pytest.raises(RealCompoError) as caught:
        kind().settings("custom", "dynamic", rate=math.nan)
    assert re.fullmatch(
        r"RealCompo Balancer Settings, input 'rate': nan is outside \S+ to \S+\."
        r" Set it inside that range\.", str(caught.value),
    )  # fmt: skip
    assert caught.value.node == "RealCompo Balancer Settings"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    # what is our own fault is not dressed up as the user's
    with pytest.raises(TypeError):
        kind().settings("custom", "dynamic", no_such_number=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths
    import headless

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    if not hasattr(folder_paths, "set_output_directory"):  # a headless copy cannot name files
        monkeypatch.setattr(folder_paths, "get_save_image_path", headless.save_image_path)
    return tmp_path


def test_a_saved_lora_holds_numbers_and_its_losses_stay_small(folder: Path) -> None:
    from safetensors import safe_open

    save = nodes()["RealCompoSaveLoRA"]().save
    one = torch.rand(2, 2)
    shared = {"a.lora_up.weight": one, "b.lora_up.weight": one.T}
    losses = {"loss": [math.nan, *[0.5] * 29_999], "reward": [1.0]}
    name = save(shared, "x", losses)["result"][0]
    with safe_open(str(folder / name), "pt") as file:
        assert torch.equal(file.get_tensor("b.lora_up.weight"), one.T)
        notes = json.loads(file.metadata()["realcompo"], parse_constant=pytest.fail)
    assert notes["losses_every"] == 3 and len(notes["losses"]["loss"]) == 10_000
    assert notes["losses"]["loss"][:2] == [None, 0.5] and notes["losses"]["reward"] == [1.0]
    before = sorted(folder.iterdir())
    for bad in ({}, None, {"a": one * math.nan}, {"a": 1.0}, {1: one}, {"\ud800": one}):
        with pytest.raises(RealCompoError, match="RealCompo Save LoRA, input 'lora': "):
            save(bad, "x")
    for odd in ({"loss": "x"}, {"loss": [True]}, {"loss": [10**400]}, [1.0], {"loss": {"a": 1}}):
        with pytest.raises(RealCompoError, match="RealCompo Save LoRA, input 'loss': "):
            save(shared, "x", odd)
    assert sorted(folder.iterdir()) == before
