"""Guiders with a modulated realism model (DenseDiffusion), as itself or as the spatial branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..balancer.attention.regions import LayoutBatch
from ..balancer.attention.tokens import phrase_spans
from ..balancer.comfy.dense.apply import dense_model, with_plan
from ..balancer.comfy.dense.phrases import with_phrases
from ..balancer.comfy.realcompo.guider import RealCompoGuider
from ..balancer.comfy.text.tokenizer import encode_prompt
from ..balancer.dense.modulation import DenseSettings
from ..balancer.dense.plan import DensePlan
from ..balancer.layouts.layout import Layout
from .pictures import MakeGuider


def modulated(positive: Any, clip: Any, layouts: Sequence[Layout], dense: DenseSettings) -> Any:
    """The node's conditioning for a batch whose samples have prompts and layouts of their own.

    ``positive`` has one entry, with the prompts of all samples.
    """
    ((texts, options),) = positive
    spans = [phrase_spans(one, encode_prompt(one.prompt), encode_prompt) for one in layouts]
    rows = [
        with_phrases([[text[None], {}]], clip, layout, span)[0][0]
        for text, layout, span in zip(texts, layouts, spans, strict=True)
    ]
    plan = DensePlan(LayoutBatch.of(list(layouts), spans), texts.shape[1], dense)
    return with_plan([[torch.cat(rows), options]], plan)


def dense_guider(model: Any, clip: Any, dense: DenseSettings, beside: bool) -> MakeGuider:
    """A maker of guiders with ``model`` modulated in the realism model's place, or ``beside`` the
    plain one in the spatial model's, which then gets no boxes."""
    patched = dense_model(model)

    def make(
        realism: Any,
        spatial: Any,
        positive: Any,
        negative: Any,
        spatial_positive: Any,
        spatial_negative: Any,
        layout: Any,
        tokens: Any,
        *rest: Any,
        **more: Any,
    ) -> RealCompoGuider:
        layouts = [layout] if isinstance(layout, Layout) else layout
        marked = modulated(positive, clip, layouts, dense)
        pair = (realism, patched) if beside else (patched, spatial)
        spatial_side = (marked, negative) if beside else (spatial_positive, spatial_negative)
        return RealCompoGuider(
            *pair, positive if beside else marked, negative, *spatial_side, layout, tokens,
            *rest, **more,
        )  # fmt: skip

    return make
