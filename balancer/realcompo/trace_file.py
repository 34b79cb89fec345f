"""A trace as files: everything in one safetensors file, the numbers again as readable JSON.

The safetensors file is what is read back. The JSON beside it is for people, tables and scripts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RealCompoError, cut, shown
from ..values.checked import EXACT
from ..values.foreign_json import parse_json
from ..values.tensor_file import Unreadable, read_tensors
from ..values.whole_file import write_whole
from .balancer import Phase
from .trace import MAPS_KEPT, StepRecord, Trace, require_steps

FORMAT, VERSION = "realcompo.trace", 1
SUFFIX = ".trace.safetensors"
PHASES = tuple(phase.value for phase in Phase)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SLACK = 1e-3
_COSTS = (
    "forwards", "partial_forwards", "backwards", "shared_halves", "skipped_gradients", "seconds",
)  # fmt: skip
# dimensions of a record's tensors: see StepRecord
_TENSORS = {
    "mix": 4, "shares_realism": 2, "shares_spatial": 2, "loss_realism": 1, "loss_spatial": 1,
    "maps_realism": 4, "maps_spatial": 4,
}  # fmt: skip


def save_trace(trace: Trace, path: Path) -> tuple[Path, Path]:
    """Write ``path`` (ending in ``.trace.safetensors``) and the JSON beside it; returns both.

    Raises RealCompoError for a trace without steps, and when the files cannot be written; then
    neither is left.
    """
    from safetensors.torch import save_file

    require_steps(trace)
    tensors = {
        f"{name}.{index}": value.contiguous()
        for index, record in enumerate(trace.steps)
        for name in _TENSORS
        if (value := getattr(record, name)) is not None
    }
    facts = _facts(trace)
    metadata = {"format": FORMAT, "version": str(VERSION), "trace": json.dumps(facts)}
    readable = path.with_name(path.name.removesuffix(SUFFIX) + ".trace.json")
    numbers = {**facts, "steps": [_numbers(record) for record in trace.steps]}
    text = json.dumps(numbers, indent=1) + "\n"
    write_whole({
        path: lambda part: save_file(tensors, str(part), metadata=metadata),
        readable: lambda part: part.write_text(text, encoding="utf-8"),
    })  # fmt: skip
    return path, readable


def _facts(trace: Trace) -> dict[str, Any]:
    return {
        "version": VERSION,
        "phrases": list(trace.phrases),
        "settings": trace.settings,
        "cost": {name: getattr(trace, name) for name in _COSTS},
        "steps": [
            {"step": record.step, "sigma": record.sigma, "phase": record.phase}
            for record in trace.steps
        ],
    }


def _numbers(record: StepRecord) -> dict[str, Any]:
    """One step for people: per sample of the batch, losses and shares and what the mix is like."""
    flat = record.mix.flatten(1).float()
    numbers: dict[str, Any] = {
        "step": record.step, "sigma": record.sigma, "phase": record.phase,
        "mix_mean": _rounded(flat.mean(dim=1)), "mix_median": _rounded(flat.median(dim=1).values),
    }  # fmt: skip
    for name in ("loss_realism", "loss_spatial", "shares_realism", "shares_spatial"):
        value = getattr(record, name)
        if value is not None:
            numbers[name] = _rounded(value)
    return numbers


def _rounded(values: Tensor) -> Any:
    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        # JSON has no NaN
        return round(value, 6) if value == value and abs(value) != float("inf") else None

    return one(values.tolist())


def load_trace(path: Path) -> Trace:
    """The trace in a file that ``save_trace`` has written.

    Everything in it is looked at, so that whatever is loaded can be drawn. Raises RealCompoError
    for a file that is not there, is damaged, is too large, is something else, or comes from a newer
    version of the pack.
    """

    def refuse(problem: str, remedy: str) -> RealCompoError:
        return RealCompoError("trace_file", f"{shown(path.name)} {problem}", remedy)

    if not os.path.isfile(path):
        raise refuse("is not there", "Save a trace first, or choose another file.")

    def check(metadata: dict[str, str]) -> None:
        if metadata.get("format") != FORMAT:
            raise refuse("is no trace of RealCompo", "Choose a file of RealCompo Save Trace.")
        version = metadata.get("version", "")
        if not (version.isascii() and version.isdecimal() and len(version) < 9) or (
            int(version) > VERSION
        ):
            raise refuse(
                f"has the form {cut(version) or 'of nobody knows'}, this pack knows {VERSION}",
                "Update the pack, or save the trace again with this one.",
            )  # fmt: skip

    damaged = "It is damaged: copy it again, or save another."
    try:
        metadata, tensors = read_tensors(path, check)
        return _built(parse_json(metadata.get("trace")), tensors)
    except RealCompoError:
        raise
    except Unreadable as error:
        raise refuse(f"cannot be read ({error})", damaged) from None
    except ValueError as error:
        raise refuse(f"is incomplete ({error})", damaged) from None


def _built(facts: Any, tensors: dict[str, Tensor]) -> Trace:
    """The trace of a file's parts; a plain ValueError that says what is wrong with them."""
    facts = _of(facts, dict, "what it says")
    phrases = _of(facts.get("phrases"), list, "'phrases'")
    for phrase in phrases:
        _of(phrase, str, "a phrase")
    trace = Trace(tuple(phrases), dict(_of(facts.get("settings"), dict, "'settings'")))
    cost = _of(facts.get("cost"), dict, "'cost'")
    for name in _COSTS:
        read = _number if name == "seconds" else _count
        setattr(trace, name, read(cost.get(name), f"cost '{name}'"))
    entries = _of(facts.get("steps"), list, "'steps'")
    if not entries:
        raise ValueError("no steps")
    regions = 0
    for index, entry in enumerate(entries):
        entry, where = _of(entry, dict, "a step"), f"of step {index + 1}"
        values = {name: tensors.get(f"{name}.{index}") for name in _TENSORS}
        regions = _check_tensors(values, trace, regions, where)
        step = _count(entry.get("step"), f"the number {where}")
        phase = entry.get("phase")
        if phase not in PHASES:
            raise ValueError(f"the phase {where} is none of {', '.join(PHASES)}")
        sigma = _number(entry.get("sigma"), f"the sigma {where}")
        trace.steps.append(StepRecord(step, sigma, phase, **values))  # type: ignore[arg-type]
        # other kinds of floats become what a trace holds
        trace.steps[-1].to_cpu()
    return trace


