"""A small workflow with its nodes' descriptions, and a place that draws it without ComfyUI."""

from __future__ import annotations

import copy
import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from realcompo.runner.job import DONE, FAILED, Outcome, Picture, Task
from realcompo.runner.pictures import pixel_hash

ROOT = Path(__file__).resolve().parents[2]


def table(out: Path, key: str = "id") -> dict[Any, dict[str, Any]]:
    """Rows of a run's results by one of their columns, every one once."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(out / "results.parquet").to_pylist()
    found = {row[key]: row for row in rows}
    assert len(found) == len(rows)
    return found


def graph() -> dict[str, Any]:
    """A loader, two prompts, a sampler and a save node, as Export (API) writes them."""
    return copy.deepcopy({
        "1": {"class_type": "Load", "inputs": {"name": "a"}, "_meta": {"title": "Model"}},
        "4": {"class_type": "Encode", "inputs": {"text": "x", "clip": ["1", 1]},
              "_meta": {"title": "Positive"}},
        "5": {"class_type": "Encode", "inputs": {"text": "", "clip": ["1", 1]},
              "_meta": {"title": "Negative"}},
        "8": {"class_type": "Sampler",
              "inputs": {"seed": 7, "steps": 20, "cfg": 3.0, "fast": False, "model": ["1", 0],
                         "positive": ["4", 0], "negative": ["5", 0]},
              "_meta": {"title": "KSampler v1.5"}},
        "9": {"class_type": "Save", "inputs": {"images": ["8", 0], "filename_prefix": "out"},
              "_meta": {"title": "Save"}},
    })  # fmt: skip


INFO: dict[str, Any] = {
    "Load": {"input": {"required": {"name": [["a", "b", "c"], {}]}}, "output": ["MODEL", "CLIP"]},
    "Encode": {"input": {"required": {"text": ["STRING", {}], "clip": ["CLIP"]}},
               "output": ["CONDITIONING"]},
    "Sampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "steps": ["INT", {"min": 1, "max": 100}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 30.0}],
                "fast": ["BOOLEAN", {}],
                "model": ["MODEL"], "positive": ["CONDITIONING"], "negative": ["CONDITIONING"],
            },
            "optional": {"mode": ["COMBO", {"options": ["one", "two"]}]},
        },
        "output": ["IMAGE"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
             "output": [], "output_node": True},
}  # fmt: skip


def picture(*about: Any, count: int = 1) -> list[Picture]:
    """Pictures that only ``about`` decides."""
    found = []
    for number in range(count):
        buffer = io.BytesIO()
        shade = hash(json.dumps([*about, number])) & 0xFFFFFF
        Image.new("RGB", (4, 4), (shade >> 16, (shade >> 8) & 255, shade & 255)).save(buffer, "PNG")
        data = buffer.getvalue()
        found.append(Picture("9", ".png", data, pixel_hash(data)))
    return found


class Painter:
    """A backend that paints one colour per seed; keeps what it was asked for."""

    def __init__(self, fail: Iterable[int] = (), die_after: int | None = None) -> None:
        """``fail``: seeds whose rows fail; ``die_after``: rows after which the process 'dies'."""
        self.fail, self.die_after = set(fail), die_after
        self.asked: list[Task] = []

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: copy.deepcopy(INFO[name]) for name in names if name in INFO}

    def results(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Outcome]:
        for task in tasks:
            if stop.is_set():
                return
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise Killed
            self.asked.append(task)
            seed = task.graph["8"]["inputs"]["seed"]
            if seed in self.fail:
                yield Outcome(task.id, FAILED, "painter", error=f"seed {seed} fails")
            else:
                yield Outcome(task.id, DONE, "painter", 0.5, pictures=picture(seed))

    def interrupt(self) -> None:
        pass


class Killed(BaseException):
    """What ends a test's run as if its process had died."""
