"""Flux and Chroma: double blocks, then single-stream ones; text by T5."""

from __future__ import annotations

from .joint import JointFamily
from .t5 import t5_phrases

FAMILIES = (
    JointFamily(
        network=("comfy.ldm.flux.model", "Flux"), model="Flux", blocks="double_blocks",
        text_in="txt_in", positions=t5_phrases, adds_in_place=True,
    ),
    JointFamily(
        network=("comfy.ldm.chroma.model", "Chroma"), model="Chroma", blocks="double_blocks",
        text_in="txt_in", positions=t5_phrases, adds_in_place=True,
    ),
)  # fmt: skip
