"""A ``.safetensors`` file written tensor by tensor: it may be larger than the memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...balancer.errors import RealCompoError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
RECIPE = "realcompo_recipe"
"""Key of the file's metadata under which stands what it was made of."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file that is yet to be made. ``values`` None: zeros, which take no room on
    disks that know holes in files."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Callable[[], Tensor] | None

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write ``entries`` in the order of the format's own library: widest numbers first.

    The file is there whole or not at all. Raises ``RealCompoError`` if the disk has no room for it.
    """
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        entry = entries[name]
        header[name] = {
            "dtype": _NAMES[entry.dtype], "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size],
        }  # fmt: skip
        at += entry.size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # numbers lie where the processor wants them
    stored = sum(entry.size for entry in entries.values() if entry.values is not None)
    if stored > (free := shutil.disk_usage(path.parent).free):
        raise RealCompoError(
            "folder", f"{path.name} needs {stored / 2**30:.1f} GiB and the disk of '{path.parent}'"
            f" has {free / 2**30:.1f} GiB left", "Name a folder on another disk",
        )  # fmt: skip
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.truncate(8 + len(head) + at)
            file.write(len(head).to_bytes(8, "little") + head)
            for name in order:
                _put(file, name, entries[name])
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _put(file: Any, name: str, entry: Entry) -> None:
    if entry.values is None:
        file.seek(entry.size, os.SEEK_CUR)
        return
    tensor = entry.values().contiguous()
    if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
        raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, not as announced")
    # numpy does not know every type of number; bytes it does
    file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The table of a file's tensors, its metadata under ``__metadata__``; and where they begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def made_of(path: Path) -> str | None:
    """The recipe of a whole file written here; None for others and where there is none."""
    try:
        table, begin = header(path)
    except (OSError, ValueError):
        return None
    metadata = table.pop("__metadata__", {})
    ends = [entry["data_offsets"][1] for entry in table.values()]
    whole = path.stat().st_size == begin + max(ends, default=0)
    return metadata.get(RECIPE) if whole else None
