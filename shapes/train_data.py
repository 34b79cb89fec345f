"""Training sets: scenes drawn once, encoded once, kept as latents in chunk files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .codec import ShapesCodec, fit_encoder
from .render import render
from .world import Relation, Scene, ShapeObject, make_scenes

CHUNK = 512
SEEDS = {
    "realistic": 1_000_003,
    "plain": 2_000_003,
    "sketch": 3_000_017,
    "neon": 5_000_011,
}
PCA_SEED = 77


def atomic_save(value: object, path: Path) -> None:
    """torch.save that never leaves half a file under the final name."""
    partial = path.with_suffix(path.suffix + ".part")
    torch.save(value, partial)
    os.replace(partial, path)


def encoder_state(folder: Path) -> dict[str, Tensor]:
    """The fitted encoder of a training folder; fitted on 1200 pictures if missing."""
    path = folder / "encoder.pt"
    if not path.exists():
        generator = torch.Generator().manual_seed(PCA_SEED)
        pictures = [
            render(make_scenes(count, generator), style, generator)
            for style, count in (("realistic", 600), ("plain", 300), ("sketch", 300))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        atomic_save(fit_encoder(torch.cat(pictures)), path)
    return torch.load(path)


def make_codec(folder: Path) -> ShapesCodec:
    """A codec with the fitted encoder and an untrained (identity) refiner."""
    codec = ShapesCodec()
    codec.load_state_dict(encoder_state(folder), strict=False)
    return codec


def write_chunks(folder: Path, style: str, count: int) -> None:
    """Draw ``count`` scenes in chunks of 512; existing chunks are kept (each has its own seed)."""
    codec = make_codec(folder)
    target = folder / "data" / style
    target.mkdir(parents=True, exist_ok=True)
    for number in range((count + CHUNK - 1) // CHUNK):
        path = target / f"{number:04d}.pt"
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(SEEDS[style] + number)
        scenes = make_scenes(CHUNK, generator)
        with torch.no_grad():
            latents = codec.encode(render(scenes, style, generator) * 2 - 1).half()
        listed = json.dumps([asdict(scene) for scene in scenes])
        atomic_save({"latents": latents, "scenes": listed}, path)


def read_scene(saved: dict[str, Any]) -> Scene:
    """A scene from its ``dataclasses.asdict`` after a trip through JSON."""
    relation = saved["relation"]
    objects = (ShapeObject(o["colour"], o["shape"], tuple(o["box"])) for o in saved["objects"])
    return Scene(tuple(objects), saved["kind"], Relation(**relation) if relation else None)


class LatentSet:
    """All chunks of a style that exist by now; ``refresh`` picks up those written since."""

    def __init__(self, folder: Path, style: str, minimum: int) -> None:
        self.folder, self.seen = folder / "data" / style, 0
        self.parts: list[Tensor] = []
        self.scenes: list[Scene] = []
        while len(self.scenes) < minimum:
            self.refresh()
            if len(self.scenes) < minimum:
                time.sleep(5)
        self.latents = torch.cat(self.parts)

    def refreshed(self, steps: Iterable[int]) -> Iterator[int]:
        """The same steps; every 400th picks up the chunks that were written since."""
        for step in steps:
            if step % 400 == 399:
                self.refresh()
            yield step

    def refresh(self) -> None:
        """Read chunks in order of their number."""
        fresh = False
        while (path := self.folder / f"{self.seen:04d}.pt").exists():
            chunk = torch.load(path)
            self.parts.append(chunk["latents"])
            self.scenes += [read_scene(saved) for saved in json.loads(chunk["scenes"])]
            self.seen += 1
            fresh = True
        if fresh:
            self.latents = torch.cat(self.parts)
