"""Separate-and-Enhance (Bao et al., arXiv 2312.06712): finetuning on its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention_maps import HeadMaps
from ..errors import RealCompoError
from ..layout import Layout, Region
from ..losses import PEAKS, SEPARATE_FORMS, enhance_loss, separate_loss
from ..regions import RegionSet
from ..training_prompts import TrainingPrompt
from .inputs import resolve
from .session import Encoded, Session, encode

HEADS = ("each", "mean")
NORM_FORMS = ("frozen prediction", "denoising")
# spread of the stand-in for a clean latent, where none is given: as in the released code
QUIET = 0.18215


@dataclass(frozen=True)
class SeparationSettings:
    """Weights and forms of the losses; the defaults are the released code's for one pair.

    ``separate``, ``enhance``, ``norm`` weigh L_sep, L_en, L_norm. ``form``, ``peak``: see
    ``separate_loss``. ``heads``: every attention head by itself, or their mean. ``norm_form``:
    stay near the frozen model's predictions (as released), or denoise given latents. ``start`` and
    ``end`` in 0..1 are the part of the noise schedule that is trained.
    """

    separate: float = 1.0
    enhance: float = 0.5
    norm: float = 0.0
    form: str = SEPARATE_FORMS[0]
    peak: str = PEAKS[0]
    heads: str = HEADS[0]
    norm_form: str = NORM_FORMS[0]
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("separate", "enhance", "norm"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise RealCompoError(name, f"it is {getattr(self, name)}", "Set it to 0 or more")
        if not (self.separate or self.enhance):
            raise RealCompoError(
                "separate", "both losses are off", "Set separate or enhance above 0"
            )
        if not 0.0 <= self.start < self.end <= 1.0:
            raise RealCompoError(
                "start", f"the part of the schedule is {self.start} to {self.end}",
                "Set start below end, both in 0..1",
            )  # fmt: skip
        for name, known in (
            ("form", SEPARATE_FORMS), ("peak", PEAKS), ("heads", HEADS), ("norm_form", NORM_FORMS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise RealCompoError(
                    name, f"it is '{getattr(self, name)}'", f"Choose one of {', '.join(known)}"
                )


@dataclass(frozen=True)
class Prepared:
    """A training prompt, encoded: where its objects' words stand, and every object by itself."""

    prompt: TrainingPrompt
    encoded: Encoded
    regions: RegionSet
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
            regions = RegionSet.of(layout, resolve(layout))
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
    ) -> None:
        """``factor``: level of the maps (``choose_level``); ``latents`` (N, C, H, W), in the
        model's own scale, stand for clean pictures, else quiet noise does.

        Raises RealCompoError for prompts of one object where the Separate loss is asked for alone,
        and for the denoising form without latents, or with a number that fits no prompts.
        """
        self._kinds: dict[tuple[int, int], list[int]] = {}
        for index, prompt in enumerate(prompts):
            self._kinds.setdefault(prompt.kind, []).append(index)
        self._prompts, self._settings = prompts, settings
        self._batch, self._factor, self._latents = batch, factor, latents
        alone = [p.prompt.text for p in prompts if len(p.prompt.objects) < 2]
        if alone and settings.separate:
            raise RealCompoError(
                "prompts", f"'{alone[0]}' has one object, and there is nothing to separate it from",
                "Name two or more after |, or set separate to 0",
            )  # fmt: skip
        if settings.norm and settings.norm_form == NORM_FORMS[1]:
            have = 0 if latents is None else len(latents)
            if have != len(prompts):
                raise RealCompoError(
                    "latents", f"there are {have} latents for {len(prompts)} prompts",
                    "Connect one per prompt, drawn by this model, or set norm_form to"
                    f" '{NORM_FORMS[0]}'",
                )  # fmt: skip

    def __call__(self, session: Session) -> None:
        """One step: the losses on the maps, and the norm loss on a pass of its own."""
        settings = self._settings
        chosen = self._choose(session)
        some = [self._prompts[index] for index in chosen]
        maps = self._maps(session, some)
        separate = separate_loss(maps, settings.form, settings.peak).mean()
        enhance = enhance_loss(maps, settings.peak).mean()
        session.backward(
            settings.separate * separate + settings.enhance * enhance,
            separate=separate, enhance=enhance,
        )  # fmt: skip
        if settings.norm:
            form = self._distill if settings.norm_form == NORM_FORMS[0] else self._denoise
            norm = form(session, chosen)
            session.backward(settings.norm * norm, norm=norm)

    def _choose(self, session: Session) -> list[int]:
        """Prompts of one kind; a kind's chance goes with its number of prompts."""
        count = len(self._prompts)
        first = int(torch.randint(count, (1,), generator=session.generator))
        kind = self._kinds[self._prompts[first].kind]
        order = torch.randperm(len(kind), generator=session.generator).tolist()
        return [kind[order[n % len(kind)]] for n in range(self._batch)]

    def _clean(self, session: Session, count: int, index: Sequence[int] | None = None) -> Tensor:
        channels = session.model.latent_format.latent_channels
        if self._latents is None:
            return QUIET * session.randn(count, channels, *session.size)
        if index is None:
            index = torch.randint(
                len(self._latents), (count,), generator=session.generator
            ).tolist()
        return self._latents[list(index)].to(session.device)

    def _maps(self, session: Session, some: Sequence[Prepared]) -> Tensor:
        sigma = session.random_sigmas(len(some), self._settings.start, self._settings.end)
        x = session.noised(self._clean(session, len(some)), sigma)
        maps = read_heads(session, x, sigma, some, self._factor)
        return maps.mean(dim=1, keepdim=True) if self._settings.heads == HEADS[1] else maps

    def _distill(self, session: Session, chosen: Sequence[int]) -> Tensor:
        """Mean square of what training changed in the noise of single objects' prompts."""
        single = [self._prompts[index].single for index in chosen]
        picks = torch.randint(1 << 30, (len(single),), generator=session.generator).tolist()
        asked = [alone[pick % len(alone)] for alone, pick in zip(single, picks, strict=True)]
        # a phrase rarely fills more than one chunk of 77; the few others wait for another step
        length = asked[0].text.shape[1]
        asked = [one for one in asked if one.text.shape[1] == length]
        sigma = session.random_sigmas(len(asked))
        x = session.noised(self._clean(session, len(asked)), sigma)
        with session.frozen():
            frozen = session.predict(x, sigma, asked)
        tuned = session.predict(x, sigma, asked)
        assert frozen is not None and tuned is not None
        # predictions are of the clean latent; the noise differs by this over sigma
        return ((tuned - frozen) / sigma[:, None, None, None]).square().mean()

    def _denoise(self, session: Session, chosen: Sequence[int]) -> Tensor:
        """The ordinary denoising loss on latents that go with the prompts."""
        clean = self._clean(session, len(chosen), chosen)
        sigma = session.random_sigmas(len(chosen))
        x = session.noised(clean, sigma)
        tuned = session.predict(x, sigma, [self._prompts[index].encoded for index in chosen])
        assert tuned is not None
        return ((tuned - clean) / sigma[:, None, None, None]).square().mean()


def read_heads(
    session: Session, x: Tensor, sigma: Tensor, some: Sequence[Prepared], factor: int
) -> Tensor:
    """Every head's map of every object, (B, heads, K, h, w), mean over the sites of a level."""
    length = some[0].encoded.text.shape[1]
    weights = torch.stack([prompt.regions.token_weights(length) for prompt in some])
    maps = HeadMaps(weights.to(session.device))
    session.predict(x, sigma, [p.encoded for p in some], maps, factor, whole=False)
    if maps.total is None:
        raise RealCompoError(
            "model", "the model ran, but its attention to the prompt was not seen",
            "Take out the node that replaces the model's attention or its blocks",
        )  # fmt: skip
    return maps.total / maps.sites
