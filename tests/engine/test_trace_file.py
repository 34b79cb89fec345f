"""A trace survives being saved and loaded; what is no trace says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.trace import StepRecord, Trace
from realcompo.balancer.trace_file import SUFFIX, load_trace, save_trace

BEETLE = "ein gr\u00fcner K\u00e4fer"


def example() -> Trace:
    trace = Trace(phrases=("a red star", BEETLE), settings={"rate": 0.5, "mode": "x"})
    trace.forwards, trace.backwards, trace.seconds, trace.shared_halves = 20, 6, 1.25, 3
    trace.skipped_gradients, trace.partial_forwards = 1, 6
    for step in range(4):
        record = StepRecord(step, 10.0 / (step + 1), "balance", torch.rand(2, 1, 8, 12))
        if step % 2:
            record.shares_realism, record.loss_realism = torch.rand(2, 2), torch.rand(2)
            record.maps_realism = torch.rand(2, 2, 4, 6).half()
        if step == 3:
            record.shares_spatial, record.loss_spatial = torch.rand(2, 2), torch.rand(2)
            # a pack may shrink blocks in some steps only
            record.maps_spatial = torch.rand(2, 2, 2, 3).half()
        trace.steps.append(record)
    return trace


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_trace(example(), tmp_path / f"run_00001_{SUFFIX}")
    return tmp_path / f"run_00001_{SUFFIX}"


def test_everything_comes_back(tmp_path: Path) -> None:
    trace = example()
    path, readable = save_trace(trace, tmp_path / f"run{SUFFIX}")
    back = load_trace(path)
    assert back.cost() == trace.cost() and back.skipped_gradients == 1
    assert (back.phrases, back.settings) == (trace.phrases, trace.settings)
    assert len(back.steps) == len(trace.steps)
    for one, other in zip(trace.steps, back.steps, strict=True):
        assert vars(one).keys() == vars(other).keys()
        for name, value in vars(one).items():
            now = getattr(other, name)
            if isinstance(value, torch.Tensor):
                assert now.dtype == value.dtype and torch.equal(now, value), name
            else:
                assert now == value, name
    numbers = json.loads(readable.read_text(encoding="utf-8"))
    assert readable.name == "run.trace.json"
    assert numbers["phrases"][1] == BEETLE
    assert numbers["steps"][3]["loss_spatial"] == pytest.approx(
        trace.steps[3].loss_spatial.tolist(),
        abs=1e-6,  # type: ignore[union-attr]
    )
    assert "loss_spatial" not in numbers["steps"][1]


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    trace = example()
    trace.steps[1].loss_realism = torch.tensor([float("nan"), float("inf")])
    _, readable = save_trace(trace, tmp_path / f"run{SUFFIX}")
    text = readable.read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["steps"][1]["loss_realism"] == [None, None]


def test_an_empty_trace_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RealCompoError, match="nothing was sampled yet"):
        save_trace(Trace(), tmp_path / f"run{SUFFIX}")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RealCompoError, match="'gone.trace.safetensors' is not there"):
        load_trace(tmp_path / "gone.trace.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    text, foreign = tmp_path / f"text{SUFFIX}", tmp_path / f"lora{SUFFIX}"
    text.write_text("no tensors here")
    with pytest.raises(RealCompoError, match="cannot be read"):
        load_trace(text)
    save_file({"lora.down": torch.zeros(2, 2)}, str(foreign))
    with pytest.raises(RealCompoError, match="is no trace of RealCompo"):
        load_trace(foreign)
    save_file({"x": torch.zeros(1)}, str(foreign), metadata={"format": "realcompo.trace"})
    with pytest.raises(RealCompoError, match="has the form"):
        load_trace(foreign)


def _again(path: Path, **changes: str) -> Path:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    other = path.with_name("other" + SUFFIX)
    save_file(load_file(str(path)), str(other), metadata={**metadata, **changes})
    return other


def test_a_newer_form_is_refused(saved: Path) -> None:
    with pytest.raises(RealCompoError, match="has the form 2, this pack knows 1. Update"):
        load_trace(_again(saved, version="2"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"phrases": [], "settings": {}, "cost": {}}'])
def test_damaged_facts_are_refused(saved: Path, text: str) -> None:
    with pytest.raises(RealCompoError, match="is incomplete"):
        load_trace(_again(saved, trace=text))


def test_missing_and_misshapen_tensors_are_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(saved), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(str(saved))
    without = tmp_path / f"without{SUFFIX}"
    save_file({k: v for k, v in tensors.items() if k != "mix.2"}, str(without), metadata=metadata)
    with pytest.raises(RealCompoError, match="step 3 has no mix"):
        load_trace(without)
    save_file({**tensors, "loss_realism.1": torch.zeros(2, 2)}, str(without), metadata=metadata)
    with pytest.raises(RealCompoError, match="loss_realism of step 2 has the shape"):
        load_trace(without)
    half = saved.read_bytes()[: saved.stat().st_size // 2]
    without.write_bytes(half)
    with pytest.raises(RealCompoError, match="damaged"):
        load_trace(without)
