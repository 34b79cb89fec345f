"""The shapes demo's eyes: a detector and a captioner for the pictures that its models draw."""

from __future__ import annotations

from typing import Any, ClassVar

from .checked import checked

DETECTOR = "Shapes Demo Detector"
CAPTIONER = "Load Shapes Demo Captioner"


@checked(DETECTOR)
class RealCompoShapesDetector:
    """What is in a picture of the demo's shapes: a detector that needs no model."""

    RETURN_TYPES = ("STRING", "MASK", "STRING")
    RETURN_NAMES = ("labels", "masks", "boxes")
    OUTPUT_IS_LIST = (True, True, False)
    OUTPUT_TOOLTIPS = (
        "A list of what was seen, largest first: 'red star'. One empty text if there is nothing.",
        "A list with one mask for each label. One empty mask if there is nothing.",
        "The same as JSON: a list of label, box (x0, y0, x1, y1 in 0..1) and score (how much of its"
        " outline is that of the shape, 0..1).",
    )
    FUNCTION = "detect"
    CATEGORY = "RealCompo/demo"
    DESCRIPTION = (
        "Finds the demo's coloured shapes in a picture, by hue and outline; nothing learned. It"
        " stands where a detector or segmenter of your own would stand before RealCompo Dense"
        " Captions, and also looks for one thing at a time as those that take a text do."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["realcompo demo", "oracle", "segment", "shapes world"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Picture, which of a batch, and what to look for."""
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "A picture that the demo's models drew."}),
                "batch_index": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4095,
                        "tooltip": "Which picture of a batch; 0 = the first.",
                    },
                ),
            },
            "optional": {
                "only": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Look for this alone: a shape, a colour, or both ('red star', 'a"
                        " star'). Empty = everything. A list of texts runs it once for each.",
                    },
                ),
                "names": (
                    ["colour and shape", "shape"],
                    {
                        "tooltip": "What a label says: 'red star', or 'star' as a detector that "
                        "knows no colours would."
                    },
                ),
            },
        }

    def detect(
        self, image: Any, batch_index: int, only: str = "", names: str = "colour and shape"
    ) -> tuple[list[str], list[Any], str]:
        """Labels, masks (1, H, W) and boxes as JSON."""
        import json

        import torch

        from ..balancer.errors import RealCompoError, shown
        from ..balancer.text.words import words_of
        from ..shapes.oracle import detect_masks
        from ..shapes.score import SINGULARS
        from ..shapes.world import COLOURS, SHAPES

        if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[-1] < 3:
            problem = f"got a {type(image).__name__} that is no picture"
            raise RealCompoError("image", problem, "Connect an IMAGE", DETECTOR)
        if batch_index >= len(image):
            problem = f"there are {len(image)} pictures, and {batch_index} is asked for"
            raise RealCompoError("batch_index", problem, "Count from 0", DETECTOR)
        picture = image[batch_index : batch_index + 1, ..., :3].movedim(-1, 1)
        words = {SINGULARS.get(word.text, word.text) for word in words_of(only)}
        wanted = words & {*COLOURS, *SHAPES}
        if only.strip() and not wanted:
            problem = f"{shown(only)} names none of the demo's"
            raise RealCompoError("only", problem, "Name a colour, a shape or both", DETECTOR)
        seen = [
            (thing.shape if names == "shape" else f"{thing.colour} {thing.shape}", thing, mask)
            for thing, mask in detect_masks(picture)[0]
            if wanted <= {thing.colour, thing.shape}
        ]
        boxes = [
            {"label": label, "box": [round(edge, 4) for edge in thing.box],
             "score": round(thing.fit, 3)}
            for label, thing, _ in seen
        ]  # fmt: skip
        labels = [label for label, _, _ in seen] or [""]
        masks = [mask.float()[None] for _, _, mask in seen]
        return labels, masks or [torch.zeros(1, *image.shape[1:3])], json.dumps(boxes)


@checked(CAPTIONER)
class RealCompoShapesCaptioner:
    """Gives the shapes demo's captioner."""

    RETURN_TYPES = ("REALCOMPO_CAPTIONER",)
    RETURN_NAMES = ("captioner",)
    OUTPUT_TOOLTIPS = ("The model, for RealCompo Caption, Likelihood Reward and ReFL Train.",)
    FUNCTION = "load"
    CATEGORY = "RealCompo/demo"
    DESCRIPTION = (
        "Loads the tiny captioner that comes with RealCompo: a BLIP of the ordinary kind, trained "
        "on pictures of the shapes demo in all its styles, which says what shapes are there. It "
        "knows no other pictures. For the nodes after RealignDiff."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["realcompo demo", "toy captioner", "shapes world"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """None."""
        return {"required": {}}

    def load(self) -> tuple[Any]:
        """(REALCOMPO_CAPTIONER,) of the demo."""
        from ..balancer.comfy.captions.captioner_folder import load_captioner
        from ..shapes.captioner import FOLDER

        return (load_captioner(FOLDER),)


NODE_CLASS_MAPPINGS = {
    "RealCompoShapesDetector": RealCompoShapesDetector,
    "RealCompoShapesCaptioner": RealCompoShapesCaptioner,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoShapesDetector": DETECTOR,
    "RealCompoShapesCaptioner": CAPTIONER,
}
