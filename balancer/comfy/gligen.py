"""A layout's phrases and boxes as GLIGEN grounding on a conditioning.

GLIGEN (arXiv 2301.07093) takes up to 30 phrase vectors with a box each. The host keeps them as
``cond["gligen"] = (kind, patcher, [(vector, height, width, y, x), ...])`` and turns them into
shares of the latent when it samples; ours are such shares from the start, so that one layout fits
every latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from ..errors import RealCompoError
from ..layouts.layout import Box, Layout
from ..values.checked import plain_tensor
from .inputs.types import require_clip

Conditioning = list[list[Any]]
Grounding = tuple[Any, Any, Any, Any, Any]
"""Phrase vector (1, D), height, width, y, x."""

GROUNDED, EMPTY = "position", "empty"
"""The host's kind for boxes; any other kind makes it use GLIGEN's null tokens (set_empty)."""

MAX_REGIONS = 30
"""Grounding tokens of the released GLIGEN models, where the model does not say."""

# Both sides of a schedule's border include it. Moved by this share of the schedule (a hundredth
# of a timestep), the border falls between the steps, so that no step runs both sides and mixes
# them, and a step exactly on 'start' or 'end' is a grounded one.
BORDER = 1e-5


@dataclass(frozen=True)
class LatentShare:
    """A length or a place as a share of the latent's height or width, whatever that will be.

    Stands in the host's grounding entries where a number of latent cells is expected. The host
    adds two of them and divides by the latent's size; the second gives the share itself. Nothing
    else has a meaning before the size is known, so nothing else is defined.
    Sums are exact fractions: x + (x1 - x) is x1, as it is for whole cells.
    """

    value: Fraction

    def __add__(self, other: object) -> LatentShare:
        if not isinstance(other, LatentShare):
            return NotImplemented
        return LatentShare(self.value + other.value)

    def __truediv__(self, size: float) -> float:
        return float(self.value)


def _shares(box: Box) -> tuple[LatentShare, LatentShare, LatentShare, LatentShare]:
    """height, width, y, x of a box."""
    x0, y0, x1, y1 = map(Fraction, box)
    return LatentShare(y1 - y0), LatentShare(x1 - x0), LatentShare(y0), LatentShare(x0)


def _inside_area(box: Box, entry: dict[str, Any]) -> Box | None:
    """``box`` in shares of the part of the image that the entry is for; None if it lies outside.

    The host hands GLIGEN only the size of that part, so that shares of it are what it needs.
    """
    area = entry.get("area")
    if entry.get("set_area_to_bounds"):
        raise RealCompoError(
            "positive",
            "a masked conditioning is cut to its mask's bounds, which are not known yet",
            "Set 'set_cond_area' of the mask node to 'default'",
        )
    if area is None:
        return box
    if area[0] != "percentage" or len(area) != 5:
        raise RealCompoError(
            "positive",
            "a conditioning has an area in pixels, and the image's size is not known yet",
            "Use 'Conditioning (Set Area with Percentage)', or set the area after this node",
        )
    height, width, y, x = (float(number) for number in area[1:])
    x0, x1 = (min(1.0, max(0.0, (edge - x) / width)) for edge in (box[0], box[2]))
    y0, y1 = (min(1.0, max(0.0, (edge - y) / height)) for edge in (box[1], box[3]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _phrase_vectors(layout: Layout, clip: Any, width: int | None) -> list[torch.Tensor]:
    """Pooled, unprojected text vectors (1, D), one a region; equal phrases are encoded once."""
    known: dict[str, torch.Tensor] = {}
    vectors = []
    for number, region in enumerate(layout.regions, 1):
        phrase = region.phrase
        if not phrase:
            raise RealCompoError(
                "layout",
                f"region {number} has token positions but no phrase",
                "GLIGEN needs the phrase itself: name it in the layout",
            )
        if phrase not in known:
            tokens = clip.tokenize(phrase)
            _, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
            if not isinstance(pooled, torch.Tensor) or width not in (None, pooled.shape[-1]):
                given = isinstance(pooled, torch.Tensor) and pooled.ndim
                got = f"one of {pooled.shape[-1]} numbers" if given else "none"
                raise RealCompoError(
                    "clip",
                    f"the GLIGEN model expects a phrase vector of {width} numbers, "
                    f"this text encoder gives {got}",
                    "Connect the text encoder that the GLIGEN model was made for (SD1.x)",
                )
            known[phrase] = plain_tensor(pooled, "clip", "a phrase's vector", "Load it in float32")
        vectors.append(known[phrase])
    return vectors


def _earlier(entry: dict[str, Any], gligen: Any) -> list[Grounding]:
    """Boxes that the entry already has; refuses those of another model or kind."""
    if "gligen" not in entry:
        return []
    kind, patcher, boxes = entry["gligen"][:3]
    if patcher.model is not gligen.model:
        raise RealCompoError(
            "gligen_textbox_model",
            "the conditioning already has boxes of another GLIGEN model",
            "Use one GLIGEN model for all boxes",
        )
    if kind not in (GROUNDED, EMPTY):
        raise RealCompoError(
            "positive",
            f"the conditioning already has GLIGEN boxes of the kind '{kind}'",
            "Connect a conditioning without them",
        )
    return list(boxes)


def _scheduled(
    item: list[Any], grounded: dict[str, Any], empty: dict[str, Any], start: float, end: float
) -> tuple[Conditioning, Conditioning]:
    """Entries with boxes and entries without, which together cover the item's own time once."""
    first, last = (
        float(item[1].get(key, default))
        for key, default in (("start_percent", 0.0), ("end_percent", 1.0))
    )
    begin = first if start <= first else start - BORDER
    stop = last if end >= last else end + BORDER

    def part(options: dict[str, Any], low: float, high: float) -> list[Any]:
        return [item[0], {**options, "start_percent": low, "end_percent": high}]

    if begin <= first and stop >= last:
        return [[item[0], grounded]], []
    if begin >= last or stop <= first:
        return [], [[item[0], empty]]
    outside = [(first, begin)] * (begin > first) + [(stop, last)] * (stop < last)
    return (
        [part(grounded, max(first, begin), min(last, stop))],
        [part(empty, low, high) for low, high in outside],
    )


