"""A trace survives being saved and loaded; what is no trace says so."""

from __future__ import annotations

import errno
import json
import random
import struct
from pathlib import Path

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.realcompo.trace import StepRecord, Trace
from realcompo.balancer.realcompo.trace_file import SUFFIX, load_trace, save_trace
from safetensors.torch import load_file, save_file

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


def _changed(path: Path, change: dict[str, torch.Tensor | None], **facts: object) -> Path:
    """The file with other tensors (None: without one) and other facts."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = {k: v for k, v in {**load_file(str(path)), **change}.items() if v is not None}
    metadata["trace"] = json.dumps({**json.loads(metadata["trace"]), **facts})
    other = path.with_name("other" + SUFFIX)
    save_file(tensors, str(other), metadata=metadata)
    return other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mix.0": torch.ones(2, 1, 8, 12, dtype=torch.bool)}, "not numbers"),
        ({"mix.0": torch.ones(2, 1, 8, 12).to(torch.float8_e4m3fn)}, "not numbers"),
        ({"mix.0": torch.ones(2, 1, 8, 12, dtype=torch.int64)}, "not numbers"),
        ({"mix.0": torch.full((2, 1, 8, 12), float("nan"))}, "outside 0 to 1"),
        ({"mix.0": torch.full((2, 1, 8, 12), 3.0)}, "outside 0 to 1"),
        ({"mix.1": torch.rand(2, 1, 8, 11)}, "has the shape"),
        ({"mix.1": torch.rand(3, 1, 8, 12)}, "has the shape"),
        ({"mix.0": torch.rand(2, 4, 8, 12)}, "has the shape"),
        ({"mix.0": torch.zeros(())}, "has the shape"),
        ({"shares_realism.3": torch.rand(2, 5)}, "has the shape"),
        ({"loss_realism.3": torch.rand(1)}, "has the shape"),
        ({"maps_realism.1": torch.rand(1, 2, 4, 6)}, "has the shape"),
        ({"maps_realism.1": torch.full((2, 2, 4, 6), float("inf"))}, "NaN or infinity"),
    ],
)  # fmt: skip
def test_tensors_that_no_run_records_are_refused(saved: Path, change, said) -> None:
    with pytest.raises(RealCompoError, match=said) as caught:
        load_trace(_changed(saved, change))
    assert caught.value.where == "trace_file"


_STEP = {"step": 0, "sigma": 1.0, "phase": "mix"}


@pytest.mark.parametrize(
    "facts",
    [
        {"phrases": "x"}, {"phrases": [1]}, {"settings": [1]}, {"cost": {"forwards": 1}},
        {"steps": []}, {"steps": [7]}, {"steps": [{**_STEP, "step": -1}]},
        {"steps": [{**_STEP, "step": True}]}, {"steps": [{**_STEP, "step": 10**400}]},
        {"steps": [{**_STEP, "sigma": float("inf")}]},
        {"steps": [{**_STEP, "sigma": float("nan")}]}, {"steps": [{**_STEP, "sigma": "1"}]},
        {"steps": [{**_STEP, "phase": "x" * 5000}]}, {"steps": [_STEP] * 9},
    ],
)  # fmt: skip
def test_facts_that_no_run_records_are_refused(saved: Path, facts) -> None:
    with pytest.raises(RealCompoError, match="is incomplete") as caught:
        load_trace(_changed(saved, {}, **facts))
    assert len(str(caught.value)) < 400


def test_every_cut_and_many_changed_bytes_load_or_are_refused(saved: Path) -> None:
    from realcompo.balancer.pictures.mix import draw_mix
    from realcompo.balancer.pictures.trace import plot_trace

    data = saved.read_bytes()
    draw, drawn = random.Random(5), 0
    for turn in range(240):
        harmed = bytearray(data)
        if turn % 2:
            # the header holds everything but the numbers
            place = draw.randrange(min(len(data), 3000))
            harmed[place] = draw.randrange(256)
        else:
            del harmed[draw.randrange(len(data)) :]
        other = saved.with_name("harmed" + SUFFIX)
        other.write_bytes(harmed)
        try:
            trace = load_trace(other)
        except RealCompoError:
            continue
        drawn += 1
        draw_mix(trace, side=64)
        if drawn < 4:
            plot_trace(trace, 300, 300)
    assert 0 < drawn < 120


def test_a_header_that_is_too_long_is_not_read(saved: Path) -> None:
    with open(saved, "wb") as file:
        file.write(struct.pack("<Q", 20 << 20))
        file.truncate((20 << 20) + 8)
    with pytest.raises(RealCompoError, match="a header of 20971520 bytes, and up to 16777216"):
        load_trace(saved)


def test_a_run_whose_losses_were_no_numbers_comes_back_and_is_drawn(tmp_path: Path) -> None:
    from realcompo.balancer.pictures.trace import plot_trace

    trace = example()
    for record in trace.steps[1::2]:
        record.loss_realism = torch.tensor([float("nan"), float("inf")])
        record.shares_realism = torch.full((2, 2), float("nan"))
    trace.steps[3].loss_spatial = None
    path, _ = save_trace(trace, tmp_path / f"run{SUFFIX}")
    back = load_trace(path)
    for sample in (0, 1):
        assert plot_trace(back, 300, 300, sample).isfinite().all()


def test_a_full_disk_leaves_no_half_of_a_trace(tmp_path: Path, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RealCompoError, match="the disk is full") as caught:
        save_trace(example(), tmp_path / f"run{SUFFIX}")
    assert caught.value.where == "filename_prefix" and not list(tmp_path.iterdir())
