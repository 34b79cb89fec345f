"""The loader of the embedded demo models."""

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
                    ["realistic", "sketch"],
                    {
                        "tooltip": "Look of the realism part: shaded solids in a room, or ink and "
                        "hatching on paper. The spatial part is the same for both."
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


NODE_CLASS_MAPPINGS = {"RealCompoShapesLoader": RealCompoShapesLoader}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoShapesLoader": "Load Shapes Demo Models"}
