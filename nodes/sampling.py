"""The main job: two models denoise one latent. Nodes are thin; the engine is in ``balancer``."""

from __future__ import annotations

import json
from typing import Any

from .checked import checked

CATEGORY = "RealCompo"
GUIDER, SAMPLER, SETTINGS = (
    "RealCompo Guider", "RealCompo Dual Sampler", "RealCompo Balancer Settings",
)  # fmt: skip

_MODEL_INPUTS = {
    "realism_model": ("MODEL", {
        "tooltip": "The model that knows how things look: any checkpoint, stylised ones included.",
    }),
    "spatial_model": ("MODEL", {
        "tooltip": "The model that knows where things go: the one that GLIGEN boxes or a ControlNet"
        " steer. It must share the realism model's latent (both SD1.5, both SDXL, ...).",
    }),
    "positive": ("CONDITIONING", {
        "tooltip": "The prompt, encoded for the realism model. Same text as the layout's prompt.",
    }),
    "negative": ("CONDITIONING", {"tooltip": "What to keep out, for the realism model."}),
    "layout": ("REALCOMPO_LAYOUT", {
        "tooltip": "Which phrase of the prompt belongs where. The balancer reads it.",
    }),
}  # fmt: skip
_CFG_INPUT = ("FLOAT", {
    "default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01,
    "tooltip": "Guidance scale, the same for both models.",
})  # fmt: skip
_OPTIONAL_INPUTS = {
    "spatial_positive": ("CONDITIONING", {
        "tooltip": "The prompt for the spatial model, with its GLIGEN boxes or ControlNet applied."
        " Left open: the same as positive.",
    }),
    "spatial_negative": ("CONDITIONING", {
        "tooltip": "What to keep out, for the spatial model. Left open: the same as negative.",
    }),
    "balancer": ("REALCOMPO_BALANCER", {
        "tooltip": "How the two are balanced. Left open: the default preset.",
    }),
}  # fmt: skip
# so that the run is shown on this node, also when another node (SamplerCustomAdvanced) does it
_HIDDEN = {"unique_id": "UNIQUE_ID"}
_TRACE_TOOLTIP = "Losses, attention shares and mix at every step, for RealCompo Trace Plot."


def build_guider(
    realism_model: Any,
    spatial_model: Any,
    positive: Any,
    negative: Any,
    layout: Any,
    cfg: float,
    spatial_positive: Any = None,
    spatial_negative: Any = None,
    balancer: Any = None,
    unique_id: str | None = None,
) -> Any:
    """A guider from a node's inputs. Returns a RealCompoGuider.

    ``unique_id`` is the node's id in the graph: its runs are shown there.
    """
    from ..balancer.comfy.attention.families import locate
    from ..balancer.comfy.inputs.checks import check_pair
    from ..balancer.comfy.inputs.types import require_conditioning, require_model, require_settings
    from ..balancer.comfy.realcompo.guider import RealCompoGuider
    from ..balancer.layouts.layout import require_layout
    from ..balancer.realcompo.settings import DEFAULT_PRESET, preset

    require_model(realism_model, "realism_model")
    require_model(spatial_model, "spatial_model")
    require_layout(layout)
    settings = require_settings(preset(DEFAULT_PRESET) if balancer is None else balancer)
    spatial_positive = positive if spatial_positive is None else spatial_positive
    spatial_negative = negative if spatial_negative is None else spatial_negative
    for where, value in (
        ("positive", positive), ("negative", negative),
        ("spatial_positive", spatial_positive), ("spatial_negative", spatial_negative),
    ):  # fmt: skip
        require_conditioning(value, where)
    check_pair(realism_model, spatial_model, settings)
    tokens, spatial_tokens = (), None
    if settings.mode != "fixed":
        # each text encoder counts its own tokens
        tokens = locate(layout, realism_model.model, positive, "positive")
        one_text = spatial_positive is positive
        if not one_text or type(spatial_model.model) is not type(realism_model.model):
            spatial_tokens = locate(
                layout, spatial_model.model, spatial_positive,
                "positive" if one_text else "spatial_positive",
            )  # fmt: skip
    guider = RealCompoGuider(
        realism_model, spatial_model, positive, negative, spatial_positive, spatial_negative,
        layout, tokens, cfg, settings, spatial_tokens=spatial_tokens,
    )  # fmt: skip
    guider.node_id = unique_id
    return guider


