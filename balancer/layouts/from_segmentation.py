"""A segmentation picture as regions: which colour stands for which phrase."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import RealCompoError, shown
from ..values.checked import plain_tensor
from .box_lines import BoxEntry, Wordings, read_phrase, require_count
from .from_masks import Keep, named_region
from .layout import Region
from .mask import Mask

LEGEND = "colours in the lines"
PALETTES = {"ADE20K classes": "ade20k", "COCO classes": "coco"}
Rgb = tuple[int, int, int]

_LINE = re.compile(r"^#(?P<hex>[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\s*:\s*(?P<phrase>\S.*)$")
_SUFFIX = re.compile(r"(-other)?(-merged)?(-stuff)?$")
_SHOWN, _CHUNK = 8, 4096
_LONGEST_CLASS = 200
"""Characters of a class's name that are compared."""


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: a colour, what it is called in messages, and the region's phrase."""

    colour: Rgb
    name: str
    line: BoxEntry


def _rgb(text: str) -> Rgb:
    full = "".join(2 * c for c in text) if len(text) == 3 else text
    return int(full[0:2], 16), int(full[2:4], 16), int(full[4:6], 16)


@cache
def palette(name: str) -> dict[str, Rgb]:
    """Class name -> colour of a palette of ``PALETTES``, in the palette's order."""
    text = (Path(__file__).parent / "palettes" / f"{PALETTES[name]}.txt").read_text("utf-8")
    rows = (line.split(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    return {label: _rgb(colour) for colour, label in rows}


def _class(name: str, label: str, where: str) -> tuple[str, Rgb]:
    """A palette's class by its name, or by its name without '-merged' and the like."""
    import difflib

    classes = palette(name)
    wanted = " ".join(label[:_LONGEST_CLASS].casefold().split())
    if wanted in classes:
        return wanted, classes[wanted]
    short = {_SUFFIX.sub("", full): full for full in reversed(classes)}
    if wanted in short:
        return short[wanted], classes[short[wanted]]
    near = difflib.get_close_matches(wanted, [*classes, *short], n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    raise RealCompoError(
        "phrases",
        f"{where}: {shown(label)} is none of the {name}",
        f"{hint}Write a class, or a colour as #rrggbb: phrase",
    )


def read_legend(text: str, source: str = LEGEND, prompt: str = "") -> list[LegendEntry]:
    """The legend's lines: ``#rrggbb: phrase``, or with a palette ``class: phrase`` or ``class``.

    A line that starts with '#' and a blank is a comment; '#2' and '*1.5' after a phrase mean its
    second occurrence and a weight, unless ``prompt`` has them so. Raises RealCompoError for input
    'phrases'.
    """
    out: list[LegendEntry] = []
    rows, words = text.splitlines(), Wordings(prompt)
    require_count(sum(bool(row.strip()) for row in rows), "lines", "phrases")
    for number, row in enumerate(rows, 1):
        row, where = row.strip(), f"line {number}"
        if not row or re.match(r"#(\s|$)", row):
            continue
        found = _LINE.match(row)
        if found:
            colour, name, phrase = _rgb(found["hex"]), f"#{found['hex'].lower()}", found["phrase"]
        elif row.startswith("#") or source == LEGEND:
            raise RealCompoError(
                "phrases", f"{where} {shown(row)} has no colour", "Write #rrggbb: phrase"
            )
        else:
            label, colon, phrase = (part.strip() for part in row.partition(":"))
            name, colour = _class(source, label, where)
            phrase = phrase if colon and phrase else label
        if colour in [entry.colour for entry in out]:
            raise RealCompoError(
                "phrases", f"{where}: {name} has a phrase already", "Give each colour one line"
            )
        line = read_phrase(phrase, where, words)
        if line.values is not None:
            raise RealCompoError("phrases", f"{line.where} has a box", "Write #rrggbb: phrase")
        out.append(LegendEntry(colour, name, line))
    if not out:
        raise RealCompoError("phrases", "there is no line", "Write #rrggbb: phrase for each region")
    return out


def _pixels(image: object) -> np.ndarray:
    """(H, W, 3) uint8 of the first picture."""
    if (
        not isinstance(image, Tensor)
        or image.ndim not in (3, 4)
        or image.shape[-1] not in (3, 4)
        or not image.numel()
    ):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise RealCompoError("image", f"it is {shape}", "Connect an IMAGE in colour")
    found = plain_tensor(image, "image", "an IMAGE", "Connect an IMAGE in colour")
    first = (found[0] if found.ndim == 4 else found)[..., :3].to("cpu", torch.float32)
    return (first.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _nearest(colours: np.ndarray, known: np.ndarray, tolerance: int) -> np.ndarray:
    """Index into ``known`` (K, 3) of the colour nearest to each of ``colours`` (N, 3), or -1 where
    some channel is more than ``tolerance`` away."""
    out = np.empty(len(colours), dtype=np.int64)
    # In parts: a photograph that is no segmentation can hold every colour there is.
    for start in range(0, len(colours), _CHUNK):
        part = colours[start : start + _CHUNK].astype(np.int32)
        away = np.abs(part[:, None] - known[None].astype(np.int32))
        best = (away**2).sum(-1).argmin(1)
        far = away[np.arange(len(part)), best].max(-1) > tolerance
        out[start : start + _CHUNK] = np.where(far, -1, best)
    return out


def _present(colours: np.ndarray, counts: np.ndarray, source: str) -> str:
    """The picture's most frequent colours, by class name where they have one."""
    names = {} if source == LEGEND else {rgb: label for label, rgb in palette(source).items()}
    order = np.argsort(-counts)[:_SHOWN]
    frequent = [tuple(int(c) for c in colours[index]) for index in order]
    return ", ".join(names.get(rgb, "#{:02x}{:02x}{:02x}".format(*rgb)) for rgb in frequent)  # type: ignore[arg-type]


def regions_from_segmentation(
    image: Tensor,
    phrases: str,
    *,
    source: str = LEGEND,
    tolerance: int = 16,
    keep: Keep = "mask",
    min_area: float = 0.0,
    prompt: str = "",
) -> list[Region]:
    """A region for every line of the legend ``phrases``: where the first picture of ``image``
    (B, H, W, 3) in 0..1 has its colour.

    ``source`` is LEGEND or one of ``PALETTES``. A pixel belongs to the nearest colour of legend
    and palette if no channel is further away than ``tolerance`` (0..255), so that compressed and
    resized pictures work. Raises RealCompoError for input 'image' if a colour fills no more than
    ``min_area`` (share of the picture), naming those that are there.
    """
    pixels = _pixels(image)
    legend = read_legend(phrases, source, prompt)
    known = [entry.colour for entry in legend]
    if source != LEGEND:
        known += [rgb for rgb in dict.fromkeys(palette(source).values()) if rgb not in known]
    packed = pixels.astype(np.int64) @ np.asarray([65536, 256, 1])
    values, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=1)
    owner = _nearest(colours, np.asarray(known), tolerance)[where.reshape(packed.shape)]
    regions = []
    for index, entry in enumerate(legend):
        plane = owner == index
        if plane.mean() <= min_area:
            held = _present(colours, counts, source)
            raise RealCompoError(
                "image",
                f"{entry.name} ('{entry.line.phrase}') is not in the picture, which holds {held}",
                "Remove its line, or raise 'tolerance'",
            )
        mask = Mask.from_tensor(torch.from_numpy(plane))
        regions.append(named_region(entry.line, mask.bounds(), mask if keep == "mask" else None))
    return regions
