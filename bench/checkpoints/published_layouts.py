"""DenseDiffusion's published benchmark as layouts: captions, segments' phrases, colour pictures.

A folder holds ``captions.json``, a list of {"id", "textual_condition", "segment_descriptions"}, or
a pickle of {id: {the same}} as it was published, and the pictures ``<id>.png`` beside it or one
folder below. A picture has one flat colour for each description, the largest area first; black or
white comes first whatever its area. An empty description is a background without words.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...balancer.errors import RealCompoError
from ...balancer.layouts.layout import Layout, Region
from ...balancer.layouts.mask import Mask

CAPTION, PHRASES = "textual_condition", "segment_descriptions"
SIDE = 64
"""Masks are sampled to this many cells a side, as the released code does before anything else."""


def _refuse(problem: str, remedy: str) -> RealCompoError:
    return RealCompoError("--layouts", problem, remedy)


class _Plain(pickle.Unpickler):
    """Reads pickles of plain values and nothing else: no name is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _captions(folder: Path) -> dict[str, dict[str, Any]]:
    """Captions by id. Raises RealCompoError."""
    files = [*folder.glob("captions.json"), *sorted(folder.glob("*.pkl"))]
    if not files:
        raise _refuse(f"'{folder.name}' has no captions.json", "Give the benchmark's folder")
    try:
        if files[0].suffix == ".json":
            listed = json.loads(files[0].read_text(encoding="utf-8"))
            values = {str(item["id"]): item for item in listed}
        else:
            with files[0].open("rb") as file:
                values = {str(key): item for key, item in _Plain(file).load().items()}
        for item in values.values():
            if not isinstance(item[CAPTION], str) or not all(
                isinstance(phrase, str) for phrase in item[PHRASES]
            ):
                raise TypeError(f"{CAPTION} or {PHRASES} is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise _refuse(
            f"'{files[0].name}' cannot be read ({error!r})",
            f"It holds {CAPTION} and {PHRASES} of every picture",
        ) from error
    return values


def segment_colours(pixels: np.ndarray, count: int) -> list[tuple[int, ...]]:
    """The ``count`` most frequent colours of ``pixels`` (H, W, 3), largest area first; black or
    white moved to the front. Fewer where the picture has fewer."""
    colours, areas = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    order = np.argsort(-areas, kind="stable")[:count]
    chosen = [tuple(int(v) for v in colours[n]) for n in order]
    plain = [c for c in chosen if c in ((0, 0, 0), (255, 255, 255))]
    return [*plain, *(c for c in chosen if c not in plain)]


def segments(pixels: np.ndarray, phrases: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every phrase with its mask (SIDE, SIDE); those without words or without a cell are left out.

    Raises RealCompoError where phrases and colours cannot be told apart.
    """
    colours = segment_colours(pixels, len(phrases))
    if len(colours) == len(phrases) - 1 and phrases and not phrases[0].strip():
        # a picture that is all foreground, with a description for the background it does not have
        phrases = phrases[1:]
    if len(colours) != len(phrases):
        raise _refuse(
            f"{len(phrases)} descriptions, but the picture has {len(colours)} colours",
            "Paint every description in a flat colour of its own",
        )
    rows, columns = (np.arange(SIDE) * size // SIDE for size in pixels.shape[:2])
    small = pixels[rows][:, columns]
    for phrase, colour in zip(phrases, colours, strict=True):
        mask = (small == np.array(colour)).all(axis=-1)
        if phrase.strip() and mask.any():
            yield phrase, torch.from_numpy(mask).float()


def read_published(folder: Path) -> list[Layout]:
    """The benchmark's layouts in the order of their ids. Raises RealCompoError naming the item."""
    from PIL import Image

    layouts = []
    captions = _captions(folder)
    for key in sorted(captions, key=lambda name: (len(name), name)):
        item = captions[key]
        found = [*folder.glob(f"{key}.png"), *sorted(folder.glob(f"*/{key}.png"))]
        if not found:
            raise _refuse(f"item {key} has no picture", f"Put {key}.png beside the captions")
        try:
            with Image.open(found[0]) as opened:
                pixels = np.asarray(opened.convert("RGB"))
        except OSError as error:
            raise _refuse(f"'{found[0].name}' is no picture ({error})", "Give a PNG") from error
        try:
            regions = tuple(
                Region.from_mask(phrase, Mask.from_tensor(mask))
                for phrase, mask in segments(pixels, list(item[PHRASES]))
            )
        except RealCompoError as error:
            raise _refuse(f"item {key}: {error.problem}", error.remedy) from error
        height, width = pixels.shape[:2]
        layouts.append(Layout(regions, item[CAPTION], width, height))
    return layouts
