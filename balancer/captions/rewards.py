"""How well captions say what prompts asked for, and which picture is the best by it.

After RealignDiff's coarse stage, whose own equations are not public: the reward is the cosine of
two texts' vectors where a text encoder gives them, else the share of words they have in common.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import RealCompoError
from ..text.letters import WORD, atoms
from ..values import checked

# Words that join or introduce things; what they join is what is compared.
JOINING = frozenset(
    (
        *("a", "an", "the", "some", "this", "that", "it", "there", "is", "are", "and", "or", "of"),
        *("in", "on", "at", "to", "with", "by", "picture", "photo", "photograph", "image"),
    )
)
# Signs that part phrases; a line break does, too.
_PARTING = frozenset(",.;:!?()")


def _parts(text: str) -> Counter[tuple[str, ...]]:
    """Words of a text, and each two that stand side by side, as often as they occur.

    Words on both sides of a joining word or of a comma do not stand side by side: so 'a red circle
    and a blue square' holds 'red circle' and 'blue square', but not 'circle blue'.
    """
    found: Counter[tuple[str, ...]] = Counter()
    before, end = None, 0
    for atom in atoms(text):
        if atom.text in _PARTING or "\n" in text[end : atom.start]:
            before = None
        end = atom.end
        if atom.kind != WORD:
            continue
        if atom.text in JOINING:
            before = None
            continue
        found[(atom.text,)] += 1
        if before is not None:
            found[(before, atom.text)] += 1
        before = atom.text
    return found


def lexical_similarity(prompt: str, caption: str) -> float:
    """0..1: the F1 score of the words, and of words side by side, that two texts share.

    Our choice for where no text encoder is at hand: 1 for the same things in any order, 0 where
    nothing is shared or either text says nothing. It knows no synonyms and no inflections.
    """
    wanted, said = _parts(prompt), _parts(caption)
    total = wanted.total() + said.total()
    # two texts without content are not alike: there is nothing that the picture was seen to show
    return 2 * (wanted & said).total() / total if wanted and said else 0.0


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """(N,) cosine of the rows of two (N, D) tensors, -1..1; 0 where a row is zero."""
    return torch.nn.functional.cosine_similarity(first.float(), second.float(), dim=1, eps=1e-8)


def flat_texts(value: Any, where: str) -> list[str]:
    """Texts of a list that may hold lists, as captioners of other packs give for batches.

    Raises RealCompoError for anything that is no text, or no prompt by its length.
    """
    return [checked.text(entry, where) for entry in checked.flat(value, where)]


def read_prompts(text: str) -> list[str]:
    """One prompt per line; RealCompoError if there is none. Empty lines and # comments go."""
    given = checked.lines(text, "prompts")
    prompts = [line for line in given if line and not line.startswith("#")]
    if not prompts:
        raise RealCompoError("prompts", "there is no prompt", "Write one prompt per line")
    return prompts


def pair_texts(prompts: Sequence[str], captions: Sequence[str]) -> list[str]:
    """The prompt of every caption: one for all, or each for an equal share of them, in order.

    With three prompts and twelve captions the first four are of the first prompt: the order in
    which the host's list execution makes them. Raises RealCompoError where shares do not come out.
    """
    if not captions:
        raise RealCompoError("captions", "there is no caption", "Connect a captioner's text")
    if not prompts or len(captions) % len(prompts):
        raise RealCompoError(
            "prompt", f"{len(prompts)} prompts cannot share {len(captions)} captions evenly",
            "Give one prompt, or as many captions for each prompt as for any other",
        )  # fmt: skip
    share = len(captions) // len(prompts)
    return [prompt for prompt in prompts for _ in range(share)]


def best_indices(rewards: Sequence[float], keep: int = 1) -> list[int]:
    """Indices of the ``keep`` highest rewards, best first; of equal ones the first.

    A reward that is not a number comes last. Fewer indices than ``keep`` if there are fewer.
    """

    def rank(index: int) -> tuple[bool, float]:
        unknown = math.isnan(rewards[index])
        return unknown, 0.0 if unknown else -rewards[index]

    order = sorted(range(len(rewards)), key=rank)
    return order[: max(1, keep)]


def report(
    prompts: Sequence[str], captions: Sequence[str], rewards: Sequence[float], how: str
) -> str:
    """A line per picture: its number, reward and caption, the best of each prompt marked."""
    lines = [how]
    start = 0
    while start < len(prompts):
        stop = start
        while stop < len(prompts) and prompts[stop] == prompts[start]:
            stop += 1
        (best,) = best_indices(rewards[start:stop])
        lines.append(f"prompt: {prompts[start]}")
        for index in range(start, stop):
            mark = " <- best" if index - start == best and stop - start > 1 else ""
            caption = captions[index].strip() or "(empty caption)"
            lines.append(f"{index}: {rewards[index]:.4f}  {caption}{mark}")
        start = stop
    return "\n".join(lines)
