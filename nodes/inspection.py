"""Look at what happened during a run."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/inspect"
PLOT, MIX = "RealCompo Trace Plot", "RealCompo Mix Preview"
TRACE = ("REALCOMPO_TRACE", {"tooltip": "From RealCompo Dual Sampler or RealCompo Guider."})


def latent_input(who: str) -> tuple[str, dict[str, Any]]:
    """The optional LATENT that makes a node wait for the run; ``who`` waits."""
    return ("LATENT", {
        "tooltip": "With RealCompo Guider: connect the sampler's latent, so that the"
        f" {who} waits until it is done. It is not looked at.",
    })  # fmt: skip


def sample_input(what: str) -> tuple[str, dict[str, Any]]:
    """Which picture of the batch to ``what``."""
    return ("INT", {
        "default": 0, "min": 0, "max": 4095,
        "tooltip": f"Which picture of the batch to {what}, counted from 0.",
    })  # fmt: skip


@checked(PLOT, own=("latent",))
class RealCompoTracePlot:
    """Losses, attention shares and mix of a run, as a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"trace": TRACE},
            "optional": {
                "latent": latent_input("plot"),
                "sample": sample_input("plot"),
                "width": ("INT", {
                    "default": 1024, "min": 512, "max": 4096, "step": 8,
                    "tooltip": "Width of the plot in pixels.",
                }),
                "height": ("INT", {
                    "default": 768, "min": 384, "max": 4096, "step": 8,
                    "tooltip": "Height of the plot in pixels.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The plot. Connect to Preview Image or Save Image.",)
    FUNCTION = "plot"
    CATEGORY = CATEGORY
    DESCRIPTION = "Plots how a run was balanced: losses, attention inside the regions, mix maps."

    def plot(
        self, trace: Any, latent: Any = None, sample: int = 0, width: int = 1024, height: int = 768
    ) -> tuple[Any]:
        """Draw the trace, (1, height, width, 3)."""
        from ..balancer.pictures.trace import plot_trace
        from ..balancer.realcompo.trace import require_trace

        require_trace(trace)
        return (plot_trace(trace, width, height, sample),)


@checked(MIX, own=("latent",))
class RealCompoMixPreview:
    """The mix of a run's steps, alone or over a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "trace": ("REALCOMPO_TRACE", {
                    "tooltip": "From RealCompo Dual Sampler, RealCompo Guider or RealCompo Load"
                    " Trace.",
                }),
                "step": ("INT", {
                    "default": 0, "min": 0, "max": 10000,
                    "tooltip": "The step to show, counted from 1. 0 = several over the run.",
                }),
                "maps": ("INT", {
                    "default": 8, "min": 1, "max": 100,
                    "tooltip": "How many steps to show when step is 0.",
                }),
                "columns": ("INT", {
                    "default": 4, "min": 1, "max": 20, "tooltip": "Maps side by side.",
                }),
                "side": ("INT", {
                    "default": 256, "min": 64, "max": 2048, "step": 8,
                    "tooltip": "Longer side of one map in pixels.",
                }),
            },
            "optional": {
                "latent": latent_input("picture"),
                "image": ("IMAGE", {
                    "tooltip": "A picture to lay the maps over, such as the result.",
                }),
                "layout": ("REALCOMPO_LAYOUT", {
                    "tooltip": "Regions to outline.",
                }),
                "sample": sample_input("show"),
            },
        }  # fmt: skip

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The maps. Connect to Preview Image or Save Image.",)
    FUNCTION = "draw"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Shows which model had the say where: the mix of one step or of several, alone or over the"
        " result."
    )

    def draw(
        self, trace: Any, latent: Any = None, layout: Any = None, **options: Any
    ) -> tuple[Any]:
        """Draw the maps, (1, height, width, 3); ``options`` as ``draw_mix`` has them."""
        from ..balancer.layouts.layout import require_layout
        from ..balancer.pictures.mix import draw_mix
        from ..balancer.realcompo.trace import require_trace

        require_trace(trace)
        if layout is not None:
            require_layout(layout)
        return (draw_mix(trace, layout=layout, **options),)


NODE_CLASS_MAPPINGS = {
    "RealCompoTracePlot": RealCompoTracePlot, "RealCompoMixPreview": RealCompoMixPreview,
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoTracePlot": PLOT, "RealCompoMixPreview": MIX}
