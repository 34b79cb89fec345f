"""The fine stage over many scenes is what the nodes make of each one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("comfy.samplers")

from realcompo.balancer.layouts.layout import Layout  # noqa: E402
from realcompo.bench.alignment import fine  # noqa: E402
from realcompo.bench.pictures import CFG, Studio  # noqa: E402
from realcompo.shapes.pairs import held_out_pairs, pair_scenes  # noqa: E402
from realcompo.shapes.render import render  # noqa: E402

STEPS = 4


@pytest.fixture(scope="module")
def given():
    """Three scenes; the coarse pictures are drawn, the last one is blank."""
    studio = Studio("realistic")
    scenes = pair_scenes(held_out_pairs(), 3, 7)
    asked = studio.ask(scenes, 50)
    coarse = render(scenes, "realistic", torch.Generator().manual_seed(1))
    # the second has another scene's picture: what it shows is not what is asked for
    coarse[1] = coarse[0]
    coarse[2] = 0
    return studio, asked, coarse


def by_nodes(studio, one, picture, settings, start):
    """One scene through the nodes, from the picture on."""
    from realcompo.nodes.demo_vision import RealCompoShapesDetector
    from realcompo.nodes.dense_captions import RealCompoDenseCaptions
    from realcompo.nodes.realignment_fine import RealCompoReweightedAttention

    import nodes

    image = picture.movedim(0, -1)[None]
    labels, masks, _ = RealCompoShapesDetector().detect(image, 0)
    layout, text, _, _ = RealCompoDenseCaptions().build(
        [one.layout.prompt], ["rules"], [settings.missing], [0.001], masks, labels, image=[image],
        keep=[settings.keep],
    )  # fmt: skip
    about = settings.attention
    positive = [[studio.clip.encode_from_tokens(studio.clip.tokenize(text)), {}]]
    model, positive = RealCompoReweightedAttention().apply(
        studio.realism, studio.clip, positive, layout, settings.mode, about.end_fraction,
        about.self_strength, about.cross_strength, about.power, about.area,
        about.words.replace(" ", "_"), about.outside,
    )  # fmt: skip
    empty = studio.clip.encode_from_tokens(studio.clip.tokenize(""))
    latent, denoise, seed = torch.zeros(1, 16, 16, 16), 1.0, one.seed
    if start == fine.LATENT:
        seed += fine.FRESH
        latent, denoise = studio.vae.encode(image), settings.denoise
    (out,) = nodes.common_ksampler(
        model, seed, STEPS, CFG, "euler", "normal", positive, [[empty, {}]],
        {"samples": latent}, denoise=denoise,
    )  # fmt: skip
    return studio.vae.decode(out["samples"])[0].movedim(-1, 0).clamp(0, 1)


@pytest.mark.parametrize("start", [fine.NOISE, fine.LATENT])
@torch.inference_mode()
def test_a_batch_is_what_the_nodes_make_of_each_scene(given, start) -> None:
    studio, asked, coarse = given
    settings = fine.SHAPES_FINE[start]
    drawn = fine.refine(studio, asked, coarse, settings, start, steps=STEPS, batch=2)
    assert drawn.shape == coarse.shape
    for number, one in enumerate(asked):
        alone = by_nodes(studio, one, coarse[number], settings, start)
        assert float((alone - drawn[number]).abs().max()) < 1e-2
        assert float((coarse[number] - drawn[number]).abs().max()) > 0.05


@torch.inference_mode()
def test_what_cannot_be_captioned_stays_as_it_is(given) -> None:
    studio, asked, coarse = given
    settings = fine.FineSettings(missing="leave out")
    layouts = fine.layouts_of(asked, coarse, settings)
    assert isinstance(layouts[0], Layout) and layouts[2] is None
    drawn = fine.refine(studio, asked, coarse, settings, steps=1)
    assert torch.equal(drawn[2], coarse[2]) and not torch.equal(drawn[0], coarse[0])
    placed = fine.layouts_of(asked, coarse, fine.FineSettings())
    assert [len(layout.regions) for layout in placed if layout is not None] == [2, 2, 2]
