"""Files in ``shapes/weights``: read with complaints that name them, written whole. No host."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..balancer.errors import RealCompoError

REMEDY = "Restore the file from the pack's repository, or install the pack again"


def read_file(path: Path, where: str, node: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; ``RealCompoError`` at ``where`` of ``node`` if missing or damaged."""
    which = f"the weights file '{path.name}'"
    if not path.is_file():
        raise RealCompoError(where, f"{which} is missing", REMEDY, node)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise RealCompoError(where, f"{which} is damaged ({error})", REMEDY, node) from error


def fill(module: nn.Module, state: dict[str, Tensor], name: str, where: str, node: str) -> None:
    """Copy a state dict in; ``RealCompoError`` if the file ``name`` does not fit exactly."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        problem = f"the weights file '{name}' does not fit this version of the pack"
        raise RealCompoError(where, problem, REMEDY, node) from error


def write_file(
    path: Path, state: Mapping[str, Tensor], notes: dict[str, str], exact: Collection[str] = ()
) -> None:
    """Save a state dict in half precision, but for the tensors named in ``exact``."""
    tensors = {
        key: (value if key in exact else value.half()).detach().clone().contiguous()
        for key, value in state.items()
    }
    partial = path.with_suffix(".part")
    save_file(tensors, str(partial), notes)
    # the writer makes files that only their owner can read; a clone must be able to serve them
    partial.chmod(0o644)
    partial.replace(path)
