"""Reading the files in ``shapes/weights``, with complaints that name the file. Needs no host."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
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
