"""Hugging Face model folders below the host's model folders: captioners and sentence encoders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import RealCompoError

# Where packs that run such models already keep them, beside a folder of our own.
PLACES = {
    "captioners": ("captioners", "LLM", "blip"),
    "sentence_encoders": ("sentence_encoders",),
}
TYPES = {
    "captioners": ("blip", "blip-2", "florence2"),
    "sentence_encoders": (
        *("bert", "mpnet", "roberta", "xlm-roberta", "distilbert", "albert", "deberta-v2"),
        *("electra", "modernbert"),
    ),
}


def _roots(kind: str) -> list[Path]:
    """Folders of a kind: ours, those of other packs, and those of extra_model_paths.yaml."""
    try:
        import folder_paths
    except ImportError:
        return []
    base = Path(folder_paths.models_dir)
    told = folder_paths.folder_names_and_paths.get(kind)
    own = [Path(path) for path in told[0]] if told else []
    return list(dict.fromkeys([*own, *(base / name for name in PLACES[kind])]))


def _model_type(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _models(kind: str) -> Iterable[tuple[str, Path]]:
    """Name and path of every model, at most two folders deep ('owner/model')."""
    for root in _roots(kind):
        for config in sorted((*root.glob("*/config.json"), *root.glob("*/*/config.json"))):
            if _model_type(config.parent) in TYPES[kind]:
                yield config.parent.relative_to(root).as_posix(), config.parent


def names(kind: str) -> list[str]:
    """Models of a kind that are there; the first of equal names counts."""
    return list(dict.fromkeys(name for name, _ in _models(kind)))


def find(kind: str, name: str, where: str) -> Path:
    """Folder of a model by its name; RealCompoError at ``where`` if it is not there.

    Only names that ``names`` lists are found, so that no graph can reach other folders.
    """
    for known, folder in _models(kind):
        if known == name:
            return folder
    raise RealCompoError(
        where, f"there is no model '{name}'",
        f"Put its Hugging Face folder into ComfyUI's models/{PLACES[kind][0]} and refresh the page",
    )  # fmt: skip
