"""What best-of-4 chooses by: a number per picture, higher for a picture that shows its prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..balancer.errors import RealCompoError
from ..shapes.host_models import WEIGHTS
from ..shapes.oracle import judge_scenes
from ..shapes.world import Scene, make_caption
from .tuned import file_hash

CAPTIONER = WEIGHTS / "captioner" / "model.safetensors"
Reward = Callable[[Tensor, Sequence[Scene]], Tensor]


def oracle(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Things that are there, then no others: no reward can choose better by these measures."""
    verdicts = judge_scenes(pictures, scenes)
    there = [sum(thing.present for thing in verdict.objects) for verdict in verdicts]
    pairs = zip(there, verdicts, strict=True)
    return torch.tensor([number + 0.5 * verdict.binding for number, verdict in pairs])


@lru_cache(maxsize=1)
def _captioner() -> Any:
    from ..balancer.comfy.captioner import load_captioner
    from ..shapes.captioner import FOLDER

    return load_captioner(FOLDER)


def caption(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Words that the demo's captioner says of a picture against those of its prompt."""
    from ..balancer.comfy.caption_reward import caption_rewards

    values, _ = caption_rewards(_prompts(scenes), _captioner().caption(pictures))
    return torch.tensor(values)


def likelihood(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """How likely the demo's captioner finds the prompt, seeing the picture."""
    from ..balancer.comfy.caption_reward import likelihood_rewards

    batch = pictures.permute(0, 2, 3, 1)
    values, _ = likelihood_rewards(_prompts(scenes), _captioner(), [batch])
    return torch.tensor(values)


def _prompts(scenes: Sequence[Scene]) -> list[str]:
    return [make_caption(scene).text for scene in scenes]


REWARDS: dict[str, Reward] = {"caption": caption, "likelihood": likelihood, "oracle": oracle}


def known_reward(name: str) -> bool:
    """Whether there is such a reward, with the models that it needs."""
    return name in REWARDS and (name == "oracle" or CAPTIONER.is_file())


def rewards(name: str, pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) rewards of (N, 3, H, W) pictures in 0..1 of N scenes.

    Raises RealCompoError for a reward that there is none of.
    """
    if name not in REWARDS:
        choice = ", ".join(REWARDS)
        raise RealCompoError("reward", f"there is no reward '{name}'", f"Use {choice}", "bench")
    return REWARDS[name](pictures, scenes).double()


def reward_key(name: str) -> list[str]:
    """What the choices of a reward depend on, beside the pictures."""
    return [name] if name == "oracle" else [name, file_hash(CAPTIONER)]
