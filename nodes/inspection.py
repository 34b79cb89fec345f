"""Look at what happened during a run."""

from __future__ import annotations

from typing import Any

PLOT = "RealCompo Trace Plot"


class RealCompoTracePlot:
    """Losses, attention shares and mix of a run, as a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "trace": ("REALCOMPO_TRACE", {
                    "tooltip": "From RealCompo Dual Sampler or RealCompo Guider.",
                }),
            },
            "optional": {
                "latent": ("LATENT", {
                    "tooltip": "With RealCompo Guider: connect the sampler's latent, so that the"
                    " plot waits until it is done. It is not looked at.",
                }),
                "sample": ("INT", {
                    "default": 0, "min": 0, "max": 4095,
                    "tooltip": "Which picture of the batch to plot, counted from 0.",
                }),
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
    CATEGORY = "RealCompo/inspect"
    DESCRIPTION = "Plots how a run was balanced: losses, attention inside the regions, mix maps."

    def plot(
        self, trace: Any, latent: Any = None, sample: int = 0, width: int = 1024, height: int = 768
    ) -> tuple[Any]:
        """Draw the trace."""
        from ..balancer.errors import RealCompoError
        from ..balancer.plot import plot_trace
        from ..balancer.trace import Trace

        try:
            if not isinstance(trace, Trace):
                raise RealCompoError(
                    "trace", f"got a {type(trace).__name__}, not a REALCOMPO_TRACE",
                    "Connect a RealCompo sampler's trace.",
                )  # fmt: skip
            return (plot_trace(trace, width, height, sample),)
        except RealCompoError as error:
            raise error.at(PLOT) from None


NODE_CLASS_MAPPINGS = {"RealCompoTracePlot": RealCompoTracePlot}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoTracePlot": PLOT}
