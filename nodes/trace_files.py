"""Keep a run's trace, and look at it another day."""

from __future__ import annotations

from typing import Any

from .checked import checked
from .inspection import CATEGORY, TRACE, latent_input

SAVE, LOAD = "RealCompo Save Trace", "RealCompo Load Trace"


@checked(SAVE, own=("latent",))
class RealCompoSaveTrace:
    """A trace into ComfyUI's output folder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "trace": TRACE,
                "filename_prefix": ("STRING", {
                    "default": "realcompo/run",
                    "tooltip": "Name of the files below the output folder; a number is added."
                    " Slashes make folders, and dates such as %year% are filled in.",
                }),
            },
            "optional": {"latent": latent_input("node")},
        }  # fmt: skip

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Name of the saved trace. Connect to RealCompo Load Trace.",)
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Saves a run's trace: losses, attention shares, attention maps and mix of every step, as"
        " safetensors, with the numbers as JSON beside it."
    )

    def save(self, trace: Any, filename_prefix: str, latent: Any = None) -> dict[str, Any]:
        """Write both files."""
        from ..balancer.comfy.realcompo.trace_folder import next_file
        from ..balancer.realcompo.trace import require_trace
        from ..balancer.realcompo.trace_file import save_trace

        require_trace(trace)
        path, name = next_file(filename_prefix)
        save_trace(trace, path)
        return {"ui": {"text": [name]}, "result": (name,)}


@checked(LOAD, own=("trace_file",))
class RealCompoLoadTrace:
    """A saved trace, for the plots."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.comfy.realcompo.trace_folder import NEWEST, choices

        return {
            "required": {
                "trace_file": (choices(), {
                    "default": NEWEST,
                    "tooltip": "A trace in ComfyUI's output or input folder.",
                }),
            },
            "optional": {
                "file": ("STRING", {
                    "forceInput": True,
                    "tooltip": "From RealCompo Save Trace: takes the place of trace_file.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_TRACE",)
    RETURN_NAMES = ("trace",)
    OUTPUT_TOOLTIPS = ("The trace. Connect to RealCompo Trace Plot or RealCompo Mix Preview.",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a trace that RealCompo Save Trace has saved."

    @classmethod
    def IS_CHANGED(cls, trace_file: str, file: str | None = None) -> str:
        """Another file, or the same written anew."""
        from ..balancer.comfy.realcompo.trace_folder import find_trace
        from ..balancer.errors import RealCompoError

        try:
            path = find_trace(file or trace_file)
            return f"{path}:{path.stat().st_mtime_ns}"
        except (RealCompoError, OSError):
            return ""  # the run itself says what is wrong

    def load(self, trace_file: str, file: str | None = None) -> tuple[Any]:
        """Read it."""
        from ..balancer.comfy.realcompo.trace_folder import find_trace
        from ..balancer.errors import RealCompoError
        from ..balancer.realcompo.trace_file import load_trace

        try:
            return (load_trace(find_trace(file or trace_file)),)
        except RealCompoError as error:
            raise error.at("", "file" if file else None) from None


NODE_CLASS_MAPPINGS = {
    "RealCompoSaveTrace": RealCompoSaveTrace, "RealCompoLoadTrace": RealCompoLoadTrace,
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoSaveTrace": SAVE, "RealCompoLoadTrace": LOAD}
