"""Run one module of the pack as a script: ``python tools/run.py shapes.train --help``."""

from __future__ import annotations

import importlib
import sys

from benches import BENCHES
from hostpack import PACK, engine_package, host_path, start_host

# Starts the host itself, or has others do it: a graphics card must not be held for nothing.
WITHOUT_HOST = {"runner.main", "bench.runner"}


def host_arguments(arguments: list[str]) -> tuple[str, ...]:
    """The host's own arguments: the CPU for everything that comes with the pack, which was made
    there; a user's own checkpoints run where there is an accelerator."""
    if any(argument.split("=")[0] == "--realism" for argument in arguments):
        import torch

        if torch.cuda.is_available() or torch.backends.mps.is_available():
            return ()
    return ("--cpu", "--use-pytorch-cross-attention")


def main() -> int:
    """Import the named module, after the host where one is known, and call its ``main(argv)``."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    engine_package()
    path = host_path()
    if path is not None and sys.argv[1] not in WITHOUT_HOST:
        start_host(path, host_arguments(sys.argv[2:]))
    room, _, bench = sys.argv[1].partition(".")
    name = f"bench.{BENCHES[bench]}" if room == "bench" and bench in BENCHES else sys.argv[1]
    module = importlib.import_module(f"{PACK}.{name}")
    return int(module.main(sys.argv[2:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
