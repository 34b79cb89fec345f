"""Look at where a model's words attend."""

from __future__ import annotations

import json
from typing import Any

from .checked import checked
from .inspection import CATEGORY

MAPS = "RealCompo Attention Maps"


@checked(MAPS)
class RealCompoAttentionMaps:
    """One model's cross-attention, phrase by phrase, over a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.attention.report import GROUPINGS
        from ..balancer.realcompo.settings import MAP_LEVELS

        return {
            "required": {
                "model": ("MODEL", {
                    "tooltip": "Any U-Net model (SD1.x, SD2.x, SDXL), patched or not. It is not"
                    " changed.",
                }),
                "positive": ("CONDITIONING", {
                    "tooltip": "The prompt, with GLIGEN boxes or a ControlNet if it has them. Same"
                    " text as the layout's prompt.",
                }),
                "latent_image": ("LATENT", {
                    "tooltip": "What is looked at: a sampler's result or an encoded picture; noise"
                    " is put on it. An empty latent shows what the prompt wants before anything"
                    " is drawn.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "The phrases to look for, and the regions that they should be in.",
                }),
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True, "tooltip": "Seed of the noise.",
                }),
                "noise_levels": ("STRING", {
                    "default": "0.2, 0.5, 0.8",
                    "tooltip": "Where in the noise schedule to look, with commas between: 0 is only"
                    " noise, 1 the finished picture. Each is one pass through the model.",
                }),
                "map_level": ([*MAP_LEVELS, "all"], {
                    "default": "auto",
                    "tooltip": "Which layers to read, by latent positions per map cell. auto: those"
                    " that the balancer reads. all: every layer with cross-attention.",
                }),
                "sites": (list(GROUPINGS), {
                    "default": "mean",
                    "tooltip": "mean: one map of all layers together. blocks: one per block of the"
                    " model. layers: every layer by itself.",
                }),
            },
            "optional": {
                "image": ("IMAGE", {
                    "tooltip": "The picture to lay the maps over, such as the decoded latent.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("image", "masks", "shares")
    OUTPUT_TOOLTIPS = (
        "One sheet per picture of the batch: a row per phrase, a column per noise level and site.",
        "Mean map of each phrase as a mask, its peak at 1, in the order of the regions.",
        "The share of each phrase's attention inside its region, as JSON.",
    )
    FUNCTION = "draw"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Shows where a model's cross-attention puts each phrase of the layout, over a picture, with"
        " the share that lies inside the phrase's region. Reads only; the model stays as it is."
    )

    def draw(
        self,
        model: Any,
        positive: Any,
        latent_image: Any,
        layout: Any,
        seed: int,
        noise_levels: str,
        map_level: str,
        sites: str,
        image: Any = None,
    ) -> tuple[Any, Any, str]:
        """Run the model once per noise level, and draw what it attended to."""
        from ..balancer.attention.report import parse_levels
        from ..balancer.comfy.attention.families import locate
        from ..balancer.comfy.attention_report import chosen_sites, read_attention
        from ..balancer.pictures.attention import draw_reading, phrase_masks
        from ..balancer.pictures.layout import backdrop, preview_size

        levels = parse_levels(noise_levels)
        rows, columns = latent_image["samples"].shape[-2:]
        size = preview_size(layout, image) if image is not None else (8 * columns, 8 * rows)
        if image is not None:
            backdrop(image, 8, 8)  # refuses what is no picture before the model runs
        chosen_sites(model, map_level)
        tokens = locate(layout, model.model, positive, "positive")
        reading = read_attention(
            model, positive, latent_image, layout, tokens, seed, levels, map_level, sites,
        )  # fmt: skip
        batch = range(reading.columns[0][0].maps.shape[0])
        shares = [reading.summary(layout, sample) for sample in batch]
        sheets = draw_reading(reading, layout, size, image)
        return sheets, phrase_masks(reading, *size), json.dumps(shares, indent=1)


NODE_CLASS_MAPPINGS = {"RealCompoAttentionMaps": RealCompoAttentionMaps}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoAttentionMaps": MAPS}
