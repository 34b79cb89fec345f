"""Attention that is told where the words of the prompt belong (DenseDiffusion)."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/attention"
DENSE = "Dense Attention (DenseDiffusion)"


@checked(DENSE, own=("clip",))
class RealCompoDenseAttention:
    """DenseDiffusion as the paper has it, for a model and the prompt that goes with it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.dense.modulation import DenseSettings
        from ..balancer.values.setting_fields import widgets

        return {
            "required": {
                "model": ("MODEL", {
                    "tooltip": "Any U-Net checkpoint (SD1.x, SD2.x, SDXL); it needs no training for"
                    " layouts. Sample with the model that comes out.",
                }),
                "clip": ("CLIP", {
                    "tooltip": "The text encoder that encoded positive. It encodes every phrase of"
                    " the layout alone.",
                }),
                "positive": ("CONDITIONING", {
                    "tooltip": "The prompt, encoded. Same text as the layout's prompt. Other"
                    " prompts are combined with it after this node; they are not modulated.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Which phrase of the prompt belongs where. Boxes and masks, at any"
                    " size; they may overlap.",
                }),
                **widgets(DenseSettings, "cross_strength", "self_strength", "end_fraction"),
            },
            "optional": {
                "replace_phrases": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Give every phrase's words the vectors that it has when encoded"
                    " alone, as the released code does.",
                }),
                **widgets(DenseSettings, "outside", "words", "area", "power"),
            },
        }  # fmt: skip

    RETURN_TYPES = ("MODEL", "CONDITIONING")
    RETURN_NAMES = ("model", "positive")
    OUTPUT_TOOLTIPS = (
        "The model, for any sampler or either model input of RealCompo Dual Sampler.",
        "The prompt, for the positive input that goes with that model. Only this conditioning is"
        " modulated.",
    )
    FUNCTION = "apply"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "DenseDiffusion: the model's own attention is modulated in the first steps so that every"
        " phrase of the prompt appears in its region. No training, no further model."
    )

    def apply(
        self,
        model: Any,
        clip: Any,
        positive: Any,
        layout: Any,
        cross_strength: float,
        self_strength: float,
        end_fraction: float,
        replace_phrases: bool = True,
        **numbers: Any,
    ) -> tuple[Any, Any]:
        """Returns the model and the conditioning that are sampled together."""
        from ..balancer.comfy.dense.apply import apply_dense
        from ..balancer.dense.modulation import DenseSettings

        settings = DenseSettings(cross_strength, self_strength, end_fraction, **numbers)
        return apply_dense(model, clip, positive, layout, settings, replace_phrases)


NODE_CLASS_MAPPINGS = {"RealCompoDenseAttention": RealCompoDenseAttention}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoDenseAttention": DENSE}
