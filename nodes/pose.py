"""Poses as text: for graphs without a pose estimator."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from .checked import checked
from .layout_inputs import LayoutNode

POSE = "RealCompo Pose"

# x and y from the hips' middle in shares of the height of the picture, the person's right first
_STANDING = (
    (0.0, -0.36), (0.0, -0.26), (-0.09, -0.26), (-0.13, -0.12), (-0.14, 0.01), (0.09, -0.26),
    (0.13, -0.12), (0.14, 0.01), (-0.06, 0.02), (-0.07, 0.2), (-0.07, 0.38), (0.06, 0.02),
    (0.07, 0.2), (0.07, 0.38), (-0.02, -0.38), (0.02, -0.38), (-0.045, -0.37), (0.045, -0.37),
)  # fmt: skip
_WAVING = {3: (-0.16, -0.34), 4: (-0.13, -0.47)}


def example(canvas: int = 1024) -> str:
    """Two people side by side, the left one waving, as OpenPose writes them."""
    people = []
    for middle, changes in ((0.27, _WAVING), (0.73, {})):
        flat: list[float] = []
        for number, point in enumerate(_STANDING):
            x, y = changes.get(number, point)
            flat += [round((middle + x) * canvas), round((0.54 + y) * canvas), 1]
        people.append({"pose_keypoints_2d": flat})
    frame = {"people": people, "canvas_width": canvas, "canvas_height": canvas}
    return json.dumps([frame], separators=(",", ":"))


@checked(POSE, data=("pose_json",))
class RealCompoPose:
    """OpenPose JSON as keypoints and as the picture that a pose ControlNet wants."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 1024, "min": 64, "max": 8192, "step": 8}
        return {
            "required": {
                "pose_json": ("STRING", {
                    "default": example(), "multiline": True, "dynamicPrompts": False,
                    "tooltip": "Keypoints as OpenPose, DWPose and AlphaPose files have them: people"
                    " with pose_keypoints_2d or keypoints (x, y, confidence of 17, 18 or 25"
                    " points), canvas_width and canvas_height. Without those, points in pixels"
                    " count as of a picture of this width and height.",
                }),
                "width": ("INT", {
                    **side, "tooltip": "Width of the picture to be made, in pixels.",
                }),
                "height": ("INT", {
                    **side, "tooltip": "Height of the picture to be made, in pixels.",
                }),
            },
            "optional": {
                "confidence": ("FLOAT", {
                    "default": 0.1, "min": 0.0, "max": 1.0, "step": 0.01, "round": 0.001,
                    "tooltip": "Points below this confidence are not drawn.",
                }),
                "frame": ("INT", {
                    "default": 0, "min": 0, "max": 100000,
                    "tooltip": "Which picture of the file, counted from 0.",
                }),
            },
        }  # fmt: skip

    RETURN_TYPES = ("POSE_KEYPOINT", "IMAGE")
    RETURN_NAMES = ("pose", "image")
    OUTPUT_TOOLTIPS = (
        "The keypoints. Connect to RealCompo Layout From Pose.",
        "Stick figures on black. Connect to 'Apply ControlNet' with a pose ControlNet.",
    )
    FUNCTION = "build"
    CATEGORY = LayoutNode.CATEGORY
    DESCRIPTION = (
        "Reads OpenPose keypoints from text and draws them as a pose ControlNet wants them, so that"
        " a graph needs no pose estimator. Write the text by hand, or paste a file's."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["openpose", "skeleton", "keypoints", "dwpose"]

    def build(
        self, pose_json: str, width: int, height: int, confidence: float = 0.1, frame: int = 0
    ) -> tuple[Any, Any]:
        """Returns the frames as POSE_KEYPOINT and the picture (1, height, width, 3)."""
        from ..balancer.errors import RealCompoError
        from ..balancer.layouts.from_pose import openpose_frame, read_bodies
        from ..balancer.layouts.skeleton import draw_skeletons

        size = (width, height)
        try:
            bodies = read_bodies(pose_json, frame, confidence, size)
            chosen = openpose_frame(pose_json, frame, size)
        except RealCompoError as error:
            raise error.at("", "pose_json") from None
        return [chosen], draw_skeletons(bodies, width, height)


NODE_CLASS_MAPPINGS = {"RealCompoPose": RealCompoPose}
NODE_DISPLAY_NAME_MAPPINGS = {"RealCompoPose": POSE}