def apply_gligen(
    positive: Conditioning,
    clip: Any,
    gligen: Any,
    layout: Layout,
    start: float = 0.0,
    end: float = 1.0,
) -> Conditioning:
    """``positive`` with every region of ``layout`` as a GLIGEN box; the input stays untouched.

    ``clip`` encodes the phrases, ``gligen`` is the host's patcher of a GLIGEN model; masks count
    as their bounds. Boxes that are already there (of the host's own node, too) stay. For the full
    schedule the result is what a chain of the host's GLIGENTextBoxApply nodes gives.

    ``start`` and ``end`` (0..1, as the host's start_percent and end_percent) ground only that
    part of the schedule. Outside it the entry runs with GLIGEN's null tokens. The host gives the
    negative whatever the last grounded positive has; the ungrounded entries therefore come last,
    so that a scheduled negative has null tokens throughout, as in GLIGEN's own guidance, and is
    never the only grounded side.

    Raises RealCompoError for missing or unfit inputs and for more boxes than the model can take.
    """
    regions = layout.require_regions()
    if clip is None:
        raise RealCompoError("clip", "no text encoder is connected", "Connect a CLIP")
    require_clip(clip, "clip")
    model = getattr(gligen, "model", None)
    if not hasattr(model, "set_position"):
        raise RealCompoError(
            "gligen_textbox_model",
            "this is no GLIGEN model",
            "Connect the output of 'GLIGENLoader' or of 'Load Shapes Demo Models'",
        )
    if not 0.0 <= start < end <= 1.0:
        raise RealCompoError(
            "start", f"the schedule runs from {start:g} to {end:g}", "Set 0 <= start < end <= 1"
        )
    if not positive:
        raise RealCompoError("positive", "the conditioning is empty", "Encode a prompt first")

    vectors = _phrase_vectors(layout, clip, getattr(model, "key_dim", None))
    most = int(getattr(model, "max_objs", MAX_REGIONS))
    with_boxes: Conditioning = []
    without: Conditioning = []
    for item in positive:
        options = item[1]
        before = _earlier(options, gligen)
        placed = [_inside_area(region.box, options) for region in regions]
        boxes = before + [
            (vector, *_shares(box)) for vector, box in zip(vectors, placed, strict=True) if box
        ]
        if len(boxes) > most:
            raise RealCompoError(
                "layout",
                f"{len(boxes)} boxes are too many, this GLIGEN model takes {most}",
                "Remove regions, or boxes of GLIGEN nodes before this one",
            )
        if not boxes:
            with_boxes.append([item[0], options.copy()])
            continue
        grounded = {**options, "gligen": (GROUNDED, gligen, boxes)}
        rest = {**options, "gligen": (GROUNDED if before else EMPTY, gligen, before)}
        inside, outside = _scheduled(item, grounded, rest, start, end)
        with_boxes += inside
        without += outside
    return with_boxes + without
