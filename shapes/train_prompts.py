"""Prompts of training batches: captions of scenes as tokens, and the boxes their words speak of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .text import CONTEXT_LENGTH, END, START
from .train_data import LatentSet
from .train_text import CaptionTokens, CompactText, known_ids
from .world import Scene

MOST_OBJECTS = 4
CAPTION_DROP = 0.1


class Prompts(NamedTuple):
    """A batch of captions: (B, 77) ``tokens`` and ``owners`` (the group each speaks of, or -1),
    (B, 4, 4) ``boxes`` (zeros: absent) and (B, 4) ``groups`` of the boxes (-1: absent)."""

    tokens: Tensor
    owners: Tensor
    boxes: Tensor
    groups: Tensor

    def repeat(self, times: int) -> Prompts:
        """The same captions several times over, in their order."""
        return Prompts(*(part.repeat(times, *[1] * (part.ndim - 1)) for part in self))

    def dropped(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) which captions are left out by chance, and tokens and owners with empty ones."""
        count = len(self.tokens)
        left_out = torch.rand(count, generator=generator) < CAPTION_DROP
        tokens = torch.where(left_out[:, None], encode_empty(count), self.tokens)
        return left_out, tokens, torch.where(left_out[:, None], -1, self.owners)


class Batches:
    """Random batches: latents and their prompts."""

    def __init__(self, data: LatentSet, generator: torch.Generator) -> None:
        self.data, self.generator, self.captions = data, generator, CaptionTokens()

    def draw(self, count: int) -> tuple[Tensor, Prompts, list[Scene]]:
        """(B, 16, 16, 16) latents, their captions and scenes."""
        index = torch.randint(len(self.data.scenes), (count,), generator=self.generator)
        rng = random.Random(int(torch.randint(2**62, (1,), generator=self.generator)))
        scenes = [self.data.scenes[i] for i in index.tolist()]
        return self.data.latents[index].float(), encode_scenes(self.captions, scenes, rng), scenes


def encode_scenes(captions: CaptionTokens, scenes: Sequence[Scene], rng: random.Random) -> Prompts:
    """Random captions of scenes, with their boxes."""
    drawn = [captions.draw(scene, rng) for scene in scenes]
    boxes = torch.zeros(len(scenes), MOST_OBJECTS, 4)
    groups = torch.full((len(scenes), MOST_OBJECTS), -1)
    for row, scene in enumerate(scenes):
        count = len(scene.objects)
        boxes[row, :count] = torch.tensor([thing.box for thing in scene.objects])
        groups[row, :count] = torch.tensor(scene.groups)
    tokens, owners = (torch.tensor(column) for column in zip(*drawn, strict=True))
    return Prompts(tokens, owners, boxes, groups)


def encode_empty(count: int) -> Tensor:
    """(count, 77) token ids of the empty prompt."""
    return torch.tensor([[START] + [END] * (CONTEXT_LENGTH - 1)]).repeat(count, 1)


def phrase_vectors(meaning: Tensor, prompts: Prompts) -> Tensor:
    """(B, 4, 64) vector of each box's noun, the last token that speaks of its group.

    ``meaning`` (B, 77, 64): the tokens' vectors without position.
    """
    count, _, width = meaning.shape
    result = torch.zeros(count, MOST_OBJECTS, width)
    for number in range(MOST_OBJECTS):
        group = prompts.groups[:, number, None]
        hits = (prompts.owners == group) & (group >= 0)
        last = hits.shape[1] - 1 - hits.flip(1).int().argmax(1)
        result[:, number] = meaning[torch.arange(count), last] * hits.any(1, keepdim=True)
    return result


def load_text(folder: Path) -> CompactText:
    """The frozen text encoder of a training folder."""
    saved = torch.load(folder / "text.pt")["averaged_model"]
    text = CompactText(known_ids(CaptionTokens().ids))
    text.load_state_dict({k[5:]: v for k, v in saved.items() if k.startswith("text.")})
    return text.eval().requires_grad_(False)
