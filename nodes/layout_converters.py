"""Layouts from what other nodes see: masks, bodies, segmentation pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checked import checked
from .layout_inputs import ADDED_TO, PROMPT, LayoutNode, share, single

if TYPE_CHECKING:
    from ..balancer.layouts.from_masks import Keep
    from ..balancer.layouts.from_pose import Order, Shape

FROM_MASKS, FROM_POSE, FROM_SEGMENTATION = (
    "RealCompo Layout From Masks", "RealCompo Layout From Pose",
    "RealCompo Layout From Segmentation",
)  # fmt: skip

_KEEP = (["mask", "box"], {
    "default": "mask",
    "tooltip": "mask keeps the exact shape; box its bounding box, as GLIGEN uses it.",
})  # fmt: skip


def _lines(tip: str, default: str) -> tuple[str, dict[str, Any]]:
    tip += (
        " '#2' after a phrase means its second occurrence in the prompt, '*1.5' a weight; '# ' at"
        " the start of a line makes it a comment. The prompt's own wording goes first; elsewhere"
        " write \\# \\* \\: for the signs themselves."
    )
    return ("STRING", {"multiline": True, "default": default, "tooltip": tip})


@checked(FROM_MASKS)
class RealCompoLayoutFromMasks(LayoutNode):
    """One region for every mask."""

    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "masks": ("MASK", {
                    "tooltip": "A mask, a batch or a list of them; sizes may differ.",
                }),
                "phrases": _lines(
                    "One phrase of the prompt a line, in the order of the masks, or one line for"
                    " all of them.",
                    "a red star\na blue circle",
                ),
            },
            "optional": {"prompt": PROMPT, "keep": _KEEP, "layout": ADDED_TO},
        }  # fmt: skip

    FUNCTION = "build"
    DESCRIPTION = "Makes a layout from masks: painted, segmented or computed, one phrase each."

    def build(
        self,
        masks: list[Any],
        phrases: list[str],
        prompt: list[str] | None = None,
        keep: list[Keep] | None = None,
        layout: list[Any] | None = None,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.layouts.from_masks import (
            joined_layout,
            planes_of,
            prompt_of,
            regions_from_masks,
        )

        before, typed = single(layout), single(prompt, "")
        planes = planes_of(masks)
        regions = regions_from_masks(
            planes, single(phrases), single(keep, "mask"), prompt_of(before, typed)
        )
        height, width = planes[0].shape
        made = joined_layout(before, regions, typed, width, height)
        return made, made.prompt


@checked(FROM_POSE)
class RealCompoLayoutFromPose(LayoutNode):
    """One region for every body."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pose": ("POSE_KEYPOINT", {
                    "tooltip": "Of DWPose Estimator, OpenPose Pose and other nodes that give"
                    " OpenPose keypoints (17, 18 or 25 body points).",
                }),
                "phrases": _lines(
                    "One phrase of the prompt a line, in the order of the bodies, or one line for"
                    " all of them ('two dancers').",
                    "a man\na woman",
                ),
            },
            "optional": {
                "prompt": PROMPT,
                "shape": (["box", "limbs"], {
                    "default": "box",
                    "tooltip": "box: around the body's points. limbs: a mask along the limbs.",
                }),
                "margin": share(
                    "Air around the points, as a share of the body's longer side: heads, hands and"
                    " clothes reach beyond them. The paper has 0.",
                    0.1,
                ),
                "order": (["left to right", "as detected"], {
                    "default": "left to right",
                    "tooltip": "Which body the first phrase belongs to, and so on.",
                }),
                "confidence": share(
                    "Points that the estimator is less sure of count as not seen.", 0.1
                ),
                "thickness": ("FLOAT", {
                    "default": 0.06, "min": 0.005, "max": 0.3, "step": 0.005,
                    "tooltip": "Half a limb's width, as a share of the body's longer side.",
                }),
                "frame": ("INT", {
                    "default": 0, "min": 0, "max": 100000,
                    "tooltip": "Which frame, if the pose is of a batch or video; 0 = the first.",
                }),
                "layout": ADDED_TO,
            },
        }  # fmt: skip

    RETURN_TYPES = (*LayoutNode.RETURN_TYPES, "MASK")
    RETURN_NAMES = (*LayoutNode.RETURN_NAMES, "limbs")
    OUTPUT_TOOLTIPS = (
        *LayoutNode.OUTPUT_TOOLTIPS,
        "Six masks for every body, in the layout's order: head, torso, right arm, left arm, right"
        " leg, left leg (the person's own right). What was not seen is empty.",
    )
    FUNCTION = "build"
    DESCRIPTION = "Makes a layout from an OpenPose skeleton: one region for every person."

    def build(
        self,
        pose: Any,
        phrases: str,
        prompt: str = "",
        shape: Shape = "box",
        margin: float = 0.1,
        order: Order = "left to right",
        confidence: float = 0.1,
        thickness: float = 0.06,
        frame: int = 0,
        layout: Any = None,
    ) -> tuple[Any, str, Any]:
        """Returns the layout, its prompt and the limbs' masks (people * 6, H, W)."""
        from ..balancer.layouts.from_masks import joined_layout, prompt_of
        from ..balancer.layouts.from_pose import read_bodies, regions_from_pose

        bodies = read_bodies(pose, frame, confidence)
        regions, limbs = regions_from_pose(
            bodies, phrases, shape=shape, margin=margin, order=order, thickness=thickness,
            prompt=prompt_of(layout, prompt),
        )  # fmt: skip
        size = (bodies.width, bodies.height) if bodies.width > 1 else (None, None)
        made = joined_layout(layout, regions, prompt, *size)
        return made, made.prompt, limbs


