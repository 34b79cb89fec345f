"""Write the trained weights as half precision safetensors with metadata and hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .host_models import WEIGHTS
from .train_diffusion import load_text

ABOUT = {
    "codec": "8x8 patch codec of the shapes world: linear encoder, learned decoder",
    "text": "text encoder of the shapes world behind ComfyUI's SDClipModel",
    "realism": "UNet of the shapes world, realistic style, text only",
    "spatial": "UNet of the shapes world, plain style, with boxes (needs grounding.safetensors)",
    "grounding": "box-masked gated cross-attention for spatial.safetensors, behind the GLIGEN hook",
}
# Kept in single precision: the linear codec is exact and small, token ids are integers.
EXACT = ("components", "mean", "scale", "known")


def _write(name: str, state: dict[str, Tensor], facts: dict[str, str]) -> str:
    """Save one file; returns its SHA-256."""
    tensors = {
        key: (value if key in EXACT else value.half()).detach().clone().contiguous()
        for key, value in state.items()
    }
    path = WEIGHTS / f"{name}.safetensors"
    partial = path.with_suffix(".part")
    save_file(tensors, str(partial), {"about": ABOUT[name], "license": "same as the pack", **facts})
    # The writer makes files that only their owner can read; a clone must be able to serve them.
    partial.chmod(0o644)
    partial.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _facts(saved: dict[str, object], stage: str) -> dict[str, str]:
    return {
        "trained_by": f"shapes.train {stage}",
        "steps": str(saved["step"]),
        "images": str(saved["images"]),
        "minutes": f"{float(str(saved['spent'])) / 60:.1f}",
    }


def export(folder: Path) -> None:
    """Export every finished or running stage of a training folder (averaged weights)."""
    WEIGHTS.mkdir(exist_ok=True)
    hashes = {}
    saved = torch.load(folder / "text.pt")
    hashes["text"] = _write("text", load_text(folder).export(), _facts(saved, "text"))
    saved = torch.load(folder / "codec.pt")
    hashes["codec"] = _write("codec", saved["averaged_model"], _facts(saved, "codec"))
    for part in ("realism", "spatial"):
        saved = torch.load(folder / f"{part}.pt")
        state = saved["averaged_model"]
        unet = {k[5:]: v for k, v in state.items() if k.startswith("unet.")}
        hashes[part] = _write(part, unet, _facts(saved, part))
        if part == "spatial":
            fusers = {k[10:]: v for k, v in state.items() if k.startswith("grounding.")}
            hashes["grounding"] = _write("grounding", fusers, _facts(saved, part))
    listed = {f"{name}.safetensors": value for name, value in sorted(hashes.items())}
    text = json.dumps(listed, indent=2) + "\n"
    (WEIGHTS / "hashes.json").write_text(text, encoding="utf-8")
