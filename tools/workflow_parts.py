"""Pieces that the example graphs share: the demo's models, prompts, noise, saved pictures."""

from __future__ import annotations

from typing import Any

from workflow_graph import Graph, Slot

At = tuple[int, int]
"""Where a node stands on the canvas: x and y of its upper left corner."""

DEMO_SAMPLING = {"cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
"""A KSampler's settings for the demo's models, beside seed and steps."""


def demo_model(
    graph: Graph, at: At, title: str, part: str = "realism", style: str = "realistic", **more: Any
) -> list[Slot]:
    """One of the demo's models: MODEL, CLIP, VAE, GLIGEN."""
    return graph.add("RealCompoShapesLoader", at, title, style=style, part=part, **more)


def demo_pair(graph: Graph, y: int = 0) -> tuple[Slot, Slot, Slot, Slot, Slot, Slot]:
    """Both demo models: realism MODEL, CLIP and VAE, then spatial MODEL, CLIP and GLIGEN."""
    realism, clip, vae, _ = demo_model(graph, (0, y), "Realism model")
    spatial, spatial_clip, _, gligen = demo_model(graph, (0, y + 200), "Spatial model", "spatial")
    return realism, clip, vae, spatial, spatial_clip, gligen


def encode_both(
    graph: Graph, at: At, clip: Slot, text: Slot | str, negative: str = "", apart: int = 220,
    title: str = "Positive",
) -> tuple[Slot, Slot]:  # fmt: skip
    """Positive and negative conditioning, one below the other."""
    (positive,) = graph.add("CLIPTextEncode", at, title, clip=clip, text=text)
    below = (at[0], at[1] + apart)
    (against,) = graph.add("CLIPTextEncode", below, "Negative", clip=clip, text=negative)
    return positive, against


def ground(graph: Graph, at: At, positive: Slot, clip: Slot, gligen: Slot, layout: Slot) -> Slot:
    """The spatial model's prompt with the layout's boxes."""
    (conditioning,) = graph.add(
        "RealCompoApplyGLIGEN", at, positive=positive, clip=clip, gligen_textbox_model=gligen,
        layout=layout,
    )  # fmt: skip
    return conditioning


def empty_latent(graph: Graph, at: At, side: int = 128, batch: int = 1, title: str = "") -> Slot:
    """An empty latent for ``batch`` square pictures of ``side`` pixels."""
    (latent,) = graph.add(
        "EmptyLatentImage", at, title, width=side, height=side, batch_size=batch
    )
    return latent


def save(graph: Graph, at: At, image: Slot, path: str, title: str = "") -> None:
    """Pictures saved as ``path``, below the output folder."""
    graph.add("SaveImage", at, title, images=image, filename_prefix=path)


def decode(graph: Graph, at: At, latent: Slot, vae: Slot) -> Slot:
    """The picture of a latent."""
    (image,) = graph.add("VAEDecode", at, samples=latent, vae=vae)
    return image


def decode_and_save(
    graph: Graph, at: At, latent: Slot, vae: Slot, folder: str, name: str, apart: At = (360, 0)
) -> Slot:
    """The picture of a latent, saved as ``name`` by a node ``apart`` from the decoding one."""
    image = decode(graph, at, latent, vae)
    save(graph, (at[0] + apart[0], at[1] + apart[1]), image, f"{folder}/{name}", name)
    return image


def preview(graph: Graph, at: At, layout: Slot, side: int = 512, image: Slot | None = None) -> Slot:
    """A picture of a layout, over ``image`` if there is one."""
    more = {} if image is None else {"image": image}
    (drawing,) = graph.add(
        "RealCompoLayoutPreview", at, layout=layout, width=side, height=side, **more
    )
    return drawing


def caption_rewards(
    graph: Graph, at: At, captioner: Slot, images: Slot, prompt: Slot, clip: Slot,
    apart: int = 200, **more: Any,
) -> Slot:  # fmt: skip
    """Rewards of pictures by how near a captioner's words for them are to their prompt."""
    (captions,) = graph.add("RealCompoCaption", at, captioner=captioner, images=images, **more)
    rewards, _ = graph.add(
        "RealCompoCaptionReward", (at[0], at[1] + apart), prompt=prompt, captions=captions,
        clip=clip,
    )  # fmt: skip
    return rewards
