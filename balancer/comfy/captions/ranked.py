"""Picking by rewards from the host's batches and lists, and sets to finetune on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...captions.rewards import best_indices
from ...errors import RealCompoError
from ...values import checked


def _numbers(value: Any) -> list[float]:
    """Numbers of a list that may hold lists; RealCompoError for anything else.

    NaN and infinity are let through: such a reward comes last, or first.
    """
    return [
        checked.any_number(entry, "rewards", "Connect a reward node")
        for entry in checked.flat(value, "rewards")
    ]


def _samples(latent: Any) -> Tensor:
    if not isinstance(latent, dict) or not isinstance(latent.get("samples"), Tensor):
        raise RealCompoError("latents", "it is not a LATENT", "Connect a sampler's latent")
    return latent["samples"]


def _joined(parts: list[Tensor], where: str) -> Tensor:
    sizes = {tuple(part.shape[1:]) for part in parts}
    if len(sizes) > 1:
        raise RealCompoError(
            where, f"kept ones of {len(sizes)} sizes cannot become one batch",
            "Make all pictures of one size, or keep the best of each batch",
        )  # fmt: skip
    return torch.cat(parts)


def _chosen(batches: Sequence[Any], where: str, indices: list[int], group: int | None) -> Any:
    """The entries at ``indices``, counted over all batches or inside batch ``group``."""
    tensors = [batch if isinstance(batch, Tensor) else _samples(batch) for batch in batches]
    if group is not None:
        batches, tensors = [batches[group]], [tensors[group]]
    rows = [(number, row) for number, tensor in enumerate(tensors) for row in range(len(tensor))]
    found = [rows[index] for index in indices]
    picked = _joined([tensors[number][row : row + 1] for number, row in found], where)
    if isinstance(batches[0], Tensor):
        return picked
    # what else a latent carries has an entry per sample where it is a tensor or list of that length
    result: dict[str, Any] = {"samples": picked}
    if len(batches) == 1:
        count = len(tensors[0])
        for key, value in batches[0].items():
            if key == "samples":
                continue
            if isinstance(value, (Tensor, list)) and len(value) == count:
                order = [row for _, row in found]
                value = value[order] if isinstance(value, Tensor) else [value[i] for i in order]
            result[key] = value
    return result


def _blocked() -> Any:
    """What keeps nodes from running, without a complaint.

    None where the host has no executor of its own and so no blocker (ComfyUI's bare modules): a
    node behind it fails there, and says what it lacks.
    """
    try:
        from comfy_execution.graph_utils import ExecutionBlocker
    except ModuleNotFoundError:
        return None
    return ExecutionBlocker(None)


def pick_best(
    rewards: Any,
    keep: int,
    each: bool,
    images: Sequence[Any] | None = None,
    latents: Sequence[Any] | None = None,
) -> tuple[list[Any], list[Any], list[int], list[float]]:
    """Latents, images, indices and rewards of the ``keep`` best: of all, or of ``each`` batch.

    ``images`` and ``latents`` are lists of batches; what is not given comes out blocked, so that
    nodes behind it do not run. Raises RealCompoError where numbers do not fit.
    """
    values = _numbers(rewards)
    if images is None and latents is None:
        raise RealCompoError("images", "nothing is connected to pick from", "Connect images")
    sizes: list[int] = []
    given = (("images", images), ("latents", latents))
    for where, batches in given:
        if batches is None:
            continue
        found = [len(b) if isinstance(b, Tensor) else len(_samples(b)) for b in batches]
        if sum(found) != len(values):
            raise RealCompoError(
                where, f"there are {sum(found)} of them for {len(values)} rewards",
                "Connect the batch that the rewards are of",
            )  # fmt: skip
        if sizes and found != sizes and each:
            raise RealCompoError(
                where, "its batches are not as long as those of the images",
                "Connect the latents that the images were decoded from",
            )  # fmt: skip
        sizes = found
    groups: list[int | None] = list(range(len(sizes))) if each else [None]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    picked: dict[str, list[Any]] = {"images": [], "latents": []}
    indices: list[int] = []
    best: list[float] = []
    for group in groups:
        start, count = (0, len(values)) if group is None else (starts[group], sizes[group])
        own = best_indices(values[start : start + count], keep)
        indices += own
        best += [values[start + index] for index in own]
        for where, batches in given:
            if batches is not None:
                picked[where].append(_chosen(batches, where, own, group))
    for where, batches in given:
        if batches is None:
            picked[where].append(_blocked())
    return picked["latents"], picked["images"], indices, best


def ranked_set(
    latents: Sequence[Any], positive: Sequence[Any], rewards: Any = None, share: float = 1.0
) -> tuple[dict[str, Any], list[Any], int]:
    """One batch of latents, the conditioning entry of each of them, and their number.

    ``positive`` is one conditioning for all or one per batch of ``latents``, each of a single
    entry: the host's trainer takes one per picture. With ``share`` < 1 only the pairs with the
    highest ``rewards`` stay. Raises RealCompoError where these do not fit.
    """
    samples = [_samples(latent) for latent in latents]
    if len(positive) not in (1, len(samples)):
        raise RealCompoError(
            "positive", f"{len(positive)} prompts for {len(samples)} batches of latents",
            "Give one encoded prompt for all, or one for each batch",
        )  # fmt: skip
    entries: list[Any] = []
    for number, tensor in enumerate(samples):
        conditioning = positive[number % len(positive)]
        if not isinstance(conditioning, list) or len(conditioning) != 1:
            raise RealCompoError(
                "positive", "a conditioning of several parts cannot be trained on",
                "Encode each prompt with one CLIP Text Encode, without combining or scheduling",
            )  # fmt: skip
        entries += [conditioning[0]] * len(tensor)
    joined = _joined(samples, "latents")
    if share < 1:
        values = _numbers(rewards if rewards is not None else [])
        if len(values) != len(joined):
            raise RealCompoError(
                "rewards", f"there are {len(values)} for {len(joined)} latents",
                "Connect the rewards of the kept latents, or set top_share to 1",
            )  # fmt: skip
        kept = sorted(best_indices(values, math.ceil(share * len(values))))
        joined, entries = joined[kept], [entries[index] for index in kept]
    return {"samples": joined}, entries, len(entries)
