"""Beside finetuning: Separate-and-Enhance's losses as a measure, and LoRA files."""

from __future__ import annotations

import json
from typing import Any

from .checked import checked
from .finetuning import CATEGORY, EXAMPLE
from .training_inputs import SIDE, clean_latents_and_size, given_prompts, seed_input

REPORT = "RealCompo Separation Report"
SAVE = "RealCompo Save LoRA"


@checked(REPORT, data=("prompts",))
class RealCompoSeparationReport:
    """Separate-and-Enhance's losses as a measure of any model, without training."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.realcompo.settings import MAP_LEVELS

        return {
            "required": {
                "model": ("MODEL", {
                    "tooltip": "Any U-Net model (SD1.x, SD2.x, SDXL), patched or not. It is not"
                    " changed.",
                }),
                "clip": ("CLIP", {"tooltip": "The checkpoint's text encoder."}),
                "prompts": ("STRING", {
                    "default": EXAMPLE, "multiline": True, "dynamicPrompts": False,
                    "tooltip": "One prompt per line, its objects after vertical bars, in the"
                    " prompt's own words; without them they are found by rules.",
                }),
                "noise_levels": ("STRING", {
                    "default": "0.2, 0.5, 0.8",
                    "tooltip": "Where in the noise schedule to look, with commas between: 0 is only"
                    " noise, 1 the finished picture.",
                }),
                "seed": seed_input("Seed of the noise. Compare models at the same seed."),
                "map_level": (list(MAP_LEVELS), {
                    "default": "auto",
                    "tooltip": "Which layers' maps are judged, by latent positions per map cell."
                    " auto: 4 (16x16 maps of SD1.5 at 512 px).",
                }),
            },
            "optional": {
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Look at this layout's prompt and phrases, beside the prompts"
                    " above.",
                }),
                "latents": ("LATENT", {
                    "tooltip": "Clean latents to put noise on, one per prompt. Without them quiet"
                    " noise stands in.",
                }),
                "width": ("INT", {
                    **SIDE, "tooltip": "Width of the picture; latents, if any, have their own.",
                }),
                "height": ("INT", {**SIDE, "tooltip": "Height of the picture."}),
            },
        }  # fmt: skip

    RETURN_TYPES = ("IMAGE", "FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("image", "separate", "enhance", "report")
    OUTPUT_TOOLTIPS = (
        "One sheet per prompt: a row per object, a column per noise level.",
        "Separate loss, mean over prompts and noise levels: 0 (apart) to 0.25 (on one another).",
        "Enhance loss, mean likewise: 0 (every object firmly looked at) to 1 (some not at all).",
        "All numbers, as JSON.",
    )
    FUNCTION = "measure"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "How far a model's attention keeps a prompt's objects apart, and how firmly it looks at"
        " each: the losses of Separate-and-Enhance, and the maps. No training."
    )

    def measure(
        self,
        model: Any,
        clip: Any,
        prompts: str,
        noise_levels: str,
        seed: int,
        map_level: str,
        layout: Any = None,
        latents: Any = None,
        width: int = 512,
        height: int = 512,
    ) -> tuple[Any, float, float, str]:
        """Returns sheets, both losses' means, and all numbers."""
        import torch

        from ..balancer.attention.report import parse_levels
        from ..balancer.comfy.finetune.separate_enhance import level_of
        from ..balancer.comfy.finetune.separation import prepare
        from ..balancer.comfy.finetune.separation_report import separation_reports
        from ..balancer.finetune.prompts import parse_lines
        from ..balancer.pictures.attention import draw_reading

        levels = parse_levels(noise_levels)
        chosen = given_prompts(prompts, layout, parse_lines)
        factor = level_of(model, map_level)
        clean, size = clean_latents_and_size(model, latents, width, height)
        prepared = prepare(clip, chosen, singles=False)
        reports = separation_reports(model, prepared, levels, factor, size, seed, clean)
        shape = 8 * size[1], 8 * size[0]
        sheets = [draw_reading(r.reading, r.layout, shape) for r in reports]
        rows, columns = (max(s.shape[d] for s in sheets) for d in (1, 2))
        image = torch.cat([_on_white(sheet, rows, columns) for sheet in sheets])
        separate = [v for r in reports for v in r.separate]
        enhance = [v for r in reports for v in r.enhance]
        text = json.dumps(
            {"levels": levels, "prompts": [r.as_json() for r in reports]}, indent=1
        )
        return image, sum(separate) / len(separate), sum(enhance) / len(enhance), text


def _on_white(sheet: Any, height: int, width: int) -> Any:
    """A sheet (1, h, w, 3) with white below and beside it, so that several make one batch."""
    import torch

    room = (0, 0, 0, width - sheet.shape[2], 0, height - sheet.shape[1])
    return torch.nn.functional.pad(sheet, room, value=1.0)


@checked(SAVE)
class RealCompoSaveLoRA:
    """A LoRA file that says how it was made."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "lora": ("LORA_MODEL", {"tooltip": "What a training node gives."}),
                "filename_prefix": ("STRING", {
                    "default": "loras/realcompo",
                    "tooltip": "Name of the file below ComfyUI's output folder; a number is added.",
                }),
            },
            "optional": {
                "loss": ("LOSS_MAP", {"tooltip": "Losses per step, kept in the file's metadata."}),
            },
        }  # fmt: skip

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Name of the file below the output folder.",)
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Saves a LoRA as stock loaders take it, with its base, prompts, settings and losses in the"
        " file's metadata. Move or link it to models/loras to load it by name."
    )

    def save(self, lora: Any, filename_prefix: str, loss: Any = None) -> dict[str, Any]:
        """Write the file; returns its name, which the node shows too."""
        from ..balancer.comfy.finetune.lora_file import save_lora, with_losses

        kept = lora if loss is None else with_losses(lora, loss)
        name = save_lora(kept, filename_prefix)
        return {"ui": {"text": [name]}, "result": (name,)}


NODE_CLASS_MAPPINGS = {
    "RealCompoSeparationReport": RealCompoSeparationReport,
    "RealCompoSaveLoRA": RealCompoSaveLoRA,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoSeparationReport": REPORT,
    "RealCompoSaveLoRA": SAVE,
}
