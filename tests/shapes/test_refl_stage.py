"""The stage that finetunes the realism model by the captioner's reward, and the file it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.shapes import train_refl
from realcompo.shapes.host_models import WEIGHTS
from realcompo.shapes.pairs import held_out_pairs, training_pairs
from realcompo.shapes.world import make_caption

FILE = WEIGHTS / "tuned" / train_refl.NAME


def test_prompts_are_of_pairs_to_train_on_alone() -> None:
    from realcompo.shapes.pairs import pair_scenes

    told = train_refl.prompts()
    assert len(told) == 2 * len(training_pairs())
    held = {make_caption(s).text for s in pair_scenes(held_out_pairs(), 4 * 109, 3)}
    assert not held & set(told)


def test_a_stage_of_one_step_leaves_a_file_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.sd
    import comfy.utils
    from safetensors import safe_open

    monkeypatch.setitem(train_refl.TRAINING, "batch_size", 1)
    monkeypatch.setitem(train_refl.REWARDS, "sampling_steps", 3)
    path = train_refl.train_refl(tmp_path, 1)
    with safe_open(str(path), framework="pt") as made, safe_open(str(FILE), framework="pt") as ours:
        assert set(made.keys()) == set(ours.keys())
        assert made.metadata().keys() == ours.metadata().keys()
        assert ours.metadata()["steps"] == str(train_refl.TRAINING["steps"])
        assert made.metadata()["steps"] == "1"
    with torch.inference_mode():
        model: Any = train_refl.load_demo("realistic", "realism")[0]
        state = comfy.utils.load_torch_file(str(FILE), safe_load=True)
        tuned, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
    assert len(tuned.patches) == sum(key.endswith("lora_up.weight") for key in state)
    assert FILE.stat().st_size <= 300_000
