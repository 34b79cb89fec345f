"""Layouts from what other nodes see: masks, bodies, segmentation pictures."""

from __future__ import annotations

from typing import Any

from .checked import checked

CATEGORY = "RealCompo/layout"
FROM_MASKS, FROM_POSE, FROM_SEGMENTATION = (
    "RealCompo Layout From Masks", "RealCompo Layout From Pose",
    "RealCompo Layout From Segmentation",
)  # fmt: skip

_PROMPT = ("STRING", {
    "multiline": True, "default": "",
    "tooltip": "The same text that your positive prompt encodes: the phrases are looked up in it."
    " Left empty: that of the connected layout.",
})  # fmt: skip
_LAYOUT = ("REALCOMPO_LAYOUT", {"tooltip": "A layout to add these regions to."})
_KEEP = (["mask", "box"], {
    "default": "mask",
    "tooltip": "mask keeps the exact shape; box its bounding box, as GLIGEN uses it.",
})  # fmt: skip
_RETURN_NAMES = ("layout", "prompt")
_OUTPUT_TOOLTIPS = (
    "The regions, for RealCompo Dual Sampler, RealCompo Apply GLIGEN and others.",
    "The prompt, to be connected to CLIP Text Encode: one text for both.",
)


def _single(value: Any, default: Any = None) -> Any:
    """The value of an input that came as a list, because the node takes lists."""
    return value[0] if isinstance(value, list) and value else default


def _lines(tip: str, default: str) -> tuple[str, dict[str, Any]]:
    tip += (
        " '#2' after a phrase means its second occurrence in the prompt, '*1.5' a weight; '# ' at"
        " the start of a line makes it a comment. The prompt's own wording goes first; elsewhere"
        " write \\# \\* \\: for the signs themselves."
    )
    return ("STRING", {"multiline": True, "default": default, "tooltip": tip})


@checked(FROM_MASKS)
class RealCompoLayoutFromMasks:
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
            "optional": {"prompt": _PROMPT, "keep": _KEEP, "layout": _LAYOUT},
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING")
    RETURN_NAMES = _RETURN_NAMES
    OUTPUT_TOOLTIPS = _OUTPUT_TOOLTIPS
    FUNCTION = "build"
    CATEGORY = CATEGORY
    DESCRIPTION = "Makes a layout from masks: painted, segmented or computed, one phrase each."

    def build(
        self,
        masks: list[Any],
        phrases: list[str],
        prompt: list[str] | None = None,
        keep: list[str] | None = None,
        layout: list[Any] | None = None,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.converters import (
            joined_layout,
            planes_of,
            prompt_of,
            regions_from_masks,
        )
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import require_layout

        try:
            before = _single(layout)
            before = None if before is None else require_layout(before)
            first = planes_of(masks)[0]
            known = prompt_of(before, _single(prompt, ""))
            regions = regions_from_masks(
                masks, _single(phrases, ""), _single(keep, "mask"), known
            )
            made = joined_layout(
                before, regions, _single(prompt, ""), int(first.shape[-1]), int(first.shape[-2])
            )
            return made, made.prompt
        except RealCompoError as error:
            raise error.at(FROM_MASKS) from None


@checked(FROM_POSE)
class RealCompoLayoutFromPose:
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
                "prompt": _PROMPT,
                "shape": (["box", "limbs"], {
                    "default": "box",
                    "tooltip": "box: around the body's points. limbs: a mask along the limbs.",
                }),
                "margin": ("FLOAT", {
                    "default": 0.1, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "Air around the points, as a share of the body's longer side: heads,"
                    " hands and clothes reach beyond them. The paper has 0.",
                }),
                "order": (["left to right", "as detected"], {
                    "default": "left to right",
                    "tooltip": "Which body the first phrase belongs to, and so on.",
                }),
                "confidence": ("FLOAT", {
                    "default": 0.1, "min": 0.0, "max": 1.0, "step": 0.01,
                    "tooltip": "Points that the estimator is less sure of count as not seen.",
                }),
                "thickness": ("FLOAT", {
                    "default": 0.06, "min": 0.005, "max": 0.3, "step": 0.005,
                    "tooltip": "Half a limb's width, as a share of the body's longer side.",
                }),
                "frame": ("INT", {
                    "default": 0, "min": 0, "max": 100000,
                    "tooltip": "Which frame, if the pose is of a batch or video; 0 = the first.",
                }),
                "layout": _LAYOUT,
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING", "MASK")
    RETURN_NAMES = (*_RETURN_NAMES, "limbs")
    OUTPUT_TOOLTIPS = (
        *_OUTPUT_TOOLTIPS,
        "Six masks for every body, in the layout's order: head, torso, right arm, left arm, right"
        " leg, left leg (the person's own right). What was not seen is empty.",
    )
    FUNCTION = "build"
    CATEGORY = CATEGORY
    DESCRIPTION = "Makes a layout from an OpenPose skeleton: one region for every person."

    def build(
        self,
        pose: Any,
        phrases: str,
        prompt: str = "",
        shape: str = "box",
        margin: float = 0.1,
        order: str = "left to right",
        confidence: float = 0.1,
        thickness: float = 0.06,
        frame: int = 0,
        layout: Any = None,
    ) -> tuple[Any, str, Any]:
        """Returns the layout, its prompt and the limbs' masks (people * 6, H, W)."""
        from ..balancer.converters import joined_layout, prompt_of
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import require_layout
        from ..balancer.pose import read_bodies, regions_from_pose

        try:
            before = None if layout is None else require_layout(layout)
            bodies = read_bodies(pose, frame, confidence)
            regions, limbs = regions_from_pose(
                bodies, phrases, shape=shape, margin=margin, order=order, thickness=thickness,
                prompt=prompt_of(before, prompt),
            )  # fmt: skip
            size = (bodies.width, bodies.height) if bodies.width > 1 else (None, None)
            made = joined_layout(before, regions, prompt, *size)
            return made, made.prompt, limbs
        except RealCompoError as error:
            raise error.at(FROM_POSE) from None


@checked(FROM_SEGMENTATION)
class RealCompoLayoutFromSegmentation:
    """One region for every colour of a legend."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..balancer.segmentation import LEGEND, PALETTES

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
                "prompt": _PROMPT,
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
                "layout": _LAYOUT,
            },
        }  # fmt: skip

    RETURN_TYPES = ("REALCOMPO_LAYOUT", "STRING")
    RETURN_NAMES = _RETURN_NAMES
    OUTPUT_TOOLTIPS = _OUTPUT_TOOLTIPS
    FUNCTION = "build"
    CATEGORY = CATEGORY
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
        keep: str = "mask",
        layout: Any = None,
    ) -> tuple[Any, str]:
        """Returns the layout and its prompt."""
        from ..balancer.converters import joined_layout, prompt_of
        from ..balancer.errors import RealCompoError
        from ..balancer.layout import require_layout
        from ..balancer.segmentation import LEGEND, regions_from_segmentation

        try:
            before = None if layout is None else require_layout(layout)
            regions = regions_from_segmentation(
                image, phrases, source=palette or LEGEND, tolerance=tolerance, keep=keep,
                min_area=min_area, prompt=prompt_of(before, prompt),
            )  # fmt: skip
            made = joined_layout(
                before, regions, prompt, int(image.shape[-2]), int(image.shape[-3])
            )
            return made, made.prompt
        except RealCompoError as error:
            raise error.at(FROM_SEGMENTATION) from None


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
