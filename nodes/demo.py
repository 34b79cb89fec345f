"""Loaders of the embedded demo models, and control pictures for them."""

from __future__ import annotations

from typing import Any, ClassVar

from .checked import checked

MODELS, CONTROL, HINT = (
    "Load Shapes Demo Models", "Load Shapes Demo ControlNet", "Shapes Demo Hint",
)  # fmt: skip


@checked(MODELS)
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
        """Style, part and finetuning."""
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
            },
            "optional": {
                "finetuned": (
                    ["none", "Separate and Enhance", "ReFL"],
                    {
                        "default": "none",
                        "tooltip": "Puts a LoRA onto the realism part that RealCompo's own nodes "
                        "trained and that comes with the pack: by Separate-and-Enhance (every "
                        "style), or by the captioner's reward (realistic only).",
                    },
                ),
            },
        }

    def load(self, style: str, part: str, finetuned: str = "none") -> tuple[Any, Any, Any, Any]:
        """(MODEL, CLIP, VAE, GLIGEN) of the demo."""
        from ..shapes.host_models import load_demo

        return load_demo(style, part, finetuned)


KIND_TOOLTIP = (
    "segmentation: a map with one colour per shape. keypoints: a skeleton from each object's "
    "centre to its corners or tips, one colour per point."
)


@checked(CONTROL)
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


@checked(HINT)
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
        from ..balancer.layouts.layout import require_layout
        from ..shapes.control import KINDS, draw_hints, scene_of_layout

        if kind not in KINDS:
            remedy = "Choose 'segmentation' or 'keypoints'"
            raise RealCompoError("kind", f"there is no kind '{kind}'", remedy)
        scene = scene_of_layout(require_layout(layout))
        return (draw_hints([scene], kind, width, height).movedim(1, -1),)


NODE_CLASS_MAPPINGS = {
    "RealCompoShapesLoader": RealCompoShapesLoader,
    "RealCompoShapesControlNet": RealCompoShapesControlNet,
    "RealCompoShapesHint": RealCompoShapesHint,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoShapesLoader": MODELS,
    "RealCompoShapesControlNet": CONTROL,
    "RealCompoShapesHint": HINT,
}
