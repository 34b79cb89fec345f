"""Model files with random values in the formats that users have, true-size or narrow.

They show that loaders, detection and nodes work, and what a run costs in time and memory; what
comes out is noise. ``python dev.py bench random_files --full --only sd15,gligen`` writes true-size
ones into the cache, each once; ``write`` does it for other code.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from ...balancer.errors import RealCompoError
from ..kept import claimed
from .layouts import KINDS
from .tensor_file import RECIPE, made_of
from .tensor_file import write as write_tensors
from .values import QUANTISED, entries

__all__ = ["DTYPES", "KINDS", "QUANTISED", "main", "write"]

DTYPES = {
    "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}  # fmt: skip
_VERSION = 1
"""Another number makes all files anew."""


def write(
    kind: str,
    folder: Path,
    narrow: bool = True,
    dtype: torch.dtype = torch.float16,
    *,
    quantised: str | None = None,
    seed: int = 1,
    name: str | None = None,
) -> Path:
    """A file of ``kind`` (of KINDS) in ``folder``, made unless it is there already.

    ``narrow``: as few and as narrow layers as the host's loaders still know the family by.
    ``quantised``: matrices of the U-Net in 8 bits with scales, in a form of QUANTISED; the rest in
    ``dtype``. ``name``: the file's, without its ending. Raises ``RealCompoError`` for unknown
    names, a full disk, and where another process is at the same file.
    """
    _check(kind, dtype, quantised)
    short = next(key for key, value in DTYPES.items() if value == dtype)
    recipe = json.dumps([_VERSION, kind, "narrow" if narrow else "full", short, quantised, seed])
    if name is None:
        parts = [kind, "narrow" if narrow else "full", short, quantised, f"seed{seed}"]
        name = "-".join(part for part in parts if part)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    if path.exists() and made_of(path) == recipe:
        return path
    with claimed(path) as mine:
        if not mine:
            raise RealCompoError(
                "folder", f"another process is writing {path}", "Try again when that is done"
            )
        contents = KINDS[kind](narrow)
        if quantised is not None and not contents.linear:
            raise RealCompoError("quantised", f"{kind} has no U-Net to quantise", "Leave it out")
        tensors, about = entries(contents, dtype, quantised, seed)
        write_tensors(path, tensors, {**about, RECIPE: recipe})
    return path


def _check(kind: str, dtype: torch.dtype, quantised: str | None) -> None:
    for where, given, known in (
        ("kind", kind, KINDS), ("dtype", dtype, DTYPES.values()),
        ("quantised", quantised, (*QUANTISED, None)),
    ):  # fmt: skip
        if given not in known:
            raise RealCompoError(
                where, f"{given} cannot be written", f"Use {', '.join(map(str, known))}"
            )


def _arguments(argv: list[str]) -> argparse.Namespace:
    import find_host

    parser = argparse.ArgumentParser(prog="dev.py bench random_files", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--narrow", action="store_true", help="small files (the default)")
    size.add_argument("--full", action="store_true", help="files of the true size")
    parser.add_argument("--only", default=",".join(KINDS), metavar="KIND,...",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--quantised", choices=QUANTISED,
                        help="matrices of the U-Net in 8 bits with scales")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        default=find_host.cache_folder() / "random",
                        help="default: the folder 'random' in the cache")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Write the files that are asked for; says each one's path, size and seconds."""
    choice = _arguments(argv)
    try:
        for kind in choice.only.split(","):
            start = time.perf_counter()
            path = write(
                kind.strip(), choice.out, not choice.full, DTYPES[choice.dtype],
                quantised=choice.quantised, seed=choice.seed,
            )  # fmt: skip
            size = path.stat().st_size / 2**20
            print(f"{path}  {size:.0f} MiB  {time.perf_counter() - start:.1f} s", flush=True)
    except RealCompoError as problem:
        print(problem)
        return 1
    return 0
