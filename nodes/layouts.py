"""Layouts: what shall stand where, from text or other nodes' boxes, and as GLIGEN boxes."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/layout"
FROM_BOXES, APPLY_GLIGEN = "RealCompo Layout From Boxes", "RealCompo Apply GLIGEN"
MAX_SIDE = 16384


class AnyType(str):
    """A socket type that is equal to every other, so that any link fits.

    The host compares types with ``!=`` as plain strings; packs name boxes in a dozen ways
    (BBOX, BOUNDING_BOX, BBOXES, SEGS, ARRAY, JSON, ...).
    """

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = str.__eq__
    __hash__ = str.__hash__


ANY = AnyType("*")


@checked(FROM_BOXES, data=("phrases",))
class RealCompoLayoutFromBoxes:
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
                "prompt": ("STRING", {
                    "multiline": True, "default": "",
                    "tooltip": "The same text that your positive prompt encodes: the phrases are"
                    " looked up in it. Left empty: that of the connected layout.",
                }),
                "width": ("INT", {
                    "default": 0, "min": 0, "max": MAX_SIDE, "step": 8,
                    "tooltip": "Width in pixels of the image that the boxes are for. Needed for"
                    " boxes in pixels only; 0 = unknown.",
                }),
                "height": ("INT", {
                    "default": 0, "min": 0, "max": MAX_SIDE, "step": 8,
                    "tooltip": "Height in pixels of the image that the boxes are for. Needed for"
                    " boxes in pixels only; 0 = unknown.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "A layout to add these regions to.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING")
    RETURN_NAMES = ("layout", "prompt")
    OUTPUT_TOOLTIPS = (
        "The regions, for RealCompo Dual Sampler, RealCompo Apply GLIGEN and others.",
        "The prompt, to be connected to CLIP Text Encode: one text for both.",
    )
    FUNCTION = "build"
    CATEGORY = CATEGORY
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
        from ..balancer.boxes_io import parse_boxes
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import Layout, require_layout

        try:
            before = Layout(()) if layout is None else require_layout(layout)
            # A text field wins over what came by wire, as it does in the host's own nodes.
            text = prompt if prompt.strip() else before.prompt
            regions = parse_boxes(boxes, phrases, width or before.width or 0,
                                  height or before.height or 0, text)  # fmt: skip
            made = Layout(
                before.regions + tuple(regions),
                text,
                width or before.width,
                height or before.height,
            )
            return made, made.prompt
        except RealCompoError as error:
            raise error.at(FROM_BOXES) from None


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
                "start": ("FLOAT", {
                    "default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "Share of the noise schedule before which the boxes have no effect,"
                    " counted as ComfyUI's start_percent.",
                }),
                "end": ("FLOAT", {
                    "default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "Share of the noise schedule after which the boxes have no effect."
                    " Places settle early: an end of 0.3 to 0.5 keeps them and frees the"
                    " details.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("positive",)
    OUTPUT_TOOLTIPS = ("The prompt with its boxes, for the spatial model's positive input.",)
    FUNCTION = "apply"
    CATEGORY = CATEGORY
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
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import require_layout

        try:
            regions = require_layout(layout)
            return (apply_gligen(positive, clip, gligen_textbox_model, regions, start, end),)
        except RealCompoError as error:
            raise error.at(APPLY_GLIGEN) from None


NODE_CLASS_MAPPINGS = {
    "RealCompoLayoutFromBoxes": RealCompoLayoutFromBoxes,
    "RealCompoApplyGLIGEN": RealCompoApplyGLIGEN,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLayoutFromBoxes": FROM_BOXES,
    "RealCompoApplyGLIGEN": APPLY_GLIGEN,
}
