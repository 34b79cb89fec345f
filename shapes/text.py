"""A tiny text model that stands where CLIP's transformer stands in ComfyUI's SDClipModel.

A token's vector depends on this token and the one before it only: the noun of 'a red circle' holds
exactly 'red circle' and no token sees the whole caption, so cross-attention maps per object mean
what they say and binding is left to the diffusion model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 64
CONTEXT_LENGTH = 77
CLIP_VOCABULARY = 49408
START, END = 49406, 49407
# Words outside the small world share these vectors by token id: they differ a little, and
# training shows the diffusion models that they mean nothing.
BUCKETS = 64


def compact_rows(known: Tensor, ids: Tensor) -> Tensor:
    """Row of the compact table for every CLIP token id: its own if known, else a shared bucket.

    ``known`` (K,) ascending token ids, ``ids`` any shape; rows 0..K-1 are the known ones.
    """
    row = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
    return torch.where(known[row] == ids, row, len(known) + ids % BUCKETS)


class TextTrunk(nn.Module):
    """Embeddings (B, T, 64) -> vectors with position and without, both (B, T, 64)."""

    def __init__(self, dtype: Any = None, device: Any = None, operations: Any = nn) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.enter = operations.Linear(2 * WIDTH, 2 * WIDTH, **where)
        self.leave = operations.Linear(2 * WIDTH, WIDTH, **where)
        self.norm = operations.LayerNorm(WIDTH, **where)
        self.norm_placed = operations.LayerNorm(WIDTH, **where)
        self.position = nn.Parameter(torch.zeros(CONTEXT_LENGTH, WIDTH, **where))

    def forward(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Positions past 77 repeat from the start (a textual inversion can lengthen a chunk)."""
        before = torch.cat((torch.zeros_like(embeds[:, :1]), embeds[:, :-1]), 1)
        hidden = self.leave(nn.functional.silu(self.enter(torch.cat((embeds, before), -1))))
        meaning = self.norm(hidden + embeds)
        index = torch.arange(embeds.shape[1], device=embeds.device) % CONTEXT_LENGTH
        position = self.position.to(device=embeds.device, dtype=embeds.dtype)[index]
        return self.norm_placed(meaning + position), meaning


class ShapesTextModel(nn.Module):
    """Drop-in for ComfyUI's ``CLIPTextModel`` (its ``model_class``), old and new call styles.

    The embedding table has CLIP's full size, so that the host's textual embeddings work; the
    weights file stores the few rows that differ (see ``expand_embedding``).
    """

    num_layers = 1

    def __init__(self, config: Any, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        self.embedding = operations.Embedding(CLIP_VOCABULARY, WIDTH, dtype=dtype, device=device)
        self.trunk = TextTrunk(dtype, device, operations)

    def get_input_embeddings(self) -> nn.Module:
        """The token table; the host looks tokens up in it."""
        return self.embedding

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Older hosts swap in a longer table that holds textual embeddings."""
        self.embedding = embeddings

    def forward(
        self,
        input_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        num_tokens: list[int] | None = None,
        **unused: Any,
    ) -> tuple[Tensor, None, Tensor, Tensor]:
        """Return (vectors, None, pooled, pooled): the tuple the host expects of a CLIP model.

        Pooled (B, 64) is the vector, without position, of the last word before the end token: for
        'a red star' it is what the noun means, wherever the phrase stood.
        """
        if embeds is None:
            if input_tokens is None:
                raise ValueError("The text model needs token ids or embeddings.")
            embeds = self.embedding(input_tokens, out_dtype=torch.float32)
            last = (input_tokens == END).int().argmax(1) - 1
        elif num_tokens is None:
            raise ValueError("The text model needs the number of tokens of every sequence.")
        else:
            last = torch.tensor(num_tokens, device=embeds.device) - 2
        placed, meaning = self.trunk(embeds)
        pooled = meaning[torch.arange(len(meaning), device=meaning.device), last.clamp(min=0)]
        return placed, None, pooled, pooled


def expand_embedding(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``ShapesTextModel`` from a weights file that holds ``known`` and ``table``."""
    state = dict(state)
    known, table = state.pop("known").long(), state.pop("table")
    rows = compact_rows(known, torch.arange(CLIP_VOCABULARY))
    return {**state, "embedding.weight": table[rows]}
