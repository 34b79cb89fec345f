"""What best-of-4 chooses by: a number per picture, higher for a picture that shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...balancer.errors import RealCompoError
from ...shapes.captioner import FOLDER
from ...shapes.oracle import judge_scenes
from ...shapes.world import Scene
from ..tuned import file_hash
from . import coarse
from .coarse import Reward

CAPTIONER = FOLDER / "model.safetensors"


def oracle(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Things that are there, then no others: no reward can choose better by these measures."""
    verdicts = judge_scenes(pictures, scenes)
    there = [sum(thing.present for thing in verdict.objects) for verdict in verdicts]
    pairs = zip(there, verdicts, strict=True)
    return torch.tensor([number + 0.5 * verdict.binding for number, verdict in pairs])


REWARDS: dict[str, Reward] = {**coarse.REWARDS, "oracle": oracle}


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
