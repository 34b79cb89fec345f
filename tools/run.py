"""Run one module of the pack as a script: ``python tools/run.py shapes.train --help``."""

from __future__ import annotations

import importlib
import sys

from hostpack import PACK, engine_package, host_path, start_host


def main() -> int:
    """Import the named module, after the host where one is known, and call its ``main(argv)``."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    engine_package()
    path = host_path()
    if path is not None:
        start_host(path)
    module = importlib.import_module(f"{PACK}.{sys.argv[1]}")
    return int(module.main(sys.argv[2:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
