"""The workflow and the rows that ``bench/runner`` draws: the demo's own, with many layouts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...runner.job import Backend, Graph

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "workflows" / "realcompo_demo.json"
LAYOUT, SAMPLER = "RealCompo Layout From Boxes", "RealCompo Dual Sampler: realcompo"
STYLES = ("realistic", "sketch", "neon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star", "cross")


def demo_graph(backend: Backend, saved: str, steps: int) -> Graph:
    """The part of the demo workflow that saves ``saved`` (a file name prefix's last part), as
    Export (API) writes it, with ``steps`` steps."""
    from execute import ancestors
    from workflow import classes_of, to_api

    workflow = json.loads(DEMO.read_text(encoding="utf-8"))
    whole = to_api(workflow, backend.describe(classes_of(workflow)))
    last = next(
        name for name, node in whole.items()
        if str(node["inputs"].get("filename_prefix", "")).endswith("/" + saved)
    )  # fmt: skip
    keep = {last, *ancestors(whole, last)}
    graph = {name: node for name, node in whole.items() if name in keep}
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    return graph


def bench_rows(count: int, styles: Iterable[str] = STYLES) -> list[dict[str, Any]]:
    """Rows of two things side by side; a style after the other, so that rows of one style are
    spread over the table."""
    chance, styles, rows = random.Random(20_261_122), list(styles), []
    for number in range(count):
        phrases, lines = [], []
        for left in chance.sample((0.05, 0.52), 2):
            colour, shape = chance.choice(COLOURS), chance.choice(SHAPES)
            article = "an" if colour == "orange" else "a"
            phrase = f"{article} {colour} {shape}"
            if phrase in phrases:
                phrase = next(f"a {other} {shape}" for other in ("red", "blue")
                              if other != colour)  # fmt: skip
            top, side = chance.uniform(0.05, 0.5), chance.uniform(0.36, 0.42)
            box = (left, top, left + side, top + side)
            phrases.append(phrase)
            lines.append(f"{phrase}: " + " ".join(f"{edge:.3f}" for edge in box))
        rows.append({
            "id": f"scene-{number:03}",
            f"{LAYOUT}.phrases": "\n".join(lines),
            f"{LAYOUT}.prompt": " and ".join(phrases),
            "seed": number,
            "Realism model.style": styles[number % len(styles)],
        })  # fmt: skip
    return rows
