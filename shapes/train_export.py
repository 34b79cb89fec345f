"""Write the trained weights as half precision safetensors with metadata and hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .captioner import FOLDER as CAPTIONER
from .captioner import write_folder
from .control import KINDS
from .host_models import WEIGHTS, weight_hashes
from .train_diffusion import STYLE_OF
from .train_prompts import load_text
from .train_refl import NAME as REFL
from .train_sepen import VARIANTS as SEPEN
from .weights_file import write_file

ABOUT = {
    "codec": "8x8 patch codec of the shapes world: linear encoder, learned decoder",
    "style": "judge of the shapes world's styles: logits over STYLES for every 4x4 block",
    "captioner": "BLIP of the shapes world: says what is in a picture of any of its styles",
    "text": "text encoder of the shapes world behind ComfyUI's SDClipModel",
    "realism": "UNet of the shapes world, realistic style, text only",
    "sketch": "UNet of the shapes world, sketch style, text only",
    "neon": "UNet of the shapes world, neon style, text only",
    "spatial": "UNet of the shapes world, plain style, with boxes (needs grounding.safetensors)",
    "grounding": "box-masked gated cross-attention for spatial.safetensors, behind the GLIGEN hook",
    "segmentation": "ControlNet for spatial.safetensors without boxes, from maps of shape classes",
    "keypoints": "ControlNet for spatial.safetensors without boxes, from skeletons of shapes",
}
# Kept in single precision: the linear codec is exact and small, token ids are integers.
EXACT = ("components", "mean", "scale", "known")


def _write(name: str, state: dict[str, Tensor], facts: dict[str, str]) -> str:
    """Save one file; returns its SHA-256."""
    path = WEIGHTS / f"{name}.safetensors"
    write_file(path, state, {"about": ABOUT[name], "license": "same as the pack", **facts}, EXACT)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _facts(saved: dict[str, object], stage: str) -> dict[str, str]:
    return {
        "trained_by": f"shapes.train {stage}",
        "steps": str(saved["step"]),
        "images": str(saved["images"]),
        "minutes": f"{float(str(saved['spent'])) / 60:.1f}",
    }


def _tensors(stage: str, folder: Path, saved: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Weights files that a stage makes: name and tensors."""
    state = saved["averaged_model"]
    if stage == "text":
        return {"text": load_text(folder).export()}
    if stage not in STYLE_OF:
        return {stage: state}
    files = {stage: {k[5:]: v for k, v in state.items() if k.startswith("unet.")}}
    if stage == "spatial":
        fusers = {k[10:]: v for k, v in state.items() if k.startswith("grounding.")}
        files["grounding"] = fusers
    return files


def _export_captioner(path: Path) -> dict[str, str]:
    """The captioner's folder; SHA-256 of its weights by their path below the weights."""
    saved = torch.load(path)
    state = {k[5:]: v for k, v in saved["averaged_model"].items() if k.startswith("blip.")}
    # tied to what they are copies of; the library fills them in
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    state = {k: v for k, v in state.items() if not k.endswith(tied)}
    about = {"about": ABOUT["captioner"], "license": "same as the pack"}
    files = write_folder(CAPTIONER, state, {**about, **_facts(saved, "captioner")})
    weights = next(file for file in files if file.suffix == ".safetensors")
    name = weights.relative_to(WEIGHTS).as_posix()
    return {name: hashlib.sha256(weights.read_bytes()).hexdigest()}


def export(folder: Path) -> None:
    """Export the averaged weights of every stage, finished or running, of a training folder."""
    WEIGHTS.mkdir(exist_ok=True)
    hashes = {}
    for stage in ("text", "codec", "style", *STYLE_OF, *KINDS):
        path = folder / f"{stage}.pt"
        if not path.exists():
            print(f"{stage}: not trained in this folder, its weights file stays as it is")
            continue
        saved = torch.load(path)
        for name, tensors in _tensors(stage, folder, saved).items():
            hashes[f"{name}.safetensors"] = _write(name, tensors, _facts(saved, stage))
    captioner = folder / "captioner.pt"
    if captioner.exists():
        hashes |= _export_captioner(captioner)
    for file in (REFL, *(f"{name}.safetensors" for name in SEPEN)):
        if not (folder / file).exists():
            continue
        (WEIGHTS / "tuned").mkdir(exist_ok=True)
        content = (folder / file).read_bytes()
        (WEIGHTS / "tuned" / file).write_bytes(content)
        hashes[f"tuned/{file}"] = hashlib.sha256(content).hexdigest()
    # Stages that are not of this folder keep their files, and so their hashes.
    text = json.dumps(dict(sorted((weight_hashes() | hashes).items())), indent=2) + "\n"
    (WEIGHTS / "hashes.json").write_text(text, encoding="utf-8")
