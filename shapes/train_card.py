"""The model card: its tables are filled in from the weights files and the last evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .host_models import WEIGHTS

FILES = "**/*.safetensors"
TEMPLATE = WEIGHTS / "CARD.template.md"
COLUMNS = ("right", "colour", "shape", "present", "count", "binding", "relation", "place")
NAMES = {
    "realism": "realism, text only",
    "sketch": "sketch, text only",
    "neon": "neon, text only",
    "spatial": "spatial, exact boxes",
    "spatial rounded boxes": "spatial, boxes rounded to 8 pixels",
    "segmentation": "spatial with segmentation map, no boxes",
    "segmentation told apart": "the same, scenes where map and caption tell all objects apart",
    "keypoints": "spatial with keypoints, no boxes",
    "keypoints told apart": "the same, scenes told apart",
    "codec realistic": "realistic drawings through the codec",
    "codec plain": "plain drawings through the codec",
    "codec sketch": "sketch drawings through the codec",
    "codec neon": "neon drawings through the codec",
}


def files_table() -> str:
    """Every weights file with its size and the training that its metadata tell of."""
    lines = ["| file | what | MiB | steps | training pictures | minutes |", "|" + "---|" * 6]
    for path in sorted(WEIGHTS.glob(FILES)):
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
        size = path.stat().st_size / 2**20
        name = path.relative_to(WEIGHTS).as_posix()
        lines.append(
            f"| `{name}` | {facts['about']} | {size:.2f} | {int(facts['steps']):,} "
            f"| {int(facts['images']):,} | {float(facts['minutes']):.0f} |"
        )
    return "\n".join(lines)


def scores_table(report: dict[str, Any]) -> str:
    """Verdicts of the oracle on what the models draw."""
    lines = [f"| pictures | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for key, name in NAMES.items():
        if key in report:
            cells = (f"{report[key][column]:.3f}" for column in COLUMNS)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def captions_table(report: dict[str, Any]) -> str:
    """What the captioner says of drawings and of samples."""
    columns = ("recall", "precision", "exact")
    lines = [f"| pictures | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for key, value in report.items():
        if key.startswith("captions of "):
            cells = (f"{value[column]:.3f}" for column in columns)
            lines.append(f"| {key[12:]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def maps_table(report: dict[str, Any]) -> str:
    """In-box share of words' maps by timestep."""
    parts = [key[:-5] for key in report if key.endswith(" maps")]
    times = list(report[f"{parts[0]} maps"])
    lines = [f"| model | {' | '.join(f't = {t}' for t in times)} |", "|---|" + "---|" * len(times)]
    for part in parts:
        cells = (f"{share:.2f}" for share in report[f"{part} maps"].values())
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_card(folder: Path) -> None:
    """Fill the template from ``evaluation.json`` in ``folder`` (see ``train_evaluate``)."""
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in WEIGHTS.glob(FILES)) / 2**20
    psnr = ", ".join(
        f"{report[key]['psnr']:.1f} dB {key[6:]}" for key in report if key.startswith("codec ")
    )
    text = TEMPLATE.read_text(encoding="utf-8").format(
        files=files_table(), size=size, scenes=report["scenes"], objects=report["objects"],
        error=0.5 / report["objects"] ** 0.5, scores=scores_table(report),
        maps=maps_table(report), psnr=psnr, captions=captions_table(report),
    )  # fmt: skip
    (WEIGHTS / "CARD.md").write_text(text, encoding="utf-8", newline="\n")
