"""Safetensors files from outside: looked at before they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..errors import RealCompoError

LARGEST_HEADER = 16 << 20
"""Bytes of a file's header, which is read and parsed before anything else."""
LARGEST_FILE = 8 << 30
"""Bytes of a file that is read into memory."""


class Unreadable(ValueError):
    """A file that is no whole safetensors file, or too large; its message is part of a sentence."""


def read_tensors(
    path: Path, check: Callable[[dict[str, str]], None] | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    ``check`` looks at the metadata, and raises what it likes, before a tensor is read. Raises
    Unreadable for a file that cannot be read, is cut off, is something else, has a header of more
    than ``LARGEST_HEADER`` bytes or more than ``LARGEST_FILE`` bytes in all.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(8)
        if len(start) < 8:
            raise Unreadable(f"it ends after {size} bytes")
        (header,) = struct.unpack("<Q", start)
        if header > size - 8:
            raise Unreadable("it ends inside its header, or is no safetensors file")
        for count, most, what in (
            (header, LARGEST_HEADER, "a header of "), (size, LARGEST_FILE, "")
        ):  # fmt: skip
            if count > most:
                raise Unreadable(f"it has {what}{count} bytes, and up to {most} are read")
        with safe_open(str(path), framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            if check is not None:
                check(metadata)
            return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (Unreadable, RealCompoError):
        raise
    except (SafetensorError, OSError) as error:
        raise Unreadable(str(getattr(error, "strerror", None) or error)[:200]) from None
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        # what the library says of kinds of numbers that this torch does not know
        raise Unreadable(f"{type(error).__name__}: {error}"[:200]) from None
