"""Layouts drawn by hand: the editor on the node lives in js/, this is its server side."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .layout_inputs import LayoutNode, side

EDITOR = "RealCompo Layout Editor"
EMPTY = '{"schema": 1, "regions": []}'


@checked(EDITOR, data=("layout_json",))
class RealCompoLayout(LayoutNode):
    """The drawn regions with the prompt that they belong to."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "prompt": ("STRING", {
                    "multiline": True, "default": "",
                    "tooltip": "The text that your positive prompt encodes; each region's phrase"
                    " is looked up in it. Left empty: that of the connected layout.",
                }),
                "layout_json": ("STRING", {
                    "default": EMPTY, "widgetType": "REALCOMPO_LAYOUT_EDITOR",
                    "tooltip": "The drawing: drag to draw a region, name it with words of the"
                    " prompt. Kept in the workflow as a layout's JSON.",
                }),
                "width": side(
                    "Width in pixels of the image that you draw for. Regions are kept as shares of"
                    " it, so that a change scales them.",
                    512, 8,
                ),
                "height": side("Height in pixels of the image that you draw for.", 512, 8),
            },
            "optional": {
                "image": ("IMAGE", {
                    "tooltip": "A picture to draw on. It appears in the editor after a run and"
                    " has no effect on the outputs.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Regions to start from, of another layout node. They replace the"
                    " drawing when they change; until then your edits of them win.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = (*LayoutNode.RETURN_TYPES, "INT", "INT")
    RETURN_NAMES = (*LayoutNode.RETURN_NAMES, "width", "height")
    OUTPUT_TOOLTIPS = (
        *LayoutNode.OUTPUT_TOOLTIPS,
        "The width, for Empty Latent Image.",
        "The height, for Empty Latent Image.",
    )
    FUNCTION = "build"
    DESCRIPTION = (
        "Draw which phrase of the prompt belongs where: boxes or painted masks, with handles,"
        " snapping, undo, copy and paste, over a picture if you like. Phrases that the prompt does"
        " not hold are marked before you run."
    )

    def build(
        self,
        prompt: str,
        layout_json: str,
        width: int,
        height: int,
        image: Any = None,
        layout: Any = None,
    ) -> dict[str, Any]:
        """Returns layout, prompt, width and height, and what the editor shows of the run."""
        from ..balancer.comfy.backdrop import save_backdrop
        from ..balancer.layouts.editor_json import edited_layout, to_adopt

        made = edited_layout(layout_json, prompt, width, height, layout)
        news = {
            "prompt": made.prompt,
            "width": made.width,
            "height": made.height,
            "backdrop": None if image is None else save_backdrop(image),
            "adopt": to_adopt(layout_json, layout),
        }
        return {
            "ui": {"layout_editor": [news]},
            "result": (made, made.prompt, made.width, made.height),
        }


NODE_CLASS_MAPPINGS = {"RealCompoLayout": RealCompoLayout}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoLayout": EDITOR}
