"""SDXL and SD2.x: their own blocks, text widths, vector inputs, prediction types and sizes.

Networks have the true topology with fewer channels; what depends on widths runs without storage.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import preset
from realcompo.bench.true_models import fused_attention
from realcompo.nodes.sampling import RealCompoDualSampler

from . import pair, tiny

PROMPT = "a photo of a red fox beside a grey granite rock, overcast morning"
LAYOUT = Layout(
    (Region("a red fox", (0.05, 0.3, 0.5, 0.95)), Region("grey granite rock", (0.55, 0.4, 1, 1))),
    PROMPT,
)
# Words of the prompt's own positions: start token first, then one per word here.
SPANS = ((5, 6), (9, 10, 11))


def conditioning(seed: int, family: str, **options: Any) -> Any:
    pooled = 1280 if family == "SDXL" else None
    width = tiny.FAMILIES[family]["context_dim"]
    return tiny.conditioning(seed, dim=width, pooled=pooled, **options)


def sample(
    realism: Any, spatial: Any, families: tuple[str, str], size: tuple[int, int], batch: int = 1,
    spatial_positive: Any = None, **settings: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Two steps of the node itself; latents of ``size`` (height, width)."""
    first, second = families
    if spatial_positive is None:
        spatial_positive = conditioning(3, second)
    balancer = preset("equilibrium", realism_only=0.0, every=1, end=1.0, **settings)
    with torch.inference_mode(), fused_attention():
        shown = RealCompoDualSampler().sample(
            realism_model=realism, spatial_model=spatial,
            positive=conditioning(3, first), negative=conditioning(4, first),
            spatial_positive=spatial_positive, spatial_negative=conditioning(4, second),
            layout=LAYOUT, latent_image={"samples": torch.zeros(batch, 4, *size)}, seed=7, steps=2,
            cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0, balancer=balancer,
        )  # fmt: skip
    return shown["result"]


def check(out: tuple[Any, Any], size: tuple[int, int], batch: int = 1) -> None:
    latent, trace = out
    assert latent["samples"].shape == (batch, 4, *size)
    assert bool(torch.isfinite(latent["samples"]).all())
    assert trace.skipped_gradients == 0
    balanced = [record for record in trace.steps if record.phase == "balance"]
    assert len(balanced) == 2
    for record in balanced:
        for shares in (record.shares_realism, record.shares_spatial):
            assert shares.shape == (batch, 2)
            assert bool(((shares > 0) & (shares < 1)).all())
        assert record.mix.shape == (batch, 1, *size)
        assert float(record.mix.std()) > 0


@pytest.mark.parametrize("size", [(40, 40), (28, 44), (20, 27)])
def test_sdxl(size) -> None:
    """Square, oblong, and a size that no halving divides."""
    models = tiny.family_unet(1, "SDXL"), tiny.family_unet(2, "SDXL")
    check(sample(*models, ("SDXL", "SDXL"), size), size)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_sd2(kind) -> None:
    models = tiny.family_unet(1, "SD20", kind), tiny.family_unet(2, "SD20", kind)
    check(sample(*models, ("SD20", "SD20"), (48, 32), batch=2), (48, 32), batch=2)


def test_sd15_beside_sd2_v() -> None:
    """One latent space, two text encoders and two prediction types: each has its own prompts."""
    models = tiny.family_unet(1, "SD15"), tiny.family_unet(2, "SD20", "v")
    check(sample(*models, ("SD15", "SD20"), (32, 32)), (32, 32))


def test_sdxl_with_a_controlnet_on_the_same_checkpoint() -> None:
    """The paper's keypoint variant. The ControlNet takes the vector input as well."""
    model, control = tiny.family_unet(1, "SDXL"), tiny.family_controlnet(6, "SDXL")
    steered = tiny.with_control(conditioning(3, "SDXL"), control, 7, size=(192, 256))
    out = sample(model, model, ("SDXL", "SDXL"), (24, 32), spatial_positive=steered)
    check(out, (24, 32))
    plain = sample(model, model, ("SDXL", "SDXL"), (24, 32))
    assert (out[0]["samples"] - plain[0]["samples"]).abs().max() > 1e-3


def test_other_sizes_in_the_vector_input_are_not_shared() -> None:
    """SDXL is told the picture's size; a branch that is told another one asks for another pass."""
    model = tiny.family_unet(1, "SDXL")
    positive, negative = conditioning(3, "SDXL"), conditioning(4, "SDXL")
    for change, shared in (({}, True), ({"width": 512}, False)):
        other = [[embedding, {**extra, **change}] for embedding, extra in negative]
        guider = pair.guider(
            model, model, preset("paper", mode="fixed", spatial_only=0.0), positive, negative,
            conditioning(9, "SDXL"), other,
        )  # fmt: skip
        pair.run(guider, tiny.latent_noise(5, height=32, width=32), 2)
        from .test_shared_work import new_host

        expected = 2 * (3 if shared and new_host() else 4)
        assert guider.trace.forwards == expected


@pytest.mark.parametrize(
    ("family", "count", "level", "blocks"),
    [
        ("SD15", 16, (16, 16), [("input", 7), ("input", 8), *(("output", n) for n in (3, 4, 5))]),
        ("SD20", 16, (16, 16), [("input", 7), ("input", 8), *(("output", n) for n in (3, 4, 5))]),
        (
            "SDXL", 70, (32, 32),
            [("input", 7), ("input", 8), ("middle", 0), *(("output", n) for n in (0, 1, 2))],
        ),
    ],
)  # fmt: skip
def test_maps_are_read_at_a_quarter_of_the_latent(family, count, level, blocks) -> None:
    """On the true shapes: 16x16 maps at SD1.5's 512 px, 32x32 at SDXL's 1024 px, by factor."""
    from realcompo.balancer.attention.maps import RegionMaps, token_weights
    from realcompo.balancer.comfy.attention.families import family_of, find_sites
    from realcompo.balancer.comfy.attention.family import StopProbe, choose_level

    network = tiny.meta_family(family).diffusion_model
    sites = find_sites(network)
    assert len(sites) == count
    factor = choose_level(sites, "auto")
    assert factor == 4
    assert list(dict.fromkeys(s.key[:2] for s in sites if s.factor == factor)) == blocks
    side = 4 * level[0]
    width = tiny.FAMILIES[family]["context_dim"]
    vector = {"y": torch.empty(1, 2816, device="meta")} if family == "SDXL" else {}
    maps = RegionMaps(token_weights(SPANS, 77).to("meta"))
    options = family_of(network).reading_options({}, sites, factor, maps)
    with torch.no_grad(), fused_attention(), pytest.raises(StopProbe):
        network(
            torch.empty(1, 4, side, side, device="meta"), torch.empty(1, device="meta"),
            context=torch.empty(1, 77, width, device="meta"), transformer_options=options, **vector,
        )  # fmt: skip
    assert maps.mean().shape == (1, 2, *level)


def test_spans_are_those_of_the_prompt() -> None:
    """Found by the tokenizer that all CLIP families share; see test_tokens_host.py for each."""
    from realcompo.balancer.comfy.inputs.types import resolve

    assert resolve(LAYOUT) == SPANS
