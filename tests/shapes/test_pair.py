"""RealCompo on the trained pair: places from the spatial model, look from the realism model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings, preset
from realcompo.nodes.demo import RealCompoShapesLoader
from realcompo.nodes.layouts import RealCompoApplyGLIGEN
from realcompo.nodes.sampling import RealCompoDualSampler
from realcompo.shapes.oracle import judge_scenes, rates
from realcompo.shapes.world import make_caption, make_scenes

SCENES, STEPS, CFG = 6, 15, 3.0
METHODS: dict[str, BalancerSettings] = {
    "realism": plain_settings(mode="fixed", initial_mix=1.0, region_prior=0.0),
    "spatial": plain_settings(mode="fixed", initial_mix=0.0, region_prior=0.0),
    "half": plain_settings(mode="fixed", initial_mix=0.5, region_prior=0.0),
    "realcompo": preset("equilibrium"),
}


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """Per method: pictures (N, 3, 128, 128), the oracle's rates, and the traces."""
    nodes = pytest.importorskip("nodes")
    scenes = make_scenes(SCENES, torch.Generator().manual_seed(41))
    found: dict[str, Any] = {name: [] for name in METHODS}
    traces: dict[str, Any] = {name: [] for name in METHODS}
    with torch.inference_mode():
        realism, clip, vae, _ = RealCompoShapesLoader().load("realistic", "realism")
        spatial, spatial_clip, _, gligen = RealCompoShapesLoader().load("realistic", "spatial")
        encode = nodes.CLIPTextEncode().encode
        for number, scene in enumerate(scenes):
            caption = make_caption(scene).text
            regions = tuple(Region(thing.phrase, thing.box) for thing in scene.objects)
            layout = Layout(regions, caption)
            (positive,) = encode(clip, caption)
            (grounded,) = RealCompoApplyGLIGEN().apply(positive, spatial_clip, gligen, layout)
            for name, settings in METHODS.items():
                out = RealCompoDualSampler().sample(
                    realism_model=realism, spatial_model=spatial, positive=positive,
                    negative=encode(clip, "")[0], layout=layout, seed=number, steps=STEPS,
                    cfg=CFG, sampler_name="euler", scheduler="normal", denoise=1.0,
                    latent_image={"samples": torch.zeros(1, 4, 16, 16)},
                    spatial_positive=grounded, balancer=settings,
                )["result"]  # fmt: skip
                found[name].append(nodes.VAEDecode().decode(vae, out[0])[0][0].permute(2, 0, 1))
                traces[name].append(out[1])
    stacked = {name: torch.stack(images) for name, images in found.items()}
    scores = {name: rates(judge_scenes(images, scenes)) for name, images in stacked.items()}
    return {"pictures": stacked, "scores": scores, "traces": traces}


def test_things_stand_in_their_places(pictures) -> None:
    scores = pictures["scores"]
    print({name: {k: round(v, 2) for k, v in rate.items()} for name, rate in scores.items()})
    assert scores["spatial"]["right"] >= 0.8
    assert scores["realism"]["right"] <= 0.3
    assert scores["realcompo"]["right"] >= scores["realism"]["right"] + 0.3
    assert scores["realcompo"]["right"] >= scores["half"]["right"]
    assert scores["realcompo"]["colour"] >= 0.7


def test_the_look_is_the_realism_models(pictures) -> None:
    """Brightness of the wall behind the objects: near white in the spatial model's style."""
    edges = {
        name: torch.cat([images[..., :6, :].flatten(2), images[..., -6:, :].flatten(2)], -1)
        for name, images in pictures["pictures"].items()
    }
    level = {name: strip.median(dim=-1).values.mean(dim=1) for name, strip in edges.items()}
    far = {name: float((level[name] - level["realism"]).abs().mean()) for name in level}
    print({name: round(distance, 3) for name, distance in far.items()})
    assert far["realcompo"] < far["half"] < far["spatial"]


def test_attention_moves_into_the_regions(pictures) -> None:
    runs = [trace.steps for trace in pictures["traces"]["realcompo"]]
    balanced = [[r for r in run if r.loss_realism is not None] for run in runs]
    before, after = (sum(float(run[at].loss_realism) for run in balanced) for at in (0, -1))
    assert after < 0.5 * before
    # the realism model has less say while noise is high, and the more of it later
    for run in runs:
        assert float(run[0].mix.mean()) < float(run[-1].mix.mean())
