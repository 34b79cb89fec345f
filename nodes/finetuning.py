"""Separate-and-Enhance as a node: finetuning on a model's own attention."""

from __future__ import annotations

from typing import Any, get_args

from .checked import checked
from .training_inputs import (
    SIDE,
    clean_latents_and_size,
    given,
    given_prompts,
    given_settings,
    seed_input,
    training_inputs,
    training_options,
)

CATEGORY = "RealCompo/finetune"
TRAIN = "Separate and Enhance Finetune"
EXAMPLE = "a photo of a cat and a dog | a cat | a dog"


@checked(TRAIN, data=("prompts",))
class RealCompoSeparateEnhance:
    """Separate-and-Enhance as the paper has it: keys of cross-attention, no pictures needed."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.comfy.finetune.separation import SeparationSettings
        from ..balancer.comfy.finetune.training import TARGETS
        from ..balancer.finetune.prompts import TEMPLATE, LineKind
        from ..balancer.realcompo.settings import MAP_LEVELS
        from ..balancer.values.setting_fields import widgets

        shared = training_inputs(200, 8, 1e-3)
        rank = shared.pop("rank")
        return {
            "required": {
                "model": ("MODEL", {
                    "tooltip": "A U-Net checkpoint (SD1.x, SD2.x, SDXL). It is not changed.",
                }),
                "clip": ("CLIP", {"tooltip": "The checkpoint's text encoder."}),
                "prompts": ("STRING", {
                    "default": EXAMPLE, "multiline": True, "dynamicPrompts": False,
                    "tooltip": "One prompt per line, its objects after vertical bars, in the"
                    " prompt's own words; without them they are found by rules. With lines ="
                    " concepts: one concept per line, such as 'a cat'; pairs of them make the"
                    " prompts.",
                }),
                **shared,
                **widgets(SeparationSettings, "separate", "enhance", "norm"),
                "seed": seed_input("Decides start values, prompts' order, noise levels and noise."),
            },
            "optional": {
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Train on this layout's prompt and phrases, beside the prompts"
                    " above. Clear those to train on it alone.",
                }),
                "latents": ("LATENT", {
                    "tooltip": "Clean latents to put noise on, best drawn by this model for such"
                    " prompts. Without them quiet noise stands in, as in the released code.",
                }),
                "lines": (list(get_args(LineKind)), {
                    "default": "prompts",
                    "tooltip": "What the lines above are: whole prompts, or concepts to pair.",
                }),
                "template": ("STRING", {
                    "default": TEMPLATE,
                    "tooltip": "Wording of a pair of concepts: a and b in curly brackets, once"
                    " each, stand for them. Several wordings with vertical bars between.",
                }),
                "pairs": ("INT", {
                    "default": 200, "min": 1, "max": 100_000,
                    "tooltip": "How many pairs of concepts are drawn, by the seed.",
                }),
                "rank": rank,
                "targets": (list(TARGETS), {
                    "default": "to_k",
                    "tooltip": "Which layers learn. The paper trains the keys of cross-attention"
                    " (to_k) and found it best.",
                }),
                "map_level": (list(MAP_LEVELS), {
                    "default": "auto",
                    "tooltip": "Which layers' maps are judged, by latent positions per map cell."
                    " auto: 4 (16x16 maps of SD1.5 at 512 px, as in the paper).",
                }),
                **widgets(
                    SeparationSettings, "heads", "form", "peak", "norm_form", "start", "end"
                ),
                "width": ("INT", {
                    **SIDE, "tooltip": "Width of the pictures; latents, if any, have their own.",
                }),
                "height": ("INT", {**SIDE, "tooltip": "Height of the pictures."}),
                **widgets(SeparationSettings, "states", "sampling_steps", "sampling_cfg"),
                **training_options(),
            },
        }  # fmt: skip

    RETURN_TYPES = ("LORA_MODEL", "LOSS_MAP", "INT")
    RETURN_NAMES = ("lora", "loss", "steps")
    OUTPUT_TOOLTIPS = (
        "What was learned, for Load LoRA Model, Save LoRA Weights or RealCompo Save LoRA.",
        "Losses per step, for Plot Loss Graph.",
        "Optimiser steps made.",
    )
    FUNCTION = "train"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Separate-and-Enhance: finetunes the keys of a model's cross-attention so that the objects"
        " of a prompt are all there and do not mix. Needs no pictures. Gives a LoRA."
    )

    def train(
        self,
        model: Any,
        clip: Any,
        prompts: str,
        steps: int,
        batch_size: int,
        learning_rate: float,
        separate: float,
        enhance: float,
        norm: float,
        seed: int,
        layout: Any = None,
        latents: Any = None,
        **more: Any,
    ) -> tuple[Any, Any, int]:
        """Returns the LoRA, the losses and the steps made."""
        from ..balancer.comfy.finetune.separate_enhance import Where, separate_enhance
        from ..balancer.comfy.finetune.separation import SeparationSettings
        from ..balancer.values.setting_fields import from_inputs

        chosen = given_prompts(prompts, layout, lambda text: _lines(text, seed, more))
        weights = {"separate": separate, "enhance": enhance, "norm": norm}
        losses = from_inputs(SeparationSettings, weights | more)
        rank = more.get("rank", 8)
        training = given_settings(steps, batch_size, learning_rate, rank, seed, more)
        sides = more.get("width", 512), more.get("height", 512)
        clean, size = clean_latents_and_size(model, latents, *sides)
        where = Where(size, **given(more, "targets", "map_level", "on_cancel", "save_every"))
        return separate_enhance(model, clip, chosen, losses, training, where, clean)


def _lines(prompts: str, seed: int, more: dict[str, Any]) -> list[Any]:
    from ..balancer.finetune.prompts import TEMPLATE, draw_pairs, parse_lines

    if more.get("lines") == "concepts":
        return draw_pairs(prompts, more.get("template", TEMPLATE), more.get("pairs", 200), seed)
    return parse_lines(prompts)


NODE_CLASS_MAPPINGS = {"RealCompoSeparateEnhance": RealCompoSeparateEnhance}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoSeparateEnhance": TRAIN}
