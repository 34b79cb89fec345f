"""RealCompo for ComfyUI: two diffusion models denoise one latent, balanced per pixel.

Registration only. ComfyUI reads the mappings below; everything heavy is imported by the nodes when
they run.
"""

from __future__ import annotations

from .balancer.comfy import routes
from .nodes import (
    demo,
    dense_captions,
    inspection,
    inspection_attention,
    inspection_layout,
    layout_converters,
    layout_editor,
    layout_tools,
    layouts,
    modulation,
    planner,
    pose,
    realignment_fine,
    sampling,
    trace_files,
)

_AREAS = (
    sampling, layout_editor, layouts, planner, layout_converters, pose, layout_tools, modulation,
    dense_captions, realignment_fine, inspection_layout, inspection, inspection_attention,
    trace_files, demo,
)  # fmt: skip

NODE_CLASS_MAPPINGS = {k: v for area in _AREAS for k, v in area.NODE_CLASS_MAPPINGS.items()}
NODE_DISPLAY_NAME_MAPPINGS = {
    k: v for area in _AREAS for k, v in area.NODE_DISPLAY_NAME_MAPPINGS.items()
}
WEB_DIRECTORY = "./js"
routes.register()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
