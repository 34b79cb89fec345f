"""The fine stage over many scenes: what the oracle sees in coarse pictures becomes layouts, and the
pictures are drawn again by them, a batch at a time.

Every scene has its own prompt, layout and noise, as in ``pictures.py``. Used by the tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...balancer.attention.regions import LayoutBatch
from ...balancer.attention.tokens import phrase_spans
from ...balancer.captions.align import Missing, align, captions_by_rules
from ...balancer.captions.detections import Detection
from ...balancer.comfy.dense.apply import dense_model, with_plan
from ...balancer.comfy.dense.phrases import with_phrases
from ...balancer.comfy.text.tokenizer import encode_prompt
from ...balancer.dense.modulation import DenseSettings
from ...balancer.dense.plan import MODULATE, DensePlan
from ...balancer.errors import RealCompoError
from ...balancer.layouts.from_masks import Keep
from ...balancer.layouts.layout import Layout
from ...balancer.layouts.mask import Mask
from ...shapes.oracle import detect_masks
from ..passes import counting
from ..pictures import CFG, SAMPLER, SCHEDULER, STEPS, Drawn, PromptedScene, Studio

NOISE, LATENT = "noise", "latent"
LIGHT = "light"
"""From the latent, too, but with less noise and modulated for a shorter time."""
PLAIN = "plain"
"""A mode without a fine stage: the picture is drawn again by its prompt alone."""
FRESH = 1 << 30
"""Added to a scene's seed where noise is put on its coarse latent."""
# Chosen on pairs that are not held out: the demo's models settle things later than SD does, and
# self-attention that is kept to regions takes more of their look than it puts right.
SHAPES_ATTENTION = DenseSettings(cross_strength=1.0, self_strength=0.0, end_fraction=0.6, power=1.0)


@dataclass(frozen=True)
class FineSettings:
    """One recipe of the fine stage.

    ``attention`` and ``mode`` as RealCompo Re-weighted Attention has them, or ``PLAIN``;
    ``missing`` as RealCompo Dense Captions; ``denoise`` (0..1) counts where the start is the coarse
    latent. ``nouns``: the detector says the shape only, as one that knows no colours does.
    """

    attention: DenseSettings = field(default_factory=DenseSettings)
    mode: str = MODULATE
    missing: Missing = "place"
    denoise: float = 0.8
    nouns: bool = False
    keep: Keep = "mask"


SHAPES_FINE = {
    NOISE: FineSettings(attention=SHAPES_ATTENTION),
    # from a latent the schedule's first part is over, so the attention is modulated to the end
    LATENT: FineSettings(attention=replace(SHAPES_ATTENTION, end_fraction=1.0), denoise=0.7),
    LIGHT: FineSettings(attention=SHAPES_ATTENTION, denoise=0.6),
    PLAIN: FineSettings(mode=PLAIN, denoise=0.7),
    f"{PLAIN}-{LIGHT}": FineSettings(mode=PLAIN, denoise=0.6),
}
"""By the kind of the second drawing; ``PLAIN`` is the comparison without a fine stage."""


def layouts_of(
    prompts: Sequence[PromptedScene], coarse: Tensor, settings: FineSettings
) -> list[Layout | None]:
    """What RealCompo Dense Captions makes of every coarse picture (N, 3, H, W) in 0..1, seen by the
    oracle; None where nothing was found and nothing is to be placed."""
    if settings.mode == PLAIN:
        return [one.layout for one in prompts]
    made: list[Layout | None] = []
    for one, seen in zip(prompts, detect_masks(coarse), strict=True):
        found = [
            Detection(
                thing.shape if settings.nouns else f"{thing.colour} {thing.shape}",
                thing.box, Mask.from_tensor(mask.float()),
            )
            for thing, mask in seen
        ]  # fmt: skip
        prompt = one.layout.prompt
        captions, _ = captions_by_rules(prompt)
        try:
            aligned = align(captions, found, prompt, settings.missing, keep=settings.keep)
        except RealCompoError:
            made.append(None)
        else:
            made.append(Layout(aligned.regions, aligned.prompt))
    return made


