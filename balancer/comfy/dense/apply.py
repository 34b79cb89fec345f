"""A model and a prompt that DenseDiffusion's modulation acts on, from a layout."""

from __future__ import annotations

from typing import Any

from ...attention.regions import LayoutBatch
from ...attention.tokens import phrase_spans
from ...dense.modulation import DenseSettings
from ...dense.plan import DENSE_NODE, NONE, DensePlan
from ...errors import RealCompoError
from ...layouts.layout import Layout
from ..host.compat import has_wrappers
from ..inputs.checks import require_ability
from ..inputs.types import require_clip
from ..text.prompt_rows import Conditioning, check_rows, prompt_rows
from ..text.tokenizer import encode_prompt
from .entries import KEY, modulate_forward, note_entries
from .older import PlanCond, function_wrapper
from .phrases import with_phrases


def dense_model(model: Any) -> Any:
    """A clone of the host's patcher that modulates entries with a plan, and nothing else.

    Raises RealCompoError for a model whose attention is not a U-Net's.
    """
    require_ability(model, "modulate")
    clone = model.clone()
    if has_wrappers():
        from comfy.patcher_extension import WrappersMP

        for kind, function in (
            (WrappersMP.CALC_COND_BATCH, note_entries), (WrappersMP.APPLY_MODEL, modulate_forward),
        ):  # fmt: skip
            # a model that went through the node twice is modulated once, by what its entries say
            clone.remove_wrappers_with_key(kind, KEY)
            clone.add_wrapper_with_key(kind, KEY, function)
    else:
        inner = clone.model_options.get("model_function_wrapper")
        clone.set_model_unet_function_wrapper(function_wrapper(inner))
    return clone


def with_plan(positive: Conditioning, plan: DensePlan) -> Conditioning:
    """``positive`` with ``plan`` in every entry; the input is not changed."""
    result: Conditioning = []
    for embedding, options in positive:
        marked = {**options, KEY: plan}
        if not has_wrappers():
            marked["model_conds"] = {**options.get("model_conds", {}), KEY: PlanCond([plan])}
        result.append([embedding, marked])
    return result


def apply_dense(
    model: Any,
    clip: Any,
    positive: Conditioning,
    layout: Layout,
    settings: DenseSettings,
    replace_phrases: bool = True,
    weighting: str = NONE,
    node: str = DENSE_NODE,
) -> tuple[Any, Conditioning]:
    """The host's patcher and conditioning, so that ``layout``'s phrases appear in their regions.

    ``weighting`` and ``node`` as in ``DensePlan``.

    All entries of ``positive`` must encode the layout's prompt; ``clip`` is what encoded them, and
    is needed for ``replace_phrases`` only (see ``with_phrases``). Inputs are not changed.

    Raises RealCompoError for missing or unfit inputs.
    """
    regions = layout.require_regions()
    if not positive:
        raise RealCompoError("positive", "the conditioning is empty", "Encode a prompt first")
    prompt = encode_prompt(layout.prompt)
    spans = phrase_spans(layout, prompt, encode_prompt)
    if any(region.tokens is None for region in regions):
        for entry in positive:  # every one of them is modulated
            check_rows([entry], prompt_rows(prompt), "positive")
    last = max(max(span) for span in spans)
    for embedding, _ in positive:
        if last >= embedding.shape[1]:
            raise RealCompoError(
                "positive", f"the layout names token {last}, the conditioning has "
                f"{embedding.shape[1]}", "Encode the same prompt that the layout carries",
            )  # fmt: skip
    patched = dense_model(model)
    if replace_phrases and any(region.tokens is None for region in regions):
        if clip is None:
            raise RealCompoError("clip", "no text encoder is connected", "Connect a CLIP")
        positive = with_phrases(positive, require_clip(clip, "clip"), layout, spans)
    result: Conditioning = []
    batch = LayoutBatch.of(layout, spans)
    for entry in positive:
        plan = DensePlan(batch, entry[0].shape[1], settings, weighting, node)
        result += with_plan([entry], plan)
    return patched, result
