"""Example graphs whose spatial branch follows a ControlNet: pose and segmentation."""

from __future__ import annotations

from collections.abc import Callable

import workflow_parts as parts
from workflow_graph import Graph, Slot

PROMPT = "a red star and a blue circle and a green square"
PHRASES = (
    "a red star: 0.06 0.12 0.46 0.52\n"
    "a blue circle: 0.55 0.08 0.92 0.45\n"
    "a green square: 0.32 0.58 0.70 0.95"
)
SAMPLING = {"seed": 7, "steps": 30, **parts.DEMO_SAMPLING}
LEGEND = "#ffff00: a red star\n#ff0000: a blue circle\n#00ff00: a green square"
SIDE = 128


def steered(graph: Graph, title: str = "") -> dict[str, Slot]:
    """The demo pair whose spatial branch follows a control picture: the left part of such graphs.

    ``title`` is that of the node with the boxes that the picture is drawn from. Returns the links
    by their inputs' names at the dual sampler, and the VAE's and the picture's.
    """
    realism, clip, vae, spatial, spatial_clip, _ = parts.demo_pair(graph)
    layout, text = graph.add(
        "RealCompoLayoutFromBoxes", (0, 400), title, phrases=PHRASES, prompt=PROMPT
    )
    (control,) = graph.add("RealCompoShapesControlNet", (0, 760), kind="segmentation")
    (picture,) = graph.add("RealCompoShapesHint", (0, 900), layout=layout, kind="segmentation")
    positive, negative = parts.encode_both(graph, (360, 0), clip, text)
    plain, against = parts.encode_both(graph, (360, 440), spatial_clip, text)
    placed, unplaced = graph.add(
        "ControlNetApplyAdvanced", (360, 880), positive=plain, negative=against,
        control_net=control, image=picture,
    )  # fmt: skip
    latent = parts.empty_latent(graph, (360, 1120), SIDE)
    return {
        "realism_model": realism, "spatial_model": spatial, "positive": positive,
        "negative": negative, "layout": layout, "latent_image": latent,
        "spatial_positive": placed, "spatial_negative": unplaced, "vae": vae, "picture": picture,
    }  # fmt: skip


def segmentation(graph: Graph) -> None:
    """One segmentation picture steers the ControlNet and is the layout, by box and by mask."""
    given = steered(graph, "What the picture shows")
    picture, vae = given.pop("picture"), given.pop("vae")
    parts.save(graph, (0, 1100), picture, "realcompo_demo/segmentation_picture")
    for row, keep in enumerate(("mask", "box")):
        top = row * 620
        layout, _ = graph.add(
            "RealCompoLayoutFromSegmentation", (760, top), f"Layout by {keep}", image=picture,
            phrases=LEGEND, prompt=PROMPT, keep=keep,
        )  # fmt: skip
        sampled, _ = graph.add(
            "RealCompoDualSampler", (1140, top), f"RealCompo Dual Sampler: {keep}",
            **{**given, "layout": layout}, **SAMPLING,
        )  # fmt: skip
        image = parts.decode(graph, (1520, top), sampled, vae)
        parts.save(graph, (1740, top), image, f"realcompo_demo/segmentation_{keep}")
        seen = parts.preview(graph, (1520, top + 300), layout, SIDE, image=image)
        graph.add("PreviewImage", (1880, top + 300), f"Regions by {keep}", images=seen)
    graph.note((1140, 1260), (
        "## A segmentation picture as the plan\n\nThe ControlNet of the spatial branch sees the"
        " picture, and *Layout from Segmentation* reads from it which words belong where: as exact"
        " masks (above) or as boxes, as the paper has it (below).\n\nFor your own models: SD1.5 or"
        " SD2.1 with its segmentation ControlNet on the spatial branch, any checkpoint of the same"
        " family for realism, and the palette of your segmentation model (ADE20K, COCO). With one"
        " checkpoint on both branches the first half of the network is computed once."
    ), (420, 300))  # fmt: skip


def pose(graph: Graph) -> None:
    """SDXL with a pose ControlNet, one checkpoint on both branches: the user's own files."""
    model, clip, vae = graph.add(
        "CheckpointLoaderSimple", (0, 0), "One SDXL checkpoint for both branches",
        ckpt_name="sd_xl_base_1.0.safetensors",
    )  # fmt: skip
    (control,) = graph.add("ControlNetLoader", (0, 180), control_net_name="OpenPoseXL2.safetensors")
    keypoints, picture = graph.add("RealCompoPose", (0, 300), width=1024, height=1024)
    layout, text, _ = graph.add(
        "RealCompoLayoutFromPose", (400, 300), pose=keypoints,
        phrases="a knight in silver armour\na dancer in a red dress",
        prompt="a knight in silver armour waving beside a dancer in a red dress, on a beach, photo",
        shape="limbs",
    )  # fmt: skip
    shown = parts.preview(graph, (400, 720), layout, 1024, image=picture)
    graph.add("PreviewImage", (760, 720), "Skeletons and regions", images=shown)
    positive, negative = parts.encode_both(graph, (800, 0), clip, text, "blurry, lowres, deformed")
    placed, unplaced = graph.add(
        "ControlNetApplyAdvanced", (800, 440), positive=positive, negative=negative,
        control_net=control, image=picture,
    )  # fmt: skip
    latent = parts.empty_latent(graph, (1180, 620), 1024)
    (balancer,) = graph.add("RealCompoBalancer", (1180, 0))
    sampled, trace = graph.add(
        "RealCompoDualSampler", (1560, 0), realism_model=model, spatial_model=model,
        positive=positive, negative=negative, layout=layout, latent_image=latent, seed=7, steps=30,
        cfg=5.0, spatial_positive=placed, spatial_negative=unplaced, balancer=balancer,
    )  # fmt: skip
    image = parts.decode(graph, (1940, 0), sampled, vae)
    parts.save(graph, (2160, 0), image, "realcompo/pose")
    (plot,) = graph.add("RealCompoTracePlot", (1940, 300), trace=trace)
    graph.add("PreviewImage", (2300, 300), images=plot)
    graph.note((0, 860), (
        "## Who stands where: SDXL with a pose ControlNet\n\nOne checkpoint serves both branches:"
        " plain for realism, with the ControlNet for the places. What both have in common is"
        " computed once.\n\n*RealCompo Pose* reads keypoints from text, so that no pose estimator"
        " is needed. To take the pose of a photo, connect the `POSE_KEYPOINT` of DWPose or OpenPose"
        " (ControlNet auxiliary nodes) to *Layout from Pose* and its picture to *Apply"
        " ControlNet*.\n\nThe people are paired with the lines from left to right."
    ), (360, 340))  # fmt: skip


CONTROL_CLASSES = (
    "ControlNetLoader", "RealCompoPose", "RealCompoLayoutFromPose",
    "RealCompoLayoutFromSegmentation",
)  # fmt: skip
CONTROL_GRAPHS: dict[str, Callable[[Graph], None]] = {
    "realcompo_segmentation": segmentation,
    "realcompo_sdxl_pose": pose,
}
