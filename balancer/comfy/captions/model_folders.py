"""Hugging Face model folders below the host's model folders: captioners and sentence encoders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import RealCompoError, shown
from ...values.foreign_json import has_surrogates, read_json_file

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
TOKENIZER_FILES = "tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model"
_TOKENIZERS = (
    ("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("spiece.model",),
    ("sentencepiece.bpe.model",), ("tokenizer.model",),
)  # fmt: skip
LONGEST_FILE = 4 << 20
"""Bytes of a folder's small JSON files; true ones have some thousands."""


def _roots(kind: str) -> list[Path]:
    """Folders of a kind: ours, those of other packs, and those of extra_model_paths.yaml."""
    try:
        import folder_paths
    except ImportError:
        return []
    base = Path(folder_paths.models_dir)
    registered = folder_paths.folder_names_and_paths.get(kind)
    own = [Path(path) for path in registered[0]] if registered else []
    return list(dict.fromkeys([*own, *(base / name for name in PLACES[kind])]))


def read_settings(path: Path, where: str) -> dict[str, Any]:
    """One of the small JSON files of a model folder; RealCompoError at ``where`` if it is none."""
    return read_json_file(
        path, where, f"{path.name} of '{path.parent.name}'",
        "Choose a folder that holds a whole Hugging Face model, or download that file again",
        longest=LONGEST_FILE, finite=False, kinds=(dict,),
    )  # fmt: skip


def require_tokenizer(folder: Path, where: str) -> None:
    """Raise RealCompoError at ``where`` for a folder without the files of a tokenizer.

    The library makes an empty tokenizer of no files, and every text becomes nothing.
    """
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise RealCompoError(
            where, f"'{folder.name}' holds no tokenizer",
            f"Download its files too: {TOKENIZER_FILES}",
        )  # fmt: skip


def _model_type(folder: Path) -> str:
    """'' for whatever is no model: one bad folder does not hide the others."""
    try:
        return str(read_settings(folder / "config.json", "folder").get("model_type", ""))
    except RealCompoError:
        return ""


def _configs(root: Path) -> list[Path]:
    """Every config.json one or two folders below ``root``, sorted; what cannot be read is none."""
    found: list[Path] = []
    for folder in _folders(root):
        found += [inner / "config.json" for inner in (folder, *_folders(folder))]
    return sorted(path for path in found if os.path.isfile(path) and not has_surrogates(str(path)))


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except (OSError, ValueError):
        return []


def _models(kind: str) -> Iterable[tuple[str, Path]]:
    """Name and path of every model, at most two folders deep ('owner/model')."""
    for root in _roots(kind):
        for config in _configs(root):
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
        where, f"there is no model {shown(name)}",
        f"Put its Hugging Face folder into ComfyUI's models/{PLACES[kind][0]} and refresh the page",
    )  # fmt: skip
