"""Layouts: what shall stand where, from text or other nodes' boxes, and as GLIGEN boxes."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .layout_inputs import ADDED_TO, ANY, PROMPT, LayoutNode, share, side

FROM_BOXES, APPLY_GLIGEN = "RealCompo Layout From Boxes", "RealCompo Apply GLIGEN"


@checked(FROM_BOXES, data=("phrases",))
class RealCompoLayoutFromBoxes(LayoutNode):
    """Regions from typed lines, or from another node's boxes and typed phrases."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "phrases": ("STRING", {
                    "multiline": True,
                    "default": "a red star: 0.1 0.2 0.45 0.7\na blue circle: 0.55 0.3 0.9 0.8",
                    "tooltip": "One region a line: phrase: x0 y0 x1 y1, as shares of the image"
                    " (0 to 1, origin top left) or in pixels. '#2' after a phrase means its second"
                    " occurrence in the prompt, '*1.5' a weight, '# ' at the start of a line makes"
                    " it a comment. The prompt's own wording goes first; elsewhere write \\# \\*"
                    " \\: for the signs themselves. With 'boxes' connected: the phrases only. JSON"
                    " is read, too.",
                }),
            },
            "optional": {
                "boxes": (ANY, {
                    "tooltip": "Boxes of any node: a detector's list, BOUNDING_BOX, elements, SEGS,"
                    " JSON or text lines. Those without a label take the phrases above in"
                    " order.",
                }),
                "prompt": PROMPT,
                "width": side(
                    "Width in pixels of the image that the boxes are for. Needed for boxes in"
                    " pixels only; 0 = unknown."
                ),
                "height": side(
                    "Height in pixels of the image that the boxes are for. Needed for boxes in"
                    " pixels only; 0 = unknown."
                ),
                "layout": ADDED_TO,
            },
        }  # fmt: skip

    FUNCTION = "build"
    DESCRIPTION = (
        "Makes a layout (which phrase of the prompt belongs where) from lines of text, JSON, or"
        " the boxes of other nodes."
    )

    def build(
        self,
        phrases: str,
        boxes: Any = None,
        prompt: str = "",
        width: int = 0,
        height: int = 0,
        layout: Any = None,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from dataclasses import replace

        from ..balancer.layouts.boxes import parse_boxes
        from ..balancer.layouts.from_masks import joined_layout, prompt_of
        from ..balancer.layouts.layout import Layout

        before = Layout(()) if layout is None else layout
        # what is typed goes before what came by wire, as it does in the host's own nodes
        before = replace(
            before, width=width or before.width, height=height or before.height
        )
        regions = parse_boxes(
            boxes, phrases, before.width or 0, before.height or 0, prompt_of(before, prompt)
        )
        made = joined_layout(before, regions, prompt)
        return made, made.prompt


@checked(APPLY_GLIGEN, own=("clip",))
class RealCompoApplyGLIGEN:
    """Every region of a layout as a GLIGEN box."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING", {
                    "tooltip": "The encoded prompt of the spatial model.",
                }),
                "clip": ("CLIP", {
                    "tooltip": "The text encoder of the checkpoint that GLIGEN was made for. It"
                    " encodes the layout's phrases.",
                }),
                "gligen_textbox_model": ("GLIGEN", {"tooltip": "From GLIGENLoader."}),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "The regions; at most 30. Masks count as their bounding boxes.",
                }),
            },
            "optional": {
                "start": share(
                    "Share of the noise schedule before which the boxes have no effect, counted as"
                    " ComfyUI's start_percent.",
                    0.0,
                ),
                "end": share(
                    "Share of the noise schedule after which the boxes have no effect. Places"
                    " settle early: an end of 0.3 to 0.5 keeps them and frees the details.",
                    1.0,
                ),
            },
        }  # fmt: skip

    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("positive",)
    OUTPUT_TOOLTIPS = ("The prompt with its boxes, for the spatial model's positive input.",)
    FUNCTION = "apply"
    CATEGORY = "RealCompo/layout"
    DESCRIPTION = (
        "Gives every region of the layout to GLIGEN, at any image size, like a chain of GLIGEN"
        " Textbox Apply nodes, with a schedule."
    )

    def apply(
        self,
        positive: Any,
        clip: Any,
        gligen_textbox_model: Any,
        layout: Any,
        start: float = 0.0,
        end: float = 1.0,
    ) -> tuple[Any]:
        """Returns the conditioning with boxes."""
        from ..balancer.comfy.gligen import apply_gligen

        return (apply_gligen(positive, clip, gligen_textbox_model, layout, start, end),)


NODE_CLASS_MAPPINGS = {
    "RealCompoLayoutFromBoxes": RealCompoLayoutFromBoxes,
    "RealCompoApplyGLIGEN": RealCompoApplyGLIGEN,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLayoutFromBoxes": FROM_BOXES,
    "RealCompoApplyGLIGEN": APPLY_GLIGEN,
}
