"""Files are written whole or not at all, under names that every system takes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import RealCompoError, shown
from .foreign_json import has_surrogates

LONGEST_PART = 200
"""Bytes of one folder's or file's name, in UTF-8: systems take 255, and a number and the kind of
the file are added."""
LONGEST_NAME = 1000
"""Bytes of a name with its folders, in UTF-8."""

# what Windows gives to devices, with any ending; and what it takes in no name
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\s*(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*]')

_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def checked_name(name: str, where: str) -> str:
    """``name`` of a file to be written, with folders before it; its input is ``where``.

    Raises RealCompoError for a name that some system cannot hold: empty, too long, with control
    characters or half a character, with ``<>:"|?*``, or a part that ends with a dot or a space or
    that Windows keeps for a device (CON, NUL, COM1). Such a name would fail, or name another file,
    where the same workflow runs elsewhere. Whether it leads out of a folder is not looked at.
    """
    remedy = "Give a plain name, such as 'folder/name'"

    def refuse(problem: str) -> RealCompoError:
        return RealCompoError(where, f"{shown(name)} {problem}", remedy)

    if has_surrogates(name):
        raise refuse("holds half a character (a lone surrogate)")
    if len(name.encode()) > LONGEST_NAME:
        raise refuse(f"has {len(name.encode())} bytes, and a name may have {LONGEST_NAME}")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise refuse("holds a control character, which no file's name can")
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if not parts or re.split(r"[/\\]", name)[-1] in ("", ".", ".."):
        raise refuse("names no file")
    for part in parts:
        if found := _FORBIDDEN.search(part):
            raise refuse(f"holds '{found[0]}', which not every system takes in a name")
        if part != ".." and part[-1] in ". ":
            raise refuse("has a part that ends with a dot or a space, which Windows takes off")
        if _DEVICES.fullmatch(part):
            raise refuse(f"has the part {shown(part)}, which Windows keeps for a device")
        if len(part.encode()) > LONGEST_PART:
            raise refuse(
                f"has a part of {len(part.encode())} bytes, and one may have {LONGEST_PART}"
            )
    return name


def cannot_write(error: Exception, name: str, where: str) -> RealCompoError:
    """What a failure to write the file ``name`` means to the user, at input ``where``."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])  # safetensors tells the system's number in words only
    if number in _FULL:
        said, remedy = "the disk is full", "Make room there, then queue it again"
    elif number in _CLOSED:
        said, remedy = "the folder cannot be written to", (
            "Give ComfyUI the right to write there, or name another folder"
        )
    else:
        said = os.strerror(number) if number else getattr(error, "strerror", None) or str(error)
        remedy = "Look at ComfyUI's output folder, or give another name"
    return RealCompoError(where, f"{shown(name)} cannot be written: {said}", remedy)


def write_whole(
    files: Mapping[Path, Callable[[Path], object]], where: str = "filename_prefix"
) -> None:
    """Write files that belong together: all of them, or none.

    ``files`` maps a path to what writes it: it is called with another path beside the right one,
    which the file gets only when all are written; folders are made. Raises RealCompoError at
    ``where`` when they cannot be written, after which nothing of them is left. What lay under the
    names before stays until the new files are whole.
    """
    from safetensors import SafetensorError

    parts = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in files}
    new = [path for path in files if not path.exists()]
    path = next(iter(files))
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(parts[path])
        for path, part in parts.items():
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        for other in new:
            with contextlib.suppress(OSError):
                other.unlink(missing_ok=True)
        raise cannot_write(error, path.name, where) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
