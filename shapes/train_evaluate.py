"""Figures for the model card: what the exported weights draw, judged on unseen scenes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .captioner import FOLDER, read_pairs
from .control import KINDS, tells_apart
from .host_models import WEIGHTS, load_codec, read_weights
from .oracle import detect, judge_scenes, rates
from .render import render
from .text import BUCKETS
from .train_control import draw_controlled, load_exported
from .train_diffusion import STYLE_OF, Trainee
from .train_grid import sheet
from .train_maps import WordMaps, map_shares
from .train_noise import alphas_cumprod, sample
from .train_prompts import encode_scenes, phrase_vectors
from .train_text import CaptionTokens, CompactText
from .world import STYLES, Scene, make_scenes

SEED = 90_001
BATCH = 32
# The oracle says anyway what the models draw: fewer pictures do for the captioner.
SAMPLES = 32
PROBED = (950, 800, 600, 400, 200, 50)


def _text() -> CompactText:
    state, _ = read_weights("text.safetensors")
    text = CompactText(state["known"])
    assert len(state["table"]) == len(state["known"]) + BUCKETS
    trunk = {k: v.float() for k, v in state.items() if k.startswith("trunk.")}
    text.load_state_dict({**trunk, "known": state["known"], "table.weight": state["table"].float()})
    return text.eval().requires_grad_(False)


def _trainee(part: str) -> Trainee:
    model = Trainee(part == "spatial")
    state, _ = read_weights(f"{part}.safetensors")
    model.unet.load_state_dict({k: v.float() for k, v in state.items()})
    if model.grounding is not None:
        state, _ = read_weights("grounding.safetensors")
        model.grounding.load_state_dict({k: v.float() for k, v in state.items()})
    return model.eval().requires_grad_(False)


def _draw(model: Trainee, text: CompactText, scenes: Sequence[Scene], rounded: bool) -> Tensor:
    """(N, 3, 128, 128) samples of the scenes' captions."""
    codec = load_codec()
    pictures = []
    for start in range(0, len(scenes), BATCH):
        some = scenes[start : start + BATCH]
        prompts = encode_scenes(CaptionTokens(), some, random.Random(start))
        if rounded:
            prompts = prompts._replace(boxes=(prompts.boxes * 16).round() / 16)
        pictures.append(codec.pictures(sample(model, text, prompts, seed=SEED + start)))
    return torch.cat(pictures)


@torch.no_grad()
def _map_shares(model: Trainee, text: CompactText, style: str, count: int) -> dict[str, float]:
    """In-box share of colour and noun tokens' 16x16 maps on noised real pictures, by timestep."""
    generator = torch.Generator().manual_seed(SEED + 7)
    scenes = make_scenes(count, generator)
    latents = load_codec().encode(render(scenes, style, generator) * 2 - 1)
    prompts = encode_scenes(CaptionTokens(), scenes, random.Random(7))
    context, meaning = text(prompts.tokens)
    phrases = phrase_vectors(meaning, prompts)
    result = {}
    for t in PROBED:
        alpha = alphas_cumprod()[t]
        noise = torch.randn(latents.shape, generator=generator)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        maps = WordMaps()
        model(noisy, torch.full((count,), t), context, phrases, prompts.boxes, maps)
        finest = max(maps.each, key=lambda words: words.shape[-1])
        (share,) = map_shares([finest], prompts.boxes, prompts.owners, prompts.groups)
        result[str(t)] = float(share.sum() / (prompts.owners >= 0).sum())
    return result


def _score_codec(scenes: Sequence[Scene], generator: torch.Generator) -> dict[str, Any]:
    """PSNR of clean drawings in every style, and what the oracle makes of them afterwards."""
    codec, report = load_codec(), {}
    for style in STYLES:
        clean = render(scenes, style, generator)
        with torch.no_grad():
            back = codec.pictures(codec.encode(clean * 2 - 1))
        error = (back - clean).square().mean((1, 2, 3))
        report[f"codec {style}"] = {
            "psnr": float((-10 * error.log10()).mean()),
            **rates(judge_scenes(back, scenes)),
        }
    return report