@checked(FROM_SEGMENTATION)
class RealCompoLayoutFromSegmentation(LayoutNode):
    """One region for every colour of a legend."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.layouts.from_segmentation import LEGEND, PALETTES

        return {
            "required": {
                "image": ("IMAGE", {
                    "tooltip": "A segmentation picture, one colour for each thing; the first of a"
                    " batch.",
                }),
                "phrases": _lines(
                    "What each colour is, one a line: #rrggbb: phrase. With a palette also class:"
                    " phrase, or the class alone.",
                    "#ff0000: a red star\n#0000ff: a blue circle",
                ),
            },
            "optional": {
                "prompt": PROMPT,
                "palette": ([LEGEND, *PALETTES], {
                    "default": LEGEND,
                    "tooltip": "What the picture's colours mean: only what the lines say, or also"
                    " the classes of ADE20K (OneFormer ADE20K, UniFormer) or COCO (OneFormer"
                    " COCO).",
                }),
                "tolerance": ("INT", {
                    "default": 16, "min": 0, "max": 255,
                    "tooltip": "How far a channel (0 to 255) may be from its colour, after JPEG or"
                    " resizing.",
                }),
                "min_area": ("FLOAT", {
                    "default": 0.0005, "min": 0.0, "max": 1.0, "step": 0.0005, "round": 0.0001,
                    "tooltip": "A colour that fills no more than this share of the picture counts"
                    " as missing.",
                }),
                "keep": _KEEP,
                "layout": ADDED_TO,
            },
        }  # fmt: skip

    FUNCTION = "build"
    DESCRIPTION = (
        "Makes a layout from a segmentation picture: by the colours that you name, or by the"
        " classes of ADE20K or COCO."
    )

    def build(
        self,
        image: Any,
        phrases: str,
        prompt: str = "",
        palette: str = "",
        tolerance: int = 16,
        min_area: float = 0.0005,
        keep: Keep = "mask",
        layout: Any = None,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.layouts.from_masks import joined_layout, prompt_of
        from ..balancer.layouts.from_segmentation import LEGEND, regions_from_segmentation

        regions = regions_from_segmentation(
            image, phrases, source=palette or LEGEND, tolerance=tolerance, keep=keep,
            min_area=min_area, prompt=prompt_of(layout, prompt),
        )  # fmt: skip
        made = joined_layout(
            layout, regions, prompt, int(image.shape[-2]), int(image.shape[-3])
        )
        return made, made.prompt


NODE_CLASS_MAPPINGS = {
    "RealCompoLayoutFromMasks": RealCompoLayoutFromMasks,
    "RealCompoLayoutFromPose": RealCompoLayoutFromPose,
    "RealCompoLayoutFromSegmentation": RealCompoLayoutFromSegmentation,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RealCompoLayoutFromMasks": FROM_MASKS,
    "RealCompoLayoutFromPose": FROM_POSE,
    "RealCompoLayoutFromSegmentation": FROM_SEGMENTATION,
}
