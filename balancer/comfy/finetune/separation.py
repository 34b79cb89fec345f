"""Separate-and-Enhance (Bao et al., arXiv 2312.06712): finetuning on its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.utils
import torch
from torch import Tensor

from ...attention.losses import (
    PEAKS,
    SEPARATE_FORMS,
    Peak,
    SeparateForm,
    enhance_loss,
    separate_loss,
)
from ...attention.maps import HeadMaps
from ...attention.regions import LayoutBatch
from ...errors import RealCompoError
from ...finetune.prompts import TrainingPrompt
from ...layouts.layout import Layout, Region
from ...values.setting_fields import check, choice, number, whole
from ..inputs.types import resolve
from .session import Encoded, Session, encode
from .training_step import PromptGroups, distance_to_untrained, noise_error
from .walk import noise_levels, walk

Heads = Literal["each", "mean"]
NormForm = Literal["frozen prediction", "denoising"]
States = Literal["noised latents", "own sampling"]
# pictures on their way are drawn so many at a time, once, before the first step
_DRAWN_TOGETHER = 8
# spread of the stand-in for a clean latent, where none is given: as in the released code
QUIET = 0.18215


def _weight(default: float, tip: str) -> Any:
    return number(default, 0.0, 100.0, 0.05, tip)


@dataclass(frozen=True)
class SeparationSettings:
    """Weights and forms of the losses; the defaults are the released code's for one pair.

    ``separate``, ``enhance``, ``norm`` weigh L_sep, L_en, L_norm. ``states``: with ``own sampling``
    each prompt is drawn once by Euler's method, in ``sampling_steps`` steps at guidance
    ``sampling_cfg``.

    Raises RealCompoError when a number is outside its range, or nothing would be trained.
    """

    separate: float = _weight(
        1.0, "Weight of the Separate loss: objects' attention must not overlap."
    )
    enhance: float = _weight(
        0.5, "Weight of the Enhance loss: every object must be looked at firmly somewhere."
    )
    norm: float = _weight(
        0.0,
        "Weight of the norm loss, which keeps the model near what it was. 0 for a pair, 0.5 for"
        " many prompts in the released code.",
    )
    form: SeparateForm = choice(
        "pairwise", SEPARATE_FORMS,
        "Separate loss for three and more objects: mean over pairs (ours), or the paper's product"
        " of all.",
    )  # fmt: skip
    peak: Peak = choice(
        "max", PEAKS,
        "max: the strongest position alone, as in the paper. soft: all near it (ours).",
    )  # fmt: skip
    heads: Heads = choice(
        "each", get_args(Heads),
        "each: the losses look at every attention head by itself, as released. mean: at their"
        " mean.",
    )  # fmt: skip
    norm_form: NormForm = choice(
        "frozen prediction", get_args(NormForm),
        "What the norm loss asks: the frozen model's predictions for single objects, as released;"
        " or denoising of the latents, which then go with the prompts one by one.",
    )  # fmt: skip
    start: float = number(
        0.0, 0.0, 1.0, 0.01, "Train from this part of the noise schedule on (0: only noise)."
    )
    end: float = number(
        1.0, 0.0, 1.0, 0.01, "Train up to this part of the noise schedule (1: finished)."
    )
    states: States = choice(
        "noised latents", get_args(States),
        "Where attention is judged: at latents with noise on them, as released; or at what the"
        " untrained model comes by while it draws each prompt once (ours), before the first step."
        " The second worked better on many prompts.",
    )  # fmt: skip
    sampling_steps: int = whole(
        12, 2, 1000, "Steps of those pictures, for states = own sampling."
    )
    sampling_cfg: float = number(
        5.0, 1.0, 100.0, 0.1, "Guidance of those pictures; the one you sample with."
    )

    def __post_init__(self) -> None:
        check(self)
        if not (self.separate or self.enhance):
            raise RealCompoError(
                "separate", "both losses are off", "Set separate or enhance above 0"
            )
        if self.start >= self.end:
            raise RealCompoError(
                "start", f"the part of the schedule is {self.start} to {self.end}",
                "Set start below end, both in 0..1",
            )  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A training prompt, encoded: where its objects' words stand, and every object by itself."""

    prompt: TrainingPrompt
    encoded: Encoded
    regions: LayoutBatch
    single: tuple[Encoded, ...]

    @property
    def kind(self) -> tuple[int, int]:
        """Prompts of one kind fit into one batch: length in tokens, number of objects."""
        return self.encoded.text.shape[1], len(self.prompt.objects)