def _check_tensors(
    values: dict[str, Tensor | None], trace: Trace, regions: int, where: str
) -> int:
    """Raise ValueError for tensors of a step that no run can have recorded.

    ``regions`` is how many the steps before had (0: not known yet); returns the same with this one.
    """
    mix = values["mix"]
    if mix is None:
        raise ValueError(f"{where.removeprefix('of ')} has no mix")
    batch = len(mix) if mix.ndim else 0
    for name, value in values.items():
        if value is None:
            continue
        wrong = ValueError(f"{name} {where} has the shape {tuple(value.shape)}")
        if value.ndim != _TENSORS[name] or not value.numel():
            raise wrong
        if value.dtype not in _FLOATS:
            raise ValueError(f"{name} {where} holds {value.dtype}, not numbers of a trace")
        if name.startswith(("shares", "maps")):
            regions = regions or value.shape[1]
        rows = min(batch, MAPS_KEPT) if name.startswith("maps") else batch
        if len(value) != rows or (value.ndim > 1 and value.shape[1] != _second(name, regions)):
            raise wrong
        # a run whose gradients were not finite has such losses and shares: gaps in a plot
        if name == "mix" and not bool(((value >= -_SLACK) & (value <= 1 + _SLACK)).all()):
            raise ValueError(f"the mix {where} is outside 0 to 1")
        if name.startswith("maps") and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} {where} holds NaN or infinity")
    if trace.steps and trace.steps[0].mix.shape != mix.shape:
        raise ValueError(f"the mix {where} has the shape {tuple(mix.shape)}, unlike the first")
    return regions


def _second(name: str, regions: int) -> int:
    return 1 if name == "mix" else regions


def _of(value: Any, wanted: type, what: str) -> Any:
    if not isinstance(value, wanted):
        names = {dict: "an object", list: "a list", str: "a text"}
        raise ValueError(f"{what} is not {names[wanted]}")
    return value


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= EXACT:
        raise ValueError(f"{what} is not a whole number of 0 to {EXACT}")
    return value


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e30:
        raise ValueError(f"{what} is not a number of 0 or more")
    return float(value)
