"""Attention that weighs the phrases of a prompt (the fine stage, after RealignDiff)."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/attention"
REWEIGHTED = "Re-weighted Attention (after RealignDiff)"


@checked(REWEIGHTED, own=("clip",))
class RealCompoReweightedAttention:
    """DenseDiffusion's modulation, or Prompt-to-Prompt's scaling, with a weight for each phrase."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.dense.modulation import OUTSIDE, DenseSettings
        from ..balancer.dense.plan import MODULATE, SCALE

        base = DenseSettings()

        def number(value: float, most: float, step: float, tip: str) -> tuple[str, dict[str, Any]]:
            return ("FLOAT", {
                "default": value, "min": 0.0, "max": most, "step": step, "round": step / 10,
                "tooltip": tip,
            })  # fmt: skip

        return {
            "required": {
                "model": ("MODEL", {
                    "tooltip": "Any U-Net checkpoint (SD1.x, SD2.x, SDXL), the one that drew the"
                    " coarse picture. Sample with the model that comes out.",
                }),
                "clip": ("CLIP", {
                    "tooltip": "The text encoder that encoded positive. It encodes every phrase of"
                    " the layout alone.",
                }),
                "positive": ("CONDITIONING", {
                    "tooltip": "The prompt, encoded: the text that RealCompo Dense Captions gives."
                    " Other prompts are combined with it after this node; they are not touched.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Phrases of the prompt with their regions and weights, as of"
                    " RealCompo Dense Captions.",
                }),
                "mode": ([MODULATE, SCALE], {
                    "default": MODULATE,
                    "tooltip": "modulate: DenseDiffusion's form before the softmax; a phrase's"
                    " weight is how far its words are moved. scale: Prompt-to-Prompt's re-weighting"
                    " after it; attention to a phrase's words is multiplied by its weight, anywhere"
                    " in the picture, and regions do not matter.",
                }),
                "fraction": number(base.end_fraction, 1.0, 0.01,
                    "Share of the noise schedule in which it acts, counted as ComfyUI's"
                    " end_percent. After that the model runs untouched."),
                "self_weight": number(base.self_strength, 2.0, 0.05,
                    "modulate: how firmly positions of one region keep to each other. Phrase"
                    " weights do not touch it. 0 = off."),
            },
            "optional": {
                "cross_weight": number(base.cross_strength, 2.0, 0.05,
                    "modulate: the factor of all phrase weights. A weight times this, faded, moves"
                    " a word all the way at 1; more than that does nothing more."),
                "power": number(base.power, 20.0, 0.1,
                    "modulate: how fast it fades, (t / 1000) to this power. 0: not before the"
                    " end."),
                "size_weight": number(base.area, 1.0, 0.05,
                    "modulate: how much large regions are spared. 0: all alike."),
                "unassigned": (["push_down", "neutral"], {
                    "default": "push_down",
                    "tooltip": "modulate: words that belong to no region. push_down: everywhere, as"
                    " in DenseDiffusion. neutral: they are left alone; weaker.",
                }),
                "outside": (list(OUTSIDE), {
                    "default": base.outside,
                    "tooltip": "modulate: positions in no region. flatten: their attention spreads"
                    " out, as in DenseDiffusion. neutral: they are left alone. background: they are"
                    " one more region, without words.",
                }),
                "replace_phrases": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "modulate: give every phrase's words the vectors that it has when"
                    " encoded alone, so that its attributes come from itself only.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("MODEL", "CONDITIONING")
    RETURN_NAMES = ("model", "positive")
    OUTPUT_TOOLTIPS = (
        "The model, for any sampler or either model input of RealCompo Dual Sampler.",
        "The prompt, for the positive input that goes with that model. Only this conditioning is"
        " touched.",
    )
    FUNCTION = "apply"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "After RealignDiff, fine stage: draws the picture again with every phrase kept to its"
        " region as firmly as its weight says. Our choices, as the paper's own equations were not"
        " available to us: DenseDiffusion's modulation with a weight for each phrase, or"
        " Prompt-to-Prompt's scaling of the finished attention."
    )

    def apply(
        self,
        model: Any,
        clip: Any,
        positive: Any,
        layout: Any,
        mode: str,
        fraction: float,
        self_weight: float,
        cross_weight: float = 1.0,
        power: float = 5.0,
        size_weight: float = 1.0,
        unassigned: str = "push_down",
        outside: str = "flatten",
        replace_phrases: bool = True,
    ) -> tuple[Any, Any]:
        """Returns the model and the conditioning that are sampled together."""
        from ..balancer.comfy.dense.apply import apply_dense
        from ..balancer.dense.modulation import DenseSettings
        from ..balancer.dense.plan import MODULATE
        from ..balancer.errors import RealCompoError
        from ..balancer.values.setting_fields import from_inputs

        names = {
            "cross_strength": "cross_weight", "self_strength": "self_weight",
            "end_fraction": "fraction", "area": "size_weight", "words": "unassigned",
        }  # fmt: skip
        try:
            settings = from_inputs(DenseSettings, {
                "cross_strength": cross_weight, "self_strength": self_weight,
                "end_fraction": fraction, "power": power, "area": size_weight, "outside": outside,
                "words": unassigned.replace("_", " "),
            })  # fmt: skip
            return apply_dense(
                model, clip, positive, layout, settings,
                replace_phrases and mode == MODULATE, mode, REWEIGHTED,
            )  # fmt: skip
        except RealCompoError as error:
            raise error.at("", names.get(error.where)) from None


NODE_CLASS_MAPPINGS = {"RealCompoReweightedAttention": RealCompoReweightedAttention}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoReweightedAttention": REWEIGHTED}
