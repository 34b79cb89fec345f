"""A trace as files: everything in one safetensors file, the numbers again as readable JSON.

The safetensors file is what is read back. The JSON beside it is for people, tables and scripts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import RealCompoError
from .trace import StepRecord, Trace, require_steps

FORMAT, VERSION = "realcompo.trace", 1
SUFFIX = ".trace.safetensors"
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

    Raises RealCompoError for a trace without steps.
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
    save_file(tensors, str(path), metadata=metadata)
    readable = path.with_name(path.name.removesuffix(SUFFIX) + ".trace.json")
    numbers = {**facts, "steps": [_numbers(record) for record in trace.steps]}
    readable.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
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

    Raises RealCompoError for a file that is not there, is damaged, is something else, or comes
    from a newer version of the pack.
    """
    from safetensors import SafetensorError, safe_open

    def refuse(problem: str, remedy: str) -> RealCompoError:
        return RealCompoError("trace_file", f"'{path.name}' {problem}", remedy)

    if not path.is_file():
        raise refuse("is not there", "Save a trace first, or choose another file.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise refuse("is no trace of RealCompo", "Choose a file of RealCompo Save Trace.")
            version = metadata.get("version", "")
            if not version.isdecimal() or int(version) > VERSION:
                raise refuse(
                    f"has the form {version or 'of nobody knows'}, this pack knows {VERSION}",
                    "Update the pack, or save the trace again with this one.",
                )  # fmt: skip
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise refuse(
            f"cannot be read ({error})", "It is damaged: copy it again, or save another."
        ) from None
    try:
        return _built(json.loads(metadata["trace"]), tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refuse(
            f"is incomplete ({type(error).__name__}: {error})",
            "It is damaged: copy it again, or save another.",
        ) from None


def _built(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Trace:
    trace = Trace(tuple(map(str, facts["phrases"])), dict(facts["settings"]))
    for name in _COSTS:
        value = facts["cost"][name]
        setattr(trace, name, float(value) if name == "seconds" else int(value))
    for index, entry in enumerate(facts["steps"]):
        values = {name: tensors.get(f"{name}.{index}") for name in _TENSORS}
        for name, value in values.items():
            if value is not None and (value.ndim != _TENSORS[name] or not value.numel()):
                raise ValueError(f"{name} of step {index + 1} has the shape {tuple(value.shape)}")
        mix = values.pop("mix")
        if mix is None:
            raise ValueError(f"step {index + 1} has no mix")
        head = int(entry["step"]), float(entry["sigma"]), str(entry["phase"])
        trace.steps.append(StepRecord(*head, mix, **values))
    if not trace.steps:
        raise ValueError("no steps")
    return trace
