"""Work on layouts: as masks, merged, moved."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .layout_inputs import LayoutNode, share, side

TO_MASKS, MERGE, TRANSFORM = (
    "RealCompo Layout To Masks", "RealCompo Layout Merge", "RealCompo Layout Transform",
)  # fmt: skip


@checked(TO_MASKS)
class RealCompoLayoutToMasks:
    """A layout's regions as MASK, for every other node."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"layout": ("REALCOMPO_LAYOUT", {"tooltip": "The layout."})},
            "optional": {
                "width": side("Width of the masks in pixels. 0 = the layout's, else 512."),
                "height": side("Height of the masks in pixels. 0 = the layout's, else 512."),
                "soft": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "On: edges between pixels are exact shares. Off: 0 or 1 only, and no"
                    " region is empty however small.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("MASK", "MASK", "STRING")
    RETURN_NAMES = ("masks", "background", "phrases")
    OUTPUT_TOOLTIPS = (
        "One mask for every region, in the layout's order.",
        "One mask of what no region covers.",
        "The regions' phrases, one a line, in the same order; RealCompo Layout From Masks reads"
        " them.",
    )
    FUNCTION = "convert"
    CATEGORY = LayoutNode.CATEGORY
    DESCRIPTION = (
        "Turns a layout into masks, for area prompts (Conditioning Set Mask), inpainting, regional"
        " samplers and others."
    )

    def convert(
        self, layout: Any, width: int = 0, height: int = 0, soft: bool = True
    ) -> tuple[Any, Any, str]:
        """Returns masks (R, H, W), the background (1, H, W) and the phrases."""
        from ..balancer.layouts.box_lines import phrase_line
        from ..balancer.layouts.transform import layout_size, region_masks

        masks = region_masks(layout, *layout_size(layout, width, height), soft=soft)
        lines = [phrase_line(r.phrase, r.occurrence, r.weight) for r in layout.regions]
        return masks, 1.0 - masks.amax(0, keepdim=True), "\n".join(lines)


@checked(MERGE)
class RealCompoLayoutMerge(LayoutNode):
    """Several layouts as one."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def more(number: int) -> tuple[str, dict[str, Any]]:
            return ("REALCOMPO_LAYOUT", {"tooltip": f"Layout {number}; its regions come after."})

        return {
            "required": {
                "layout_1": ("REALCOMPO_LAYOUT", {"tooltip": "The first layout."}),
                "layout_2": more(2),
            },
            "optional": {
                "layout_3": more(3),
                "layout_4": more(4),
                "prompt": ("STRING", {
                    "multiline": True, "default": "",
                    "tooltip": "The prompt of them all. Left empty: their common prompt, or their"
                    " different prompts joined by commas.",
                }),
            },
        }  # fmt: skip

    OUTPUT_TOOLTIPS = (
        "All regions in one layout.",
        LayoutNode.OUTPUT_TOOLTIPS[1],
    )
    FUNCTION = "merge"
    DESCRIPTION = "Puts up to four layouts into one, with their prompts; chain it for more."

    def merge(
        self,
        layout_1: Any,
        layout_2: Any,
        layout_3: Any = None,
        layout_4: Any = None,
        prompt: str = "",
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.layouts.transform import merge_layouts

        given = (layout_1, layout_2, layout_3, layout_4)
        made = merge_layouts([layout for layout in given if layout is not None], prompt)
        return made, made.prompt


@checked(TRANSFORM)
class RealCompoLayoutTransform(LayoutNode):
    """A layout flipped, cropped, scaled, shifted."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.layouts.transform import FLIPS

        def edge(name: str, default: float) -> tuple[str, dict[str, Any]]:
            tip = "edge of the part that becomes the whole picture, as a share of it"
            return share(f"{name} {tip} (after flipping).", default)

        def shift(way: str) -> tuple[str, dict[str, Any]]:
            tip = f"Move everything {way} by this share of the picture; last."
            return share(tip, 0.0, -2.0, 2.0)

        return {
            "required": {
                "layout": ("REALCOMPO_LAYOUT", {"tooltip": "The layout."}),
                "flip": (list(FLIPS), {
                    "default": "none",
                    "tooltip": "horizontal swaps left and right, vertical top and bottom. Words in"
                    " the prompt such as 'left of' stay as they are.",
                }),
            },
            "optional": {
                "crop_left": edge("Left", 0.0),
                "crop_top": edge("Top", 0.0),
                "crop_right": edge("Right", 1.0),
                "crop_bottom": edge("Bottom", 1.0),
                "scale": ("FLOAT", {
                    "default": 1.0, "min": 0.05, "max": 20.0, "step": 0.05,
                    "tooltip": "Make everything this many times as large around the middle, after"
                    " cropping.",
                }),
                "shift_x": shift("to the right"),
                "shift_y": shift("down"),
                "min_visible": share(
                    "A region of which less than this share stays in the picture is left out.", 0.05
                ),
            },
        }  # fmt: skip

    OUTPUT_TOOLTIPS = (
        "The layout after the move; masks follow.",
        "The prompt, unchanged.",
    )
    FUNCTION = "transform"
    DESCRIPTION = (
        "Flips, crops, scales and shifts a layout, for instance along with an image that was"
        " cropped or mirrored."
    )

    def transform(
        self,
        layout: Any,
        flip: str,
        crop_left: float = 0.0,
        crop_top: float = 0.0,
        crop_right: float = 1.0,
        crop_bottom: float = 1.0,
        scale: float = 1.0,
        shift_x: float = 0.0,
        shift_y: float = 0.0,
        min_visible: float = 0.05,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.layouts.transform import Move, transform_layout

        crop = (crop_left, crop_top, crop_right, crop_bottom)
        move = Move(flip, crop, scale, shift_x, shift_y)
        made = transform_layout(layout, move, min_visible)
        return made, made.prompt


NODE_CLASS_MAPPINGS = {
    "RealCompoLayoutToMasks": RealCompoLayoutToMasks,
    "RealCompoLayoutMerge": RealCompoLayoutMerge,
    "RealCompoLayoutTransform": RealCompoLayoutTransform,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLayoutToMasks": TO_MASKS,
    "RealCompoLayoutMerge": MERGE,
    "RealCompoLayoutTransform": TRANSFORM,
}
