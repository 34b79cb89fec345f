"""Look at a layout."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .inspection import CATEGORY

PREVIEW = "RealCompo Layout Preview"
MAX_SIDE = 8192


@checked(PREVIEW)
class RealCompoLayoutPreview:
    """A layout's boxes, masks and phrases as a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "layout": ("REALCOMPO_LAYOUT", {"tooltip": "The layout to draw."}),
            },
            "optional": {
                "image": ("IMAGE", {
                    "tooltip": "A picture to draw it on, for instance the result; the first of a"
                    " batch.",
                }),
                "width": ("INT", {
                    "default": 0, "min": 0, "max": MAX_SIDE, "step": 8,
                    "tooltip": "Width of the picture in pixels. 0 = the image's, else the"
                    " layout's, else 512.",
                }),
                "height": ("INT", {
                    "default": 0, "min": 0, "max": MAX_SIDE, "step": 8,
                    "tooltip": "Height of the picture in pixels. 0 = the image's, else the"
                    " layout's, else 512.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The drawing. Connect to Preview Image or Save Image.",)
    FUNCTION = "draw"
    CATEGORY = CATEGORY
    DESCRIPTION = "Draws a layout's regions with their phrases, alone or over a picture."

    def draw(self, layout: Any, image: Any = None, width: int = 0, height: int = 0) -> tuple[Any]:
        """Returns one picture (1, H, W, 3)."""
        from ..balancer.pictures.layout import draw_layout, preview_size

        return (draw_layout(layout, *preview_size(layout, image, width, height), image),)


NODE_CLASS_MAPPINGS = {"RealCompoLayoutPreview": RealCompoLayoutPreview}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoLayoutPreview": PREVIEW}
