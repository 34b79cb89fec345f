"""Scores of finished pictures by models that the user has: CLIP, and a detector of named things.

Both run through ``transformers``, which is no dependency of the pack, and only from a local folder
or the user's cache: nothing is downloaded. What cannot be had is left out and said, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import comfy.sd1_clip
import torch
from torch import Tensor

from ...balancer.layouts.layout import Box, Layout

CLIP_SCORE, DETECTOR_IOU = "clip_score", "detector_iou"
DETECTOR_THRESHOLD = 0.1
"""Detections below this confidence do not count; what OWLv2's own examples use."""


class Judge(Protocol):
    """A model that scores a picture against its layout."""

    metric: str
    name: str

    def to(self, device: torch.device) -> None:
        """Move the model to the device that it shall judge on."""
        ...

    def score(self, picture: Any, layout: Layout) -> float:
        """Score of a PIL picture; higher is better."""
        ...


def plain_text(prompt: str) -> str:
    """``prompt`` without the host's weights: '(red car:1.2)' is 'red car'."""
    escaped = comfy.sd1_clip.escape_important(prompt)
    parts = comfy.sd1_clip.token_weights(escaped, 1.0)
    return comfy.sd1_clip.unescape_important("".join(text for text, _ in parts))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / total if total > 0 else 0.0


class ClipJudge:
    """Cosine of CLIP's picture and text vectors (Hessel et al. 2021, without its factor 2.5).

    -1..1. CLIP reads 77 tokens; the rest of a longer prompt is not judged.
    """

    metric = CLIP_SCORE

    def __init__(self, name: str) -> None:
        """Load from a folder or the user's cache; whatever ``transformers`` raises passes."""
        from transformers import CLIPModel, CLIPProcessor

        self.name = name
        self._model: Any = CLIPModel.from_pretrained(name, local_files_only=True).eval()
        self._processor: Any = CLIPProcessor.from_pretrained(name, local_files_only=True)
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move the model to ``device``."""
        self._model.to(device)
        self._device = device

    @torch.inference_mode()
    def score(self, picture: Any, layout: Layout) -> float:
        """Cosine of the picture and the layout's prompt."""
        inputs = self._processor(
            text=[plain_text(layout.prompt)], images=[picture], return_tensors="pt", padding=True,
            truncation=True,
        )  # fmt: skip
        out = self._model(**{name: value.to(self._device) for name, value in inputs.items()})
        image, text = (_unit(out[key]) for key in ("image_embeds", "text_embeds"))
        return float((image * text).sum())


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)


class DetectorJudge:
    """Mean over regions of the best overlap of its phrase's detections with its box, 0..1.

    Any zero-shot object detector of ``transformers``, such as OWLv2. A phrase that is not found
    anywhere scores 0.
    """

    metric = DETECTOR_IOU

    def __init__(self, name: str) -> None:
        """Load from a folder or the user's cache; whatever ``transformers`` raises passes."""
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.name = name
        loader: Any = AutoModelForZeroShotObjectDetection
        self._model: Any = loader.from_pretrained(name, local_files_only=True).eval()
        self._processor: Any = AutoProcessor.from_pretrained(name, local_files_only=True)
        self._detect: Callable[..., Any] | None = None

    def to(self, device: torch.device) -> None:
        """Make the pipeline, on ``device``."""
        from transformers import pipeline

        self._detect = pipeline(
            "zero-shot-object-detection", model=self._model, device=device,
            tokenizer=self._processor.tokenizer, image_processor=self._processor.image_processor,
        )  # fmt: skip

    def score(self, picture: Any, layout: Layout) -> float:
        """Mean over the layout's regions; every phrase is asked for once."""
        if self._detect is None:
            raise RuntimeError("the detector has not been moved to a device yet")
        phrases = list(dict.fromkeys(region.phrase for region in layout.regions))
        square = _square(picture)
        found = self._detect(square, candidate_labels=phrases, threshold=DETECTOR_THRESHOLD)
        width, height = picture.size
        best = []
        for region in layout.regions:
            boxes = [_shares(hit["box"], width, height) for hit in found
                     if hit["label"] == region.phrase]  # fmt: skip
            best.append(max((overlap(box, region.box) for box in boxes), default=0.0))
        return sum(best) / len(best)


def _square(picture: Any) -> Any:
    """The picture on a grey square, in its top left corner.

    Detectors stretch or pad what is not square, and their pipelines do not agree on which of the
    two a box is given in. In a square both are the same.
    """
    from PIL import Image

    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), (128, 128, 128))
    canvas.paste(picture, (0, 0))
    return canvas


def _shares(box: dict[str, float], width: int, height: int) -> Box:
    """Pixels as shares of the picture; what reaches beyond it is cut off."""
    x0, y0, x1, y1 = (
        min(1.0, max(0.0, box[edge] / side))
        for edge, side in (("xmin", width), ("ymin", height), ("xmax", width), ("ymax", height))
    )
    return x0, y0, x1, y1


def find_judges(clip_model: str | None, detector: str | None) -> tuple[list[Judge], list[str]]:
    """The judges that can be had, and a sentence for every metric that must be left out."""
    judges: list[Judge] = []
    notices: list[str] = []
    wanted: tuple[tuple[str, str, str | None, Callable[[str], Judge]], ...] = (
        (CLIP_SCORE, "--clip-model", clip_model, ClipJudge),
        (DETECTOR_IOU, "--detector", detector, DetectorJudge),
    )
    for metric, option, name, make in wanted:
        if name is None:
            notices.append(f"{metric} is left out: no model is named with {option}.")
            continue
        try:
            judges.append(make(name))
        # a model's folder can be broken in as many ways as there are model classes
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
            notices.append(
                f"{metric} is left out: '{name}' ({option}) cannot be loaded from this machine: "
                f"{said}."
            )
    return judges, notices
