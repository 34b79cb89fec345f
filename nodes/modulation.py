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
        from ..balancer.modulation import OUTSIDE, WORDS, DenseSettings

        base = DenseSettings()

        def number(name: str, largest: float, step: float, tip: str) -> tuple[str, dict[str, Any]]:
            return ("FLOAT", {
                "default": getattr(base, name), "min": 0.0, "max": largest, "step": step,
                "round": step / 10, "tooltip": tip,
            })  # fmt: skip

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
                "cross_strength": number("cross_strength", 2.0, 0.05,
                    "How firmly words are kept to their regions (the paper's w_c). 0 = off."),
                "self_strength": number("self_strength", 2.0, 0.05,
                    "How firmly positions of one region keep to each other (w_s). 0 = off."),
                "end_fraction": number("end_fraction", 1.0, 0.01,
                    "Share of the noise schedule in which it acts, counted as ComfyUI's"
                    " end_percent. After that the model runs untouched."),
            },
            "optional": {
                "replace_phrases": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Give every phrase's words the vectors that it has when encoded"
                    " alone, as the released code does.",
                }),
                "outside": (list(OUTSIDE), {
                    "default": base.outside,
                    "tooltip": "Positions in no region. flatten: their attention spreads out, as in"
                    " the released code. neutral: they are left alone. background: they are one"
                    " more region, without words.",
                }),
                "words": (list(WORDS), {
                    "default": base.words,
                    "tooltip": "Words that belong to no region. push down: everywhere, as in the"
                    " paper. neutral: they are left alone; weaker.",
                }),
                "area": number("area", 1.0, 0.05,
                    "How much large regions are spared. 1: as in the paper. 0: all alike."),
                "power": number("power", 20.0, 0.1,
                    "How fast it fades: (t / 1000) to this power. 0: not before the end."),
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
        from ..balancer.comfy.dense_apply import apply_dense
        from ..balancer.modulation import DenseSettings

        settings = DenseSettings(cross_strength, self_strength, end_fraction, **numbers)
        return apply_dense(
            model, clip, positive, layout, settings, replace_phrases
        )


NODE_CLASS_MAPPINGS = {"RealCompoDenseAttention": RealCompoDenseAttention}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoDenseAttention": DENSE}