def prepare(clip: Any, prompts: Sequence[TrainingPrompt], singles: bool) -> list[Prepared]:
    """Encode ``prompts`` by the host's CLIP; ``singles``: every object's phrase alone as well.

    Raises RealCompoError for an object whose words are not in its prompt's tokens.
    """
    known: dict[str, Encoded] = {}

    def once(text: str) -> Encoded:
        if text not in known:
            known[text] = encode(clip, text)
        return known[text]

    prepared = []
    for prompt in prompts:
        box = (0.0, 0.0, 1.0, 1.0)
        layout = Layout(tuple(Region(thing, box) for thing in prompt.objects), prompt.text)
        try:
            regions = LayoutBatch.of(layout, resolve(layout))
        except RealCompoError as error:
            raise error.at("", "prompts") from None
        alone = tuple(once(thing) for thing in prompt.objects) if singles else ()
        prepared.append(Prepared(prompt, once(prompt.text), regions, alone))
    return prepared


class SeparateEnhance:
    """The losses of one step: prompts, noise levels and noise from the session's generator."""

    def __init__(
        self,
        prompts: Sequence[Prepared],
        settings: SeparationSettings,
        batch: int,
        factor: int,
        latents: Tensor | None = None,
        empty: Encoded | None = None,
        seed: int = 0,
    ) -> None:
        """``factor``: level of the maps (``choose_level``); ``latents`` (N, C, H, W), in the
        model's own scale, stand for clean pictures, else quiet noise does; as many as prompts go
        with them one by one. ``empty`` is the encoded empty prompt and ``seed`` the noise's, for
        states of the model's own sampling.

        Raises RealCompoError for prompts of one object where the Separate loss is on,
        and for the denoising form without latents, or with a number that fits no prompts.
        """
        self._groups = PromptGroups([prompt.kind for prompt in prompts])
        self._prompts, self._settings = prompts, settings
        self._batch, self._factor, self._latents = batch, factor, latents
        self._empty, self._seed = empty, seed
        self._walks: tuple[Tensor, Tensor] | None = None
        alone = [p.prompt.text for p in prompts if len(p.prompt.objects) < 2]
        if alone and settings.separate:
            raise RealCompoError(
                "prompts", f"'{alone[0]}' has one object, and there is nothing to separate it from",
                "Name two or more after |, or set separate to 0",
            )  # fmt: skip
        if settings.norm and settings.norm_form == "denoising":
            have = 0 if latents is None else len(latents)
            if have != len(prompts):
                raise RealCompoError(
                    "latents", f"there are {have} latents for {len(prompts)} prompts",
                    "Connect one per prompt, drawn by this model, or set norm_form to"
                    " 'frozen prediction'",
                )  # fmt: skip

    def __call__(self, session: Session) -> None:
        """One step: the losses on the maps, and the norm loss on a pass of its own."""
        settings = self._settings
        chosen = self._groups.draw(self._batch, session.generator)
        some = [self._prompts[index] for index in chosen]
        x, sigma = self._states(session, chosen)
        maps = read_heads(session, x, sigma, some, self._factor)
        maps = maps.mean(dim=1, keepdim=True) if settings.heads == "mean" else maps
        separate = separate_loss(maps, settings.form, settings.peak).mean()
        enhance = enhance_loss(maps, settings.peak).mean()
        session.backward(
            settings.separate * separate + settings.enhance * enhance,
            separate=separate, enhance=enhance,
        )  # fmt: skip
        if settings.norm:
            norm_loss = self._denoise if settings.norm_form == "denoising" else self._distill
            norm = norm_loss(session, chosen)
            session.backward(settings.norm * norm, norm=norm)

    def _clean(self, session: Session, chosen: Sequence[int], own: bool = True) -> Tensor:
        """Clean latents; those that were drawn for the prompts ``chosen``, if ``own``."""
        count = len(chosen)
        channels = session.model.latent_format.latent_channels
        if self._latents is None:
            return QUIET * session.randn(count, channels, *session.size)
        if not own or len(self._latents) != len(self._prompts):
            draw = torch.randint(len(self._latents), (count,), generator=session.generator)
            chosen = draw.tolist()
        return self._latents[list(chosen)].to(session.device)

    def _states(self, session: Session, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and their noise levels (B,) for prompts ``chosen``."""
        settings = self._settings
        if settings.states == "noised latents":
            sigma = session.random_sigmas(len(chosen), settings.start, settings.end)
            return session.noised(self._clean(session, chosen), sigma), sigma
        if self._walks is None:
            self._walks = self._draw(session)
        levels, walks = self._walks
        steps = torch.randint(len(levels), (len(chosen),), generator=session.generator).tolist()
        x = torch.stack([walks[step, i] for step, i in zip(steps, chosen, strict=True)])
        return x.to(session.device), levels[steps]

    def _draw(self, session: Session) -> tuple[Tensor, Tensor]:
        """Noise levels (S,), and every prompt's latents there (S, N, C, H, W) on the CPU.

        One picture per prompt by the untrained model, as far as it is needed. From a generator of
        its own: a training that is taken up again draws the same pictures again.
        """
        own, session.generator = session.generator, torch.Generator().manual_seed(self._seed)
        settings = self._settings
        levels = noise_levels(session, "normal", settings.sampling_steps)
        low, high = session.sigma_at(settings.end), session.sigma_at(settings.start)
        inside = [n for n, sigma in enumerate(levels.tolist()) if low <= sigma <= high]
        if not inside:
            raise RealCompoError(
                "sampling_steps", f"none of the {settings.sampling_steps} steps lies between"
                f" {settings.start} and {settings.end} of the schedule",
                "Use more steps, or a wider part of the schedule",
            )  # fmt: skip
        bar = comfy.utils.ProgressBar(len(self._prompts))
        parts: dict[int, Tensor] = {}
        try:
            with session.frozen():
                for group in self._groups:
                    for start in range(0, len(group), _DRAWN_TOGETHER):
                        some = group[start : start + _DRAWN_TOGETHER]
                        prompts = [self._prompts[index].encoded for index in some]
                        guidance = settings.sampling_cfg, self._empty
                        latents = walk(session, prompts, levels, *guidance, inside[-1])
                        way = [x.cpu() for x in latents]
                        seen = torch.stack([way[step] for step in inside])
                        parts |= {index: seen[:, n] for n, index in enumerate(some)}
                        bar.update(len(some))
        finally:
            session.generator = own
        return levels[inside], torch.stack([parts[n] for n in range(len(self._prompts))], dim=1)

    def _distill(self, session: Session, chosen: Sequence[int]) -> Tensor:
        """Mean square of what training changed in the noise of single objects' prompts."""
        single = [self._prompts[index].single for index in chosen]
        picks = torch.randint(1 << 30, (len(single),), generator=session.generator).tolist()
        prompts = [alone[pick % len(alone)] for alone, pick in zip(single, picks, strict=True)]
        # a phrase rarely fills more than one chunk of 77; the few others wait for another step
        length = prompts[0].text.shape[1]
        prompts = [one for one in prompts if one.text.shape[1] == length]
        sigma = session.random_sigmas(len(prompts))
        x = session.noised(self._clean(session, chosen[: len(prompts)], own=False), sigma)
        return distance_to_untrained(session, x, sigma, prompts)

    def _denoise(self, session: Session, chosen: Sequence[int]) -> Tensor:
        """The ordinary denoising loss on latents that go with the prompts."""
        clean = self._clean(session, chosen)
        sigma = session.random_sigmas(len(chosen))
        x = session.noised(clean, sigma)
        tuned = session.predict(x, sigma, [self._prompts[index].encoded for index in chosen])
        return noise_error(tuned, clean, sigma)


def read_heads(
    session: Session, x: Tensor, sigma: Tensor, some: Sequence[Prepared], factor: int
) -> Tensor:
    """Every head's map of every object, (B, heads, K, h, w), mean over the sites of a level.

    ``x`` (B, C, H, W) at noise levels ``sigma`` (B,), one prompt of one kind per sample;
    ``factor``: latent positions per map cell.
    """
    length = some[0].encoded.text.shape[1]
    weights = torch.stack([prompt.regions.token_weights(length) for prompt in some])
    maps = HeadMaps(weights.to(session.device))
    session.read(x, sigma, [prompt.encoded for prompt in some], maps, factor)
    if maps.total is None:
        raise RealCompoError(
            "model", "the model ran, but its attention to the prompt was not seen",
            "Take out the node that replaces the model's attention or its blocks",
        )  # fmt: skip
    return maps.total / maps.sites