def _score_diffusion(part: str, scenes: Sequence[Scene], folder: Path) -> dict[str, Any]:
    """What one diffusion model draws by text, and the spatial one in its boxes."""
    text, model = _text(), _trainee(part)
    report: dict[str, Any] = {f"{part} maps": _map_shares(model, text, STYLE_OF[part], 64)}
    for rounded in (False, True)[: 1 + (part == "spatial")]:
        pictures = _draw(model, text, scenes, rounded)
        name = f"{part} rounded boxes" if rounded else part
        report[name] = rates(judge_scenes(pictures, scenes))
        sheet(pictures[:24], 8).save(folder / f"evaluate_{name.replace(' ', '_')}.png")
    return report


def _score_control(kind: str, scenes: Sequence[Scene], folder: Path) -> dict[str, Any]:
    """What the spatial model draws with a ControlNet, on all scenes and on those told apart."""
    text, codec, model = _text(), load_codec(), load_exported(kind)
    drawn = []
    for start in range(0, len(scenes), BATCH):
        some = scenes[start : start + BATCH]
        drawn.append(draw_controlled(model, text, codec, some, kind, SEED + start)[0])
    pictures = torch.cat(drawn)
    sheet(pictures[:24], 8).save(folder / f"evaluate_{kind}.png")
    plain = [number for number, scene in enumerate(scenes) if tells_apart(scene)]
    apart = rates(judge_scenes(pictures[plain], [scenes[number] for number in plain]))
    return {kind: rates(judge_scenes(pictures, scenes)), f"{kind} told apart": apart}


def _caption_rates(
    captions: Sequence[str], wanted: Sequence[set[tuple[str, str]]]
) -> dict[str, float]:
    """Recall and precision of (colour, shape) pairs over all captions; exact: no pair is wrong."""
    named = [read_pairs(caption) for caption in captions]
    hits = sum(len(a & b) for a, b in zip(named, wanted, strict=True))
    return {
        "recall": hits / max(sum(map(len, wanted)), 1),
        "precision": hits / max(sum(map(len, named)), 1),
        "exact": sum(a == b for a, b in zip(named, wanted, strict=True)) / len(named),
    }


def _score_captioner(scenes: Sequence[Scene], generator: torch.Generator) -> dict[str, Any]:
    """Captions of unseen drawings, and of what the models drew, against what the oracle sees."""
    from ..balancer.comfy.captions.captioner_folder import load_captioner

    captioner, codec, report = load_captioner(FOLDER), load_codec(), {}
    truth = [{(o.colour, o.shape) for o in scene.objects} for scene in scenes]
    for style in STYLES:
        with torch.no_grad():
            pictures = codec.pictures(codec.encode(render(scenes, style, generator) * 2 - 1))
        report[f"captions of {style} drawings"] = _caption_rates(captioner.caption(pictures), truth)
    text = _text()
    for part in ("realism", "sketch", "neon"):
        pictures = _draw(_trainee(part), text, scenes[:SAMPLES], False)
        seen = [{(f.colour, f.shape) for f in found} for found in detect(pictures)]
        report[f"captions of {part} samples"] = _caption_rates(captioner.caption(pictures), seen)
    return report


def evaluate(folder: Path, count: int, parts: Sequence[str] = ()) -> None:
    """Judge the files in ``shapes/weights``; ``evaluation.json`` and grids go to ``folder``.

    ``parts`` names some of ``codec``, ``captioner``, the diffusion models and the ControlNets: the
    other figures of an evaluation that is there on as many scenes stay as they are. Default: all
    there are.
    """
    generator = torch.Generator().manual_seed(SEED)
    scenes = make_scenes(count, generator)
    report: dict[str, Any] = {"scenes": count, "objects": sum(len(s.objects) for s in scenes)}
    path = folder / "evaluation.json"
    if parts and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["scenes"] != count:
            raise SystemExit(f"{path} is of {before['scenes']} scenes: give --scenes or all parts")
        report = before
    for part in parts or ("codec", "captioner", *STYLE_OF, *KINDS):
        if part == "codec":
            report |= _score_codec(scenes, generator)
        elif part == "captioner":
            report |= _score_captioner(scenes, generator)
        elif not (WEIGHTS / f"{part}.safetensors").exists():
            print(f"{part}: no weights file")
        elif part in STYLE_OF:
            report |= _score_diffusion(part, scenes, folder)
        else:
            report |= _score_control(part, scenes, folder)
        path.write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(json.dumps(report, indent=2))
