"""Rewards of the coarse stage for tables: by captions of the demo's captioner, and by likelihood.

Both take what a user's graph would: the captioner from its folder, the caption of the scene as the
prompt, and the demo's text encoder to compare texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...balancer.comfy.captions.captioner import Captioner
from ...balancer.comfy.captions.captioner_folder import load_captioner
from ...balancer.comfy.captions.reward import caption_rewards, likelihood_rewards
from ...shapes.captioner import FOLDER
from ...shapes.host_models import load_demo
from ...shapes.world import Scene, make_caption

LONGEST = 24
Reward = Callable[[Tensor, Sequence[Scene]], Tensor]


@lru_cache(maxsize=1)
def captioner() -> Captioner:
    """The demo's captioner, loaded once."""
    return load_captioner(FOLDER)


@lru_cache(maxsize=1)
def _clip() -> Any:
    return load_demo("realistic", "realism")[1]


def _prompts(scenes: Sequence[Scene]) -> list[str]:
    return [make_caption(scene).text for scene in scenes]


def by_caption(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) cosines of prompts and captions of (N, 3, H, W) pictures in 0..1."""
    captions = captioner().caption(pictures, longest=LONGEST)
    values, *_ = caption_rewards(_prompts(scenes), captions, _clip())
    return torch.tensor(values, dtype=torch.float64)


def by_likelihood(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) mean log-probabilities of the prompts' tokens, given (N, 3, H, W) pictures in 0..1."""
    images = [pictures.movedim(1, -1)]
    values, _ = likelihood_rewards(_prompts(scenes), captioner(), images)
    return torch.tensor(values, dtype=torch.float64)


REWARDS: dict[str, Reward] = {"caption": by_caption, "likelihood": by_likelihood}
