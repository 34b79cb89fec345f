"""Loaders of the embedded demo models, and control pictures for them."""

from __future__ import annotations

from typing import Any, ClassVar


class RealCompoShapesLoader:
    """Gives the shapes demo's models in the host's own types; reads files, keeps no state."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "GLIGEN")
    RETURN_NAMES = ("model", "clip", "vae", "gligen")
    OUTPUT_TOOLTIPS = (
        "Diffusion model of the chosen part, for pictures of 128x128 pixels.",
        "Text encoder of the demo; both parts share it.",
        "Codec of the demo: 16 channels, an eighth of the picture's sides.",
        "Box model for 'GLIGEN Textbox Apply'; only the spatial part's model follows it.",
    )
    FUNCTION = "load"
    CATEGORY = "RealCompo/demo"
    DESCRIPTION = (
        "Loads the tiny models that come with RealCompo. They draw one to four coloured shapes "
        "('a red circle and a blue star': circle, square, triangle, star or cross in red, orange, "
        "yellow, green, blue or purple) and need no download and no graphics card. Use an empty "
        "latent of 128x128 and a cfg of about 3."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["realcompo demo", "toy models", "shapes world"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Style and part."""
        return {
            "required": {
                "style": (
                    ["realistic", "sketch", "neon"],
                    {
                        "tooltip": "Look of the realism part: shaded solids in a room, ink and "
                        "hatching on paper, or lit panes in the dark. The spatial part is the same "
                        "for all."
                    },
                ),
                "part": (
                    ["realism", "spatial"],
                    {
                        "tooltip": "realism: knows the style but not the places. spatial: puts "
                        "objects into GLIGEN boxes, in a plain flat style."
                    },
                ),
            }
        }

    def load(self, style: str, part: str) -> tuple[Any, Any, Any, Any]:
        """(MODEL, CLIP, VAE, GLIGEN) of the demo."""
        from ..shapes.host_models import load_demo

        return load_demo(style, part)


KIND_TOOLTIP = (
    "segmentation: a map with one colour per shape. keypoints: a skeleton from each object's "
    "centre to its corners or tips, one colour per point."
)


class RealCompoShapesControlNet:
    """Gives a ControlNet of the shapes demo in the host's own type; keeps no state."""

    RETURN_TYPES = ("CONTROL_NET",)
    RETURN_NAMES = ("control_net",)
    OUTPUT_TOOLTIPS = ("ControlNet for the demo's spatial model. Connect to 'Apply ControlNet'.",)
    FUNCTION = "load"
    CATEGORY = "RealCompo/demo"
    DESCRIPTION = (
        "Loads one of the two tiny ControlNets that come with RealCompo. With the spatial part of "
        "'Load Shapes Demo Models', and no GLIGEN boxes, it puts shapes where a control picture "
        "shows them; their colours come from the prompt."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["realcompo demo", "toy controlnet", "shapes world"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Kind of control picture."""
        kinds = ["segmentation", "keypoints"]
        return {"required": {"kind": (kinds, {"tooltip": KIND_TOOLTIP})}}

    def load(self, kind: str) -> tuple[Any]:
        """(CONTROL_NET,) of the demo."""
        from ..shapes.host_models import load_control

        return (load_control(kind),)


class RealCompoShapesHint:
    """A layout of the demo's shapes as a control picture."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The control picture, on black. Connect to 'Apply ControlNet'.",)
    FUNCTION = "draw"
    CATEGORY = "RealCompo/demo"
    DESCRIPTION = (
        "Draws a layout as the control picture that the demo's ControlNets were trained on, so "
        "that they can be tried without drawing. Every phrase names one colour and one shape ('a "
        "red star'); a region with a mask counts as its box."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["realcompo demo", "control image", "shapes world"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Layout, kind and size."""
        side = {"default": 128, "min": 64, "max": 2048, "step": 8}
        return {
            "required": {
                "layout": (
                    "REALCOMPO_LAYOUT",
                    {"tooltip": "Boxes with phrases like 'a red star'; shape and box are drawn."},
                ),
                "kind": (["segmentation", "keypoints"], {"tooltip": KIND_TOOLTIP}),
                "width": (
                    "INT",
                    {**side, "tooltip": "Width in pixels; that of the picture to be made."},
                ),
                "height": (
                    "INT",
                    {**side, "tooltip": "Height in pixels; that of the picture to be made."},
                ),
            }
        }

    def draw(self, layout: Any, kind: str, width: int, height: int) -> tuple[Any]:
        """(IMAGE,): one picture (1, height, width, 3)."""
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import require_layout
        from ..shapes.control import KINDS, draw_hints, scene_of_layout

        try:
            if kind not in KINDS:
                remedy = "Choose 'segmentation' or 'keypoints'"
                raise RealCompoError("kind", f"there is no kind '{kind}'", remedy)
            scene = scene_of_layout(require_layout(layout))
        except RealCompoError as error:
            raise error.at(HINT) from None
        return (draw_hints([scene], kind, width, height).movedim(1, -1),)


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
    FUNCTION = "look"
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

    def look(
        self, image: Any, batch_index: int, only: str = "", names: str = "colour and shape"
    ) -> tuple[list[str], list[Any], str]:
        """Labels, masks (1, H, W) and boxes as JSON."""
        import json

        import torch

        from ..balancer.errors import RealCompoError
        from ..balancer.words import words_of
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
        asked = {SINGULARS.get(word.text, word.text) for word in words_of(only)}
        wanted = asked & {*COLOURS, *SHAPES}
        if only.strip() and not wanted:
            problem, remedy = f"'{only}' names none of the demo's", "Name a colour, a shape or both"
            raise RealCompoError("only", problem, remedy, DETECTOR)
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


HINT = "Shapes Demo Hint"
DETECTOR = "Shapes Demo Detector"
NODE_CLASS_MAPPINGS = {
    "RealCompoShapesLoader": RealCompoShapesLoader,
    "RealCompoShapesControlNet": RealCompoShapesControlNet,
    "RealCompoShapesHint": RealCompoShapesHint,
    "RealCompoShapesDetector": RealCompoShapesDetector,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoShapesLoader": "Load Shapes Demo Models",
    "RealCompoShapesControlNet": "Load Shapes Demo ControlNet",
    "RealCompoShapesHint": HINT,
    "RealCompoShapesDetector": DETECTOR,
}
