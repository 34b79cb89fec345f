"""Re-weighted Attention: a weight for each phrase, before the softmax or after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.attention.regions import LayoutBatch
from realcompo.balancer.dense.modulation import DenseSettings
from realcompo.balancer.dense.plan import MODULATE, NONE, SCALE, DensePlan
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.tests import dense_reference as literal
from torch import Tensor

from . import pair, test_dense, tiny

STRONG, SIGMA = test_dense.STRONG, test_dense.SIGMA
WEIGHTS = (0.4, 1.1)
WEIGHTED = replace(
    pair.LAYOUT,
    regions=tuple(replace(r, weight=w) for r, w in zip(pair.LAYOUT.regions, WEIGHTS, strict=True)),
)
NODE = "Re-weighted Attention (after RealignDiff)"


def reweighted(model, mode=MODULATE, layout=WEIGHTED, positive=None, settings=STRONG):
    """The model and the prompt that the node gives; the layouts name tokens, so no CLIP."""
    from realcompo.balancer.comfy.dense.apply import apply_dense

    positive = tiny.conditioning(3) if positive is None else positive
    with torch.inference_mode():
        return apply_dense(model, None, positive, layout, settings, False, mode, NODE)


def token_factors(layout: Layout, length: int, others: float) -> Tensor:
    """w_k (length,), written from its definition."""
    factors = torch.full((length,), others)
    for position in range(length):
        mine = [r.weight for r in layout.regions if position % 77 in (r.tokens or ())]
        if mine:
            factors[position] = max(mine)
    return factors


def literal_model(model: Any, layout: Layout, mode: str, settings: DenseSettings = STRONG):
    """``model`` with the formulas in every block, as slow as they are printed."""
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.attention.map_rows import map_size
    from realcompo.balancer.layouts.grid import region_grid

    patched = model.clone()
    tokens = [list(region.tokens or ()) for region in layout.regions]
    for site in find_sites(model.model.diffusion_model):

        def attend(q, k, v, extra, site=site, which="attn1"):
            height, width = map_size(extra, q.shape[1], site.factor)
            masks = region_grid(layout, height, width).flatten(1)
            share, heads = settings.area * literal.area_share(masks), extra["n_heads"]
            related = literal.pairs_with_tokens(masks, tokens, 77).repeat(1, k.shape[1] // 77)
            if which == "attn1":
                related = literal.pairs_of_positions(masks)
                return literal.attention(q, k, v, heads, related, share, settings.self_strength)
            if mode == SCALE:
                maps = literal.probabilities(q, k, heads, related, share, 0.0)
                maps = maps * token_factors(layout, k.shape[1], 1.0)
                split = v.view(v.shape[0], v.shape[1], heads, -1).transpose(1, 2)
                return (maps @ split).transpose(1, 2).reshape(q.shape)
            others = 1.0 if settings.words == "push down" else 0.0
            amount = settings.cross_strength * token_factors(layout, k.shape[1], others)
            return literal.attention(q, k, v, heads, related, share, amount)

        for which in ("attn1", "attn2") if mode == MODULATE else ("attn2",):
            patch = getattr(patched, f"set_model_{which}_replace")
            patch(lambda *a, f=attend, w=which: f(*a, which=w), *site.key[:2],
                  transformer_index=site.key[2])  # fmt: skip
    return patched


def one(model: Any, positive: Any, x: Tensor, **more: Any) -> Tensor:
    return test_dense.predictions(model, [positive], x, **more)[0]


@pytest.mark.parametrize(
    ("mode", "change"),
    [(MODULATE, {}), (MODULATE, {"words": "neutral"}), (MODULATE, {"area": 0.0}), (SCALE, {})],
)  # fmt: skip
def test_the_whole_model_is_the_formulas(models, mode, change) -> None:
    settings = replace(STRONG, **change)
    x = SIGMA * tiny.latent_noise(5, height=12, width=18)
    model, positive = reweighted(models[0], mode, settings=settings)
    got = one(model, positive, x)
    wanted = one(literal_model(models[0], WEIGHTED, mode, settings), tiny.conditioning(3), x)
    plain = one(models[0], tiny.conditioning(3), x)
    assert (wanted - plain).abs().max() > 1e-2 * plain.std()
    assert (got - wanted).abs().max() < 1e-4 * plain.std()


def test_weights_of_one_are_dense_attention(models) -> None:
    x = SIGMA * tiny.latent_noise(5)
    for change in ({}, {"words": "neutral"}, {"outside": "background"}):
        settings = replace(STRONG, **change)
        model, positive = reweighted(models[0], layout=pair.LAYOUT, settings=settings)
        dense, marked = test_dense.dense(models[0], settings=settings)
        assert torch.equal(one(model, positive, x), one(dense, marked, x))
    # and Dense Attention does not look at them
    dense, marked = test_dense.dense(models[0], layout=WEIGHTED)
    assert torch.equal(one(dense, marked, x), one(*test_dense.dense(models[0]), x))
    model, positive = reweighted(models[0])
    assert not torch.equal(one(model, positive, x), one(dense, marked, x))


def test_scaling_by_one_changes_no_bit(models, noise) -> None:
    model, positive = reweighted(models[0], SCALE, pair.LAYOUT)
    plain = pair.run_alone(models[0], noise)
    assert test_dense.same(pair.run_alone(model, noise, positive=positive), plain)


def test_scaling_does_not_ask_where(models) -> None:
    """No regions in it: the same for any boxes."""
    x = SIGMA * tiny.latent_noise(5)
    elsewhere = replace(
        WEIGHTED, regions=tuple(replace(r, box=(0.0, 0.0, 0.1, 0.1)) for r in WEIGHTED.regions)
    )
    outs = [one(*reweighted(models[0], SCALE, layout), x) for layout in (WEIGHTED, elsewhere)]
    assert torch.equal(*outs)


def test_the_part_of_the_schedule(models) -> None:
    sampling = models[0].get_model_object("model_sampling")
    for mode in (MODULATE, SCALE):
        settings = replace(STRONG, end_fraction=0.3)
        model, positive = reweighted(models[0], mode, settings=settings)
        for part, bent in ((0.25, True), (0.35, False)):
            sigma = float(sampling.percent_to_sigma(part))
            x = sigma * tiny.latent_noise(5)
            got = one(model, positive, x, sigma=sigma)
            plain = one(models[0], tiny.conditioning(3), x, sigma=sigma)
            assert test_dense.same(got, plain) != bent


@pytest.mark.parametrize("mode", [MODULATE, SCALE])
def test_batches_prompts_and_the_negative(models, mode) -> None:
    model, positive = reweighted(models[0], mode)
    negative = tiny.conditioning(4, length=231)
    for height, width in ((16, 16), (13, 21)):
        x = SIGMA * tiny.latent_noise(5, batch=3, height=height, width=width)
        batch = test_dense.predictions(model, [positive, negative], x)
        plain = test_dense.predictions(models[0], [tiny.conditioning(3), negative], x)
        assert test_dense.same(batch[1], plain[1])
        assert (batch[0] - plain[0]).abs().max() > 1e-2 * plain[0].std()
        for n in range(3):
            alone = test_dense.predictions(model, [positive, negative], x[n : n + 1])[0]
            torch.testing.assert_close(batch[0][n : n + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", [MODULATE, SCALE])
def test_a_layout_for_every_latent(models, mode) -> None:
    from realcompo.balancer.comfy.dense.apply import with_plan

    single = Layout((Region("alone", (0.25, 0.0, 0.75, 0.5), tokens=(4,), weight=0.5),))
    layouts = [WEIGHTED, single]
    tokens = [tuple(region.tokens for region in layout.regions) for layout in layouts]
    model, _ = reweighted(models[0], mode)
    x = SIGMA * tiny.latent_noise(5, batch=2)
    plan = DensePlan(LayoutBatch.of(layouts, tokens), 77, STRONG, mode, NODE)
    batch = one(model, with_plan(tiny.conditioning(3), plan), x)
    for n, layout in enumerate(layouts):
        _, positive = reweighted(models[0], mode, layout)
        alone = one(model, positive, x[n : n + 1])
        torch.testing.assert_close(batch[n : n + 1], alone, rtol=1e-3, atol=1e-3)
    with pytest.raises(RealCompoError, match="2 layouts for 1 latents") as caught:
        one(model, with_plan(tiny.conditioning(3), plan), x[:1])
    assert caught.value.node == NODE


@pytest.mark.parametrize("mode", [MODULATE, SCALE])
def test_an_area_and_another_pack(models, mode) -> None:
    x = SIGMA * tiny.latent_noise(5)
    chosen = replace(STRONG, self_strength=0.0)
    start = models[0].clone()
    start.set_model_attn2_replace(test_dense.adapter, "input", 1)
    model, positive = reweighted(start, mode, settings=chosen)
    got = one(model, positive, x)
    reference = literal_model(models[0], WEIGHTED, mode, chosen)
    inner = reference.model_options["transformer_options"]["patches_replace"]["attn2"]
    printed = inner[("input", 1, 0)]
    reference.set_model_attn2_replace(
        lambda q, k, v, e: printed(q, k, v, e) + 0.3 * torch.tanh(q), "input", 1, 0
    )
    wanted = one(reference, tiny.conditioning(3), x)
    assert (got - wanted).abs().max() < 1e-3 * wanted.std()
    if test_dense.new_host():
        model, positive = reweighted(models[0], mode)
        positive[0][1]["area"] = (16, 8, 0, 8)
        out = test_dense.predictions(model, [positive, tiny.conditioning(4)], x)
        plain = tiny.conditioning(3)
        plain[0][1]["area"] = (16, 8, 0, 8)
        before = test_dense.predictions(models[0], [plain, tiny.conditioning(4)], x)
        assert test_dense.same(out[1], before[1])
        assert (out[0] - before[0])[..., 8:].abs().max() > 1e-2 * before[0].std()


@pytest.mark.parametrize("mode", [MODULATE, SCALE])
def test_company(models, noise, mode) -> None:
    """ControlNet, a weight patch, the pair: finite, repeatable, and not without effect."""
    import comfy.model_management

    control = tiny.with_control(tiny.conditioning(3), tiny.tiny_controlnet(6), 7)
    lora = models[0].clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
    weight = lora.model.state_dict()[key]
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    lora.add_patches({key: (0.5 * delta,)})
    for start, text in ((models[0], control), (lora, tiny.conditioning(3))):
        model, positive = reweighted(start, mode, positive=text)
        bent = pair.run_alone(model, noise, positive=positive, steps=3)
        plain = pair.run_alone(start, noise, positive=text, steps=3)
        assert torch.isfinite(bent).all()
        assert (bent - plain).abs().max() > 1e-2 * plain.std()
        assert torch.equal(bent, pair.run_alone(model, noise, positive=positive, steps=3))
    comfy.model_management.unload_all_models()
    model, positive = reweighted(models[0], mode)
    guider = pair.guider(model, models[1], test_dense.BALANCE, positive=positive,
                         spatial_positive=tiny.conditioning(3))  # fmt: skip
    first = pair.run(guider, noise)
    assert guider.trace.skipped_gradients == 0 and torch.isfinite(first).all()
    assert torch.equal(first, pair.run(guider, noise))


def test_maps_show_what_is_used(models) -> None:
    """Shares inside the regions go up with the weight; scaled maps no longer sum to one."""
    x = SIGMA * tiny.latent_noise(5)
    weak = replace(pair.LAYOUT, regions=tuple(replace(r, weight=0.2) for r in pair.LAYOUT.regions))
    shares = [
        test_dense.probed(*reweighted(models[0], layout=layout), x).shares
        for layout in (weak, pair.LAYOUT)
    ]
    assert bool((shares[1] > shares[0]).all())
    from realcompo.balancer.comfy.dense.patch import DensePatch, Modulation, Rows
    from realcompo.balancer.dense.plan import View

    plan = DensePlan(LayoutBatch.of(WEIGHTED, pair.TOKENS), 77, STRONG, SCALE, NODE)
    modulation = Modulation(plan, View((4, 4)), 1.0, 0.0)
    patch = DensePatch("attn2", 1, Rows(((slice(0, 1), modulation),), 1), None)
    q, k = torch.randn(1, 16, 8), torch.randn(1, 77, 8)
    maps = patch.probabilities(q, k, {"n_heads": 2})
    even = literal.probabilities(
        q, k, 2, torch.zeros(16, 77, dtype=torch.bool), torch.zeros(16), 0.0
    )
    torch.testing.assert_close(maps, even * token_factors(WEIGHTED, 77, 1.0))
    assert float((even.sum(-1) - 1).abs().max()) < 1e-5 < float((maps.sum(-1) - 1).abs().max())


def test_overlapping_regions_take_the_larger_weight_and_foreign_tokens_none() -> None:
    layout = Layout((Region("a", (0, 0, 1, 1), tokens=(2,), weight=0.5),
                     Region("b", (0, 0, 1, 1), tokens=(2, 3), weight=0.3)))  # fmt: skip
    regions = LayoutBatch.of(layout, [r.tokens for r in layout.regions])
    device = torch.device("cpu")
    for mode, words, others in ((MODULATE, "push down", 1.0), (MODULATE, "neutral", 0.0),
                                (SCALE, "neutral", 1.0), (NONE, "neutral", 0.0)):  # fmt: skip
        plan = DensePlan(regions, 77, replace(STRONG, words=words), mode)
        got = plan.words(80, device)
        wanted = torch.full((1, 80), others)
        wanted[0, 2], wanted[0, 3] = (1.0, 1.0) if mode == NONE else (0.5, 0.3)
        assert torch.equal(got, wanted)
        assert torch.equal(plan.words(154, device)[:, 77:], plan.words(77, device))


def node(**changes: Any) -> Any:
    from comfy.sd1_clip import SD1Tokenizer
    from realcompo.nodes.realignment_fine import RealCompoReweightedAttention

    from .test_dense_text import BOX, Clip

    layout = Layout((Region("a red star", BOX, weight=2.0), Region("a cat", BOX)),
                    "a red star and a cat")  # fmt: skip
    given = {
        "model": tiny.tiny_unet(1), "clip": Clip(SD1Tokenizer()), "positive": tiny.conditioning(3),
        "layout": layout, "mode": MODULATE, "fraction": 0.3, "self_weight": 0.3,
    }  # fmt: skip
    with torch.inference_mode():
        return RealCompoReweightedAttention().apply(**{**given, **changes})


def test_the_nodes_outputs() -> None:
    _, positive = node()
    plan = positive[0][1]["realcompo_dense"]
    assert plan.settings == DenseSettings() and plan.weighting == MODULATE and plan.node == NODE
    assert float(positive[0][0][0, 2, 2]) == 2.0, "the phrase's own second word"
    # Prompt-to-Prompt leaves the text as it is, and needs no text encoder
    _, positive = node(mode=SCALE, clip=None)
    assert torch.equal(positive[0][0], tiny.conditioning(3)[0][0])
    _, positive = node(
        unassigned="neutral", size_weight=0.5, power=2.0, cross_weight=0.7, fraction=0.6,
        outside="background", self_weight=1.0,
    )  # fmt: skip
    chosen = positive[0][1]["realcompo_dense"].settings
    assert chosen == DenseSettings(0.7, 1.0, 0.6, 2.0, 0.5, "background", "neutral")


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"model": None}, "model", "not a MODEL"), ({"mode": "louder"}, "mode", "unknown"),
        ({"layout": None}, "layout", "not a REALCOMPO_LAYOUT"),
        ({"layout": Layout((), "a cat")}, "layout", "no regions"),
        ({"clip": None}, "clip", "no text encoder"), ({"positive": []}, "positive", "empty"),
        ({"self_weight": 3.0}, "self_weight", "outside 0 to 2"),
        ({"cross_weight": -1.0}, "cross_weight", "outside"),
        ({"fraction": 2.0}, "fraction", "outside 0 to 1"),
        ({"size_weight": 2.0}, "size_weight", "outside"),
        ({"unassigned": "up"}, "unassigned", "unknown"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(changes, where, words) -> None:
    with pytest.raises(RealCompoError, match=words) as caught:
        node(**changes)
    assert (caught.value.node, caught.value.where) == (NODE, where)
    assert caught.value.__cause__ is None
    with pytest.raises(RealCompoError, match="no cross-attention blocks"):
        node(model=tiny.tiny_flux(1))
