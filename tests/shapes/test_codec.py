"""The codec: what a picture keeps on its way through the latent."""

from __future__ import annotations

import pytest
import torch
from realcompo.shapes.codec import LATENT_CHANNELS, ShapesCodec, fit_encoder
from realcompo.shapes.oracle import judge_scenes, rates
from realcompo.shapes.render import render
from realcompo.shapes.world import make_scenes


@pytest.fixture(scope="module")
def codec() -> ShapesCodec:
    from realcompo.shapes.host_models import load_codec

    return load_codec()


@pytest.mark.parametrize(
    ("style", "least"), [("realistic", 35.0), ("plain", 35.0), ("sketch", 31.0), ("neon", 38.0)]
)
def test_picture_survives(codec: ShapesCodec, style: str, least: float) -> None:
    generator = torch.Generator().manual_seed(81)
    scenes = make_scenes(24, generator)
    clean = render(scenes, style, generator)
    with torch.no_grad():
        latents = codec.encode(clean * 2 - 1)
        back = ((codec.decode(latents) + 1) / 2).clamp(0, 1)
        linear = ((codec.decode_linear(latents) + 1) / 2).clamp(0, 1)

    def psnr(guess: torch.Tensor) -> float:
        return float((-10 * (guess - clean).square().mean((1, 2, 3)).log10()).mean())

    assert psnr(back) > least
    assert psnr(back) > psnr(linear) + 1
    assert rates(judge_scenes(back, scenes))["right"] >= 0.98


def test_linear_part_is_a_projection(codec: ShapesCodec) -> None:
    latents = torch.randn(2, LATENT_CHANNELS, 3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(codec.encode(codec.decode_linear(latents)), latents, atol=1e-4)


def test_latents_are_scaled_for_diffusion(codec: ShapesCodec) -> None:
    generator = torch.Generator().manual_seed(82)
    pictures = torch.cat(
        [render(make_scenes(40, generator), style, generator) for style in ("realistic", "plain")]
    )
    spread = codec.encode(pictures * 2 - 1).var((0, 2, 3))
    assert 0.7 < spread.mean() < 1.4
    assert spread[0] == spread.max() and spread[0] > 4 * spread[-1]


def test_refitting_gives_the_same_encoder() -> None:
    generator = torch.Generator().manual_seed(83)
    pictures = render(make_scenes(12, generator), "realistic", generator)
    one, two = fit_encoder(pictures), fit_encoder(pictures.flip(0))
    assert torch.allclose(one["components"], two["components"], atol=1e-3)
    assert torch.allclose(one["scale"], two["scale"], rtol=1e-3)


def test_any_size_and_gradient(codec: ShapesCodec) -> None:
    latents = torch.randn(1, LATENT_CHANNELS, 7, 12, requires_grad=True)
    picture = codec.decode(latents)
    assert picture.shape == (1, 3, 56, 96)
    picture.square().mean().backward()
    assert latents.grad is not None and torch.isfinite(latents.grad).all()
    assert latents.grad.abs().sum() > 0


def test_preview_is_the_mean_colour(codec: ShapesCodec) -> None:
    latents = torch.randn(1, LATENT_CHANNELS, 4, 4, generator=torch.Generator().manual_seed(2))
    factors, bias = codec.preview_factors()
    preview = torch.einsum("bkhw,kc->bchw", latents, factors) + bias.view(1, 3, 1, 1)
    wanted = torch.nn.functional.avg_pool2d(codec.decode_linear(latents), 8)
    assert torch.allclose(preview, wanted, atol=1e-4)