@checked(GUIDER)
class RealCompoGuider:
    """Two models as one GUIDER, for SamplerCustomAdvanced and any sampler and scheduler."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        required = {**_MODEL_INPUTS, "cfg": _CFG_INPUT}
        return {"required": required, "optional": _OPTIONAL_INPUTS, "hidden": _HIDDEN}

    RETURN_TYPES = ("GUIDER", "REALCOMPO_TRACE")
    RETURN_NAMES = ("guider", "trace")
    OUTPUT_TOOLTIPS = (
        "Connect to SamplerCustomAdvanced.",
        _TRACE_TOOLTIP + " It is empty until the sampler has run: connect the sampler's latent to"
        " the plot as well, so that the plot waits.",
    )
    FUNCTION = "guide"
    CATEGORY = CATEGORY
    DESCRIPTION = "Denoises one latent with two models: one for the look, one for the places."

    def guide(self, **inputs: Any) -> tuple[Any, Any]:
        """Build the guider; its trace fills while a sampler uses it."""
        guider = build_guider(**inputs)
        return guider, guider.trace


@checked(SAMPLER)
class RealCompoDualSampler:
    """The guider plus the usual KSampler widgets."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        import comfy.samplers

        return {
            "required": {
                **_MODEL_INPUTS,
                "latent_image": ("LATENT", {
                    "tooltip": "The latent to denoise: empty, or a picture's for img2img."
                    " Noise masks work as in KSampler.",
                }),
                "seed": ("INT", {
                    "default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True, "tooltip": "Seed of the starting noise.",
                }),
                "steps": ("INT", {
                    "default": 30, "min": 1, "max": 10000, "tooltip": "Number of denoising steps.",
                }),
                "cfg": _CFG_INPUT,
                "sampler_name": (comfy.samplers.KSampler.SAMPLERS, {
                    "tooltip": "Any sampler; the models are balanced once per step.",
                }),
                "scheduler": (comfy.samplers.KSampler.SCHEDULERS, {
                    "tooltip": "How the noise is taken away over the steps.",
                }),
                "denoise": ("FLOAT", {
                    "default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "Below 1 keeps that much less of the starting noise (img2img).",
                }),
            },
            "optional": _OPTIONAL_INPUTS,
            "hidden": _HIDDEN,
        }  # fmt: skip

    RETURN_TYPES = ("LATENT", "REALCOMPO_TRACE")
    RETURN_NAMES = ("latent", "trace")
    OUTPUT_TOOLTIPS = ("The denoised latent.", _TRACE_TOOLTIP)
    FUNCTION = "sample"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "RealCompo: a realism model and a spatial model denoise one latent together. Their"
        " predictions are mixed per pixel, and the mix follows both models' cross-attention."
    )

    def sample(self, latent_image: dict[str, Any], **inputs: Any) -> dict[str, Any]:
        """Sample as KSampler does, with the pair."""
        from ..balancer.comfy.inputs.types import require_latent
        from ..balancer.comfy.realcompo.sampling import sample_pair

        names = ("seed", "steps", "sampler_name", "scheduler", "denoise")
        schedule = {name: inputs.pop(name) for name in names}
        guider = build_guider(**inputs)
        require_latent(latent_image)
        latent = sample_pair(guider, latent_image, **schedule)
        report = {"balancer": guider.settings.preset, **guider.trace.cost()}
        return {"ui": {"realcompo": [json.dumps(report)]}, "result": (latent, guider.trace)}


@checked(SETTINGS)
class RealCompoBalancer:
    """The balancer's numbers: a preset, or one's own."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.realcompo.settings import DEFAULT_PRESET, PRESETS, BalancerSettings
        from ..balancer.values.setting_fields import widgets

        return {
            "required": {
                "preset": ([*PRESETS, "custom"], {
                    "default": DEFAULT_PRESET,
                    "tooltip": "equilibrium: the default. paper: Algorithm 1 as printed. official:"
                    " the released code's numbers. custom: the numbers below. With any other"
                    " preset only mode, map_level and probe_timestep below are used.",
                }),
                **widgets(
                    BalancerSettings, "mode", "rate", "rate_end", "normalize_rate", "memory",
                    "smoothing", "initial_mix", "region_prior", "prior_until", "spatial_only",
                    "start", "end", "every",
                ),
            },
            "optional": widgets(
                BalancerSettings, "map_level", "probe_timestep", "realism_only", "match_background"
            ),
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_BALANCER",)
    RETURN_NAMES = ("balancer",)
    OUTPUT_TOOLTIPS = ("Connect to RealCompo Dual Sampler or RealCompo Guider.",)
    FUNCTION = "settings"
    CATEGORY = CATEGORY
    DESCRIPTION = "How the two models are balanced."

    def settings(self, preset: str, mode: str, **numbers: Any) -> tuple[Any]:
        """Settings of the named preset, or of the widgets for ``custom``."""
        from ..balancer.realcompo.settings import plain_settings
        from ..balancer.realcompo.settings import preset as named

        always = {k: numbers[k] for k in ("map_level", "probe_timestep") if k in numbers}
        if preset == "custom":
            # a workflow saved before the optional numbers were there has none of them
            return (plain_settings(mode=mode, **numbers),)
        return (named(preset, mode=mode, **always),)


NODE_CLASS_MAPPINGS = {
    "RealCompoDualSampler": RealCompoDualSampler,
    "RealCompoGuider": RealCompoGuider,
    "RealCompoBalancer": RealCompoBalancer,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoDualSampler": SAMPLER,
    "RealCompoGuider": GUIDER,
    "RealCompoBalancer": SETTINGS,
}