def _conditioning(
    prompts: Sequence[PromptedScene], layouts: Sequence[Layout], clip: Any, settings: FineSettings
) -> Any:
    """The node's conditioning for a batch whose samples have prompts and layouts of their own."""
    if settings.mode == PLAIN:
        return [[torch.cat([one.text for one in prompts]), {}]]
    spans = [phrase_spans(one, encode_prompt(one.prompt), encode_prompt) for one in layouts]
    texts = torch.cat([one.text for one in prompts])
    if settings.mode == MODULATE:
        rows = [
            with_phrases([[text[None], {}]], clip, layout, span)[0][0]
            for text, layout, span in zip(texts, layouts, spans, strict=True)
        ]
        texts = torch.cat(rows)
    regions = LayoutBatch.of(list(layouts), spans)
    plan = DensePlan(regions, texts.shape[1], settings.attention, settings.mode)
    return with_plan([[texts, {}]], plan)


@torch.inference_mode()
def refine(
    studio: Studio,
    prompts: Sequence[PromptedScene],
    coarse: Tensor,
    settings: FineSettings,
    start: str = NOISE,
    batch: int = 32,
    steps: int = STEPS,
    cfg: float = CFG,
) -> Tensor:
    """The coarse pictures (N, 3, H, W) in 0..1 drawn again by their own layouts: the same shape.

    ``start``: 'noise' starts from the noise of the scene's seed, 'latent' from the coarse picture's
    latent with fresh noise on it, by ``settings.denoise``. A picture without a layout stays as it
    is.
    """
    model = studio.realism if settings.mode == PLAIN else dense_model(studio.realism)
    sampler = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=SAMPLER, scheduler=SCHEDULER,
        denoise=settings.denoise if start == LATENT else 1.0, model_options=model.model_options,
    )  # fmt: skip
    made = layouts_of(prompts, coarse, settings)
    empty = studio.clip.encode_from_tokens(studio.clip.tokenize(""))
    drawn = coarse.clone()
    rows = [number for number, layout in enumerate(made) if layout is not None]
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        chosen = [prompts[number] for number in some]
        layouts = [layout for number in some if (layout := made[number]) is not None]
        # noise that the picture came from is no noise to it: what they share would count twice
        again = [replace(one, seed=one.seed + FRESH) for one in chosen]
        noise = studio.noise(again if start == LATENT else chosen)
        latent = torch.zeros_like(noise)
        if start == LATENT:
            latent = studio.vae.encode(coarse[some].permute(0, 2, 3, 1))
        positive = _conditioning(chosen, layouts, studio.clip, settings)
        latents = sampler.sample(
            noise, studio.tuned(positive), studio.tuned([[empty, {}]]), cfg=cfg,
            latent_image=latent, disable_pbar=True, seed=chosen[0].seed,
        )  # fmt: skip
        pictures = studio.vae.decode(latents).permute(0, 3, 1, 2).clamp(0, 1)
        drawn[some] = pictures.to(drawn)
    return drawn


def known_start(start: str) -> bool:
    """Whether pictures can be drawn again from there."""
    return start in SHAPES_FINE


def _start_of(start: str) -> str:
    """Noise or latent: where a kind of second drawing starts."""
    return NOISE if start == NOISE else LATENT


def fine_key(start: str) -> list[Any]:
    """What the stage's pictures depend on, beside those it starts from and their model."""
    settings = SHAPES_FINE[start]
    return [PLAIN if settings.mode == PLAIN else _start_of(start), asdict(settings)]


def refined(
    studio: Studio, prompts: Sequence[PromptedScene], coarse: Tensor, start: str, steps: int
) -> Drawn:
    """Pictures drawn again; ``coarse`` (N, 3, H, W) in 0..1 are those of ``prompts``.

    Pictures in which nothing is seen stay as they are, and cost nothing here.
    """
    began = time.perf_counter()
    with counting([studio.realism.model.diffusion_model]) as passes:
        settings = SHAPES_FINE[start]
        pictures = refine(studio, prompts, coarse, settings, _start_of(start), steps=steps)
    seconds = (time.perf_counter() - began) / len(prompts)
    return Drawn(pictures, passes.entered / len(prompts), 0.0, 0.0, seconds)
