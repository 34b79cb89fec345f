"""How far a model's attention keeps objects apart, and how firmly it looks at each: no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...attention.losses import enhance_loss, separate_loss
from ...attention.report import Reading, SiteMap, columns_of
from ...errors import RealCompoError
from ...layouts.layout import Layout, Region
from ..inputs.encoded import check_width
from .separation import QUIET, Prepared, read_heads
from .session import Session, in_session


@dataclass(frozen=True)
class PromptReport:
    """One prompt's losses per noise level (``separate`` 0..0.25, ``enhance`` 0..1), and maps."""

    prompt: Prepared
    separate: tuple[float, ...]
    enhance: tuple[float, ...]
    reading: Reading
    layout: Layout

    def as_json(self) -> dict[str, Any]:
        """The numbers, for people and other nodes."""
        return {
            "prompt": self.prompt.prompt.text,
            "objects": list(self.prompt.prompt.objects),
            "separate": [round(value, 5) for value in self.separate],
            "enhance": [round(value, 5) for value in self.enhance],
        }


def separation_reports(
    patcher: Any,
    prompts: Sequence[Prepared],
    levels: Sequence[float],
    factor: int,
    size: tuple[int, int],
    seed: int,
    latents: Tensor | None = None,
) -> list[PromptReport]:
    """Both losses of ``patcher`` at parts ``levels`` of its noise schedule, for every prompt.

    Losses are per head, as in training, on the noise of ``seed``; ``latents`` (N, C, H, W), in the
    model's own scale, stand for clean pictures (prompt n takes number n, or the last), else
    quiet noise does. One forward, stopped at the last map, per prompt and level.
    """
    check_width(patcher, [prompt.encoded.text for prompt in prompts])
    reports: list[PromptReport] = []
    bar = comfy.utils.ProgressBar(len(prompts) * len(levels))

    def work(session: Session) -> None:
        channels = session.model.latent_format.latent_channels
        for number, prompt in enumerate(prompts):
            # the same noise for every prompt and model, so that reports can be compared
            session.generator.manual_seed(seed)
            if latents is None:
                clean = QUIET * session.randn(1, channels, *size)
            else:
                clean = latents[min(number, len(latents) - 1)][None].to(session.device)
            reports.append(_report(session, prompt, clean, levels, factor, bar))

    with torch.inference_mode(False):
        in_session(patcher, size, 1, seed, work)
    return reports


@torch.no_grad()
def _report(
    session: Session,
    prompt: Prepared,
    clean: Tensor,
    levels: Sequence[float],
    factor: int,
    bar: Any,
) -> PromptReport:
    box = (0.0, 0.0, 1.0, 1.0)
    layout = Layout(tuple(Region(thing, box) for thing in prompt.prompt.objects))
    separate, enhance, columns, sigmas = [], [], [], []
    for level in levels:
        sigmas.append(session.sigma_at(level))
        sigma = torch.tensor([sigmas[-1]], device=session.device)
        maps = read_heads(session, session.noised(clean, sigma), sigma, [prompt], factor)
        if not bool(torch.isfinite(maps).all()):
            raise RealCompoError(
                "model", f"its attention is no number at noise level {sigmas[-1]:.3g}",
                "Load it in float32 (ComfyUI's --fp32-unet), or make the latents again, if any",
            )  # fmt: skip
        separate.append(float(separate_loss(maps)[0]))
        enhance.append(float(enhance_loss(maps)[0]))
        mean = SiteMap("level", factor, maps.mean(dim=1).cpu())
        # no regions here to lie inside of: the number beside each map is its peak
        columns.append(
            tuple(
                replace(column, shares=column.maps.amax(dim=(-2, -1)))
                for column in columns_of([mean], "mean", layout)
            )
        )
        bar.update(1)
    reading = Reading(tuple(levels), tuple(sigmas), tuple(columns))
    return PromptReport(prompt, tuple(separate), tuple(enhance), reading, layout)
