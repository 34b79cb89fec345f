"""DenseDiffusion in the host: which rows, which steps, which models, and beside whom."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from realcompo.balancer.dense.modulation import DenseSettings
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import plain_settings, preset
from realcompo.tests import dense_reference as literal
from torch import Tensor

from . import pair, tiny

STRONG = DenseSettings(cross_strength=0.9, self_strength=0.6, end_fraction=1.0, power=0.0)
SIGMA = 4.0
WHOLE = Layout((Region("all", (0.0, 0.0, 1.0, 1.0), tokens=(2, 3)),))


def new_host() -> bool:
    import comfy.samplers

    return hasattr(comfy.samplers.CFGGuider, "outer_sample")


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit. Hosts of 2024 run a marked prompt apart from the others, which may turn the last
    bit of a matrix product."""
    return torch.equal(one, other) if new_host() else torch.allclose(one, other, 1e-3, 1e-3)


def dense(model, positive=None, settings=STRONG, layout=pair.LAYOUT):
    """The model and the prompt that the node gives; the layouts name tokens, so no CLIP."""
    from realcompo.balancer.comfy.dense.apply import apply_dense

    positive = tiny.conditioning(3) if positive is None else positive
    with torch.inference_mode():
        return apply_dense(model, None, positive, layout, settings)


def predictions(
    model: Any, lists: list[Any], x: Tensor, sigma: float = SIGMA, options: Any = None
) -> list[Tensor]:
    """The host's predictions of every conditioning in ``lists`` at one noise level."""
    import comfy.sampler_helpers
    import comfy.samplers
    from realcompo.balancer.comfy.host.compat import clone_model_options

    names = ["positive", "negative", *(f"more{n}" for n in range(len(lists) - 2))]
    conds = {
        name: comfy.sampler_helpers.convert_cond(cond)
        for name, cond in zip(names, lists, strict=False)
    }
    options = clone_model_options(model.model_options) if options is None else options
    with torch.inference_mode():
        if new_host():
            comfy.sampler_helpers.prepare_model_patcher(model, conds, options)
            model.pre_run()
        conds = comfy.samplers.process_conds(model.model, x, conds, x.device)
        out = comfy.samplers.calc_cond_batch(
            model.model, [conds[name] for name in names[: len(lists)]], x,
            torch.full((x.shape[0],), sigma), options,
        )  # fmt: skip
        if new_host():
            model.cleanup()
    return out


def literal_model(model: Any, kind: str, layout: Layout, settings: DenseSettings, rows=slice(None)):
    """``model`` with the printed equation in every block, by the host's own replacement patches."""
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.attention.map_rows import map_size
    from realcompo.balancer.layouts.grid import region_grid

    patched = model.clone()
    tokens = [list(region.tokens or ()) for region in layout.regions]
    for site in find_sites(model.model.diffusion_model):

        def attend(q, k, v, extra, site=site, which="attn1"):
            height, width = map_size(extra, q.shape[1], site.factor)
            masks = region_grid(layout, height, width).flatten(1)
            share = literal.area_share(masks)
            related = literal.pairs_of_positions(masks)
            amount = settings.self_strength
            if which == "attn2":
                related = literal.pairs_with_tokens(masks, tokens, 77)
                related = related.repeat(1, k.shape[1] // 77)
                amount = settings.cross_strength
            heads = extra["n_heads"]
            plain = literal.attention(q, k, v, heads, related, share, 0.0)
            about = heads, related, share, amount
            plain[rows] = literal.attention(q[rows], k[rows], v[rows], *about)
            return plain

        for which in ("attn1", "attn2"):
            if kind in (which, "both"):
                patch = getattr(patched, f"set_model_{which}_replace")
                patch(lambda *a, f=attend, w=which: f(*a, which=w), *site.key[:2],
                      transformer_index=site.key[2])  # fmt: skip
    return patched


@pytest.mark.parametrize("kind", ["attn1", "attn2", "both"])
def test_the_whole_model_is_the_equations(models, kind) -> None:
    zero = {"attn1": {"cross_strength": 0.0}, "attn2": {"self_strength": 0.0}, "both": {}}[kind]
    chosen = DenseSettings(**{"cross_strength": 0.9, "self_strength": 0.6, "end_fraction": 1.0,
                              "power": 0.0, **zero})  # fmt: skip
    x = SIGMA * tiny.latent_noise(5, height=12, width=18)
    model, positive = dense(models[0], settings=chosen)
    (got,) = predictions(model, [positive], x)
    (wanted,) = predictions(
        literal_model(models[0], kind, pair.LAYOUT, chosen), [tiny.conditioning(3)], x
    )
    (plain,) = predictions(models[0], [tiny.conditioning(3)], x)
    assert (wanted - plain).abs().max() > 1e-2 * plain.std()
    assert (got - wanted).abs().max() < 1e-4 * plain.std()


def test_only_the_nodes_entry_is_bent(models) -> None:
    """Chunks in any order; every other row is bit-identical to the unpatched model's."""
    x = SIGMA * tiny.latent_noise(5, batch=2)
    model, marked = dense(models[0])
    plain, other, negative = (tiny.conditioning(seed) for seed in (3, 9, 4))
    (alone,) = predictions(model, [marked], x)
    (unbent,) = predictions(models[0], [plain], x)
    assert (alone - unbent).abs().max() > 1e-2 * unbent.std()
    for lists, at in (([marked, negative], 0), ([negative, marked], 1),
                      ([negative, other, marked], 2)):  # fmt: skip
        bare = [plain if entry is marked else entry for entry in lists]
        bent, before = predictions(model, lists, x), predictions(models[0], bare, x)
        for number, (one, reference) in enumerate(zip(bent, before, strict=True)):
            if number == at:
                torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-4)
            else:
                assert same(one, reference)
    # two entries of one list: the mean of both, of which one is bent
    both = predictions(model, [marked + other, negative], x)
    reference = predictions(models[0], [plain + other, negative], x)
    assert same(both[1], reference[1])
    torch.testing.assert_close(2 * (both[0] - reference[0]), alone - unbent, rtol=1e-3, atol=1e-3)


def test_nothing_to_do_changes_no_bit(models, noise) -> None:
    plain = pair.run_alone(models[0], noise)
    for settings, layout in (
        (DenseSettings(cross_strength=0.0, self_strength=0.0), pair.LAYOUT),
        (DenseSettings(end_fraction=0.0), pair.LAYOUT),
        (DenseSettings(end_fraction=1.0), WHOLE),
    ):
        model, positive = dense(models[0], settings=settings, layout=layout)
        assert same(pair.run_alone(model, noise, positive=positive), plain)
    model, positive = dense(models[0])
    # the node's model without its prompt, and the prompt without its model
    assert torch.equal(pair.run_alone(model, noise), plain)
    assert same(pair.run_alone(models[0], noise, positive=positive), plain)
    assert models[0].model_options["transformer_options"] == {}
    assert not same(pair.run_alone(model, noise, positive=positive), plain)


def test_the_first_fifteen_of_fifty_steps(models, noise, monkeypatch) -> None:
    """By the model's own timestep: 981, 961 ... 701 are bent, 681 is not."""
    import comfy.samplers
    from realcompo.balancer.comfy.dense import patch as dense_patch

    calls: list[float] = []
    real = dense_patch.modulated_options

    def noted(network, options, rows):
        calls.append(float(options["sigmas"][0]))
        return real(network, options, rows)

    for name in ("entries", "older"):
        module = importlib.import_module(f"realcompo.balancer.comfy.dense.{name}")
        monkeypatch.setattr(module, "modulated_options", noted)
    model, positive = dense(models[0], settings=DenseSettings())
    sampling = model.get_model_object("model_sampling")
    sigmas = sampling.sigma(torch.arange(981, 0, -20))
    sigmas = torch.cat([sigmas, torch.zeros(1)])
    with torch.inference_mode():
        comfy.samplers.sample(
            model, noise, positive, tiny.conditioning(4), 4.0, model.load_device,
            comfy.samplers.sampler_object("euler"), sigmas, model.model_options,
            latent_image=torch.zeros_like(noise), disable_pbar=True, seed=1,
        )  # fmt: skip
    bent = [int(sampling.timestep(torch.tensor([sigma]))[0]) for sigma in calls]
    assert bent == list(range(981, 700, -20))


def test_time_of_other_schedules() -> None:
    import comfy.model_sampling as sampling
    from realcompo.balancer.comfy.dense.entries import time_of

    usual = sampling.ModelSamplingDiscrete()
    for t in (1, 250, 701, 999):
        sigma = float(usual.sigma(torch.tensor(float(t))))
        assert time_of(usual, sigma) == pytest.approx(t / 1000, abs=1e-6)
    continuous = sampling.ModelSamplingContinuousEDM()
    for part in (0.1, 0.3, 0.9):
        assert time_of(continuous, float(continuous.percent_to_sigma(part))) == pytest.approx(
            1 - part, abs=1e-4
        )
    flow = type("Flow", (sampling.ModelSamplingDiscreteFlow, sampling.CONST), {})()
    assert time_of(flow, 0.83) == 0.83


def test_batch_sizes_and_odd_sizes(models) -> None:
    model, positive = dense(models[0])
    for height, width in ((16, 16), (13, 21), (26, 10)):
        x = SIGMA * tiny.latent_noise(5, batch=3, height=height, width=width)
        batch = predictions(model, [positive, tiny.conditioning(4)], x)[0]
        for n in range(3):
            one = predictions(model, [positive, tiny.conditioning(4)], x[n : n + 1])[0]
            torch.testing.assert_close(batch[n : n + 1], one, rtol=1e-3, atol=1e-3)


def test_a_layout_for_every_latent(models) -> None:
    from realcompo.balancer.attention.regions import LayoutBatch
    from realcompo.balancer.comfy.dense.apply import with_plan
    from realcompo.balancer.dense.plan import DensePlan

    one = Layout((Region("alone", (0.25, 0.0, 0.75, 0.5), tokens=(4,)),))
    layouts = [pair.LAYOUT, one]
    tokens = [tuple(region.tokens for region in layout.regions) for layout in layouts]
    model, _ = dense(models[0])
    x = SIGMA * tiny.latent_noise(5, batch=2)
    plan = DensePlan(LayoutBatch.of(layouts, tokens), 77, STRONG)
    batch = predictions(model, [with_plan(tiny.conditioning(3), plan)], x)[0]
    for n, layout in enumerate(layouts):
        _, positive = dense(models[0], layout=layout)
        alone = predictions(model, [positive], x[n : n + 1])[0]
        torch.testing.assert_close(batch[n : n + 1], alone, rtol=1e-3, atol=1e-3)
    with pytest.raises(RealCompoError, match="2 layouts for 1 latents"):
        predictions(model, [with_plan(tiny.conditioning(3), plan)], x[:1])


def test_a_longer_negative_prompt(models) -> None:
    """The host repeats both prompts to the least common length, here six times 77."""
    x = SIGMA * tiny.latent_noise(5)
    model, positive = dense(models[0], tiny.conditioning(3, length=154))
    (alone,) = predictions(model, [positive], x)
    together, negative = predictions(model, [positive, tiny.conditioning(4, length=231)], x)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    plain = predictions(
        models[0], [tiny.conditioning(3, length=154), tiny.conditioning(4, length=231)], x
    )
    assert same(negative, plain[1])


def test_an_area_sees_its_part_of_the_layout(models) -> None:
    """An entry for the right half is bent as a picture of the right half would be."""
    if not new_host():
        model, positive = dense(models[0])
        positive[0][1]["area"] = (16, 8, 0, 8)
        with pytest.raises(RealCompoError, match="too old"):
            predictions(model, [positive], SIGMA * tiny.latent_noise(5))
        return
    x = SIGMA * tiny.latent_noise(5)
    model, positive = dense(models[0])
    positive[0][1]["area"] = (16, 8, 0, 8)
    out = predictions(model, [positive, tiny.conditioning(4)], x)
    half = Layout((Region("thing", (0.0, 0.25, 1.0, 1.0), tokens=pair.TOKENS[1]),))
    _, alone = dense(models[0], layout=half)
    (wanted,) = predictions(model, [alone], x[..., 8:])
    torch.testing.assert_close(out[0][..., 8:], wanted, rtol=1e-3, atol=1e-3)
    # the host's counterpart of the area for the negative is the positive's entry otherwise
    plain = tiny.conditioning(3)
    plain[0][1]["area"] = (16, 8, 0, 8)
    assert same(out[1], predictions(models[0], [plain, tiny.conditioning(4)], x)[1])


def adapter(query, key, value, extra):
    """As IPAdapter: plain attention, and something on top that knows only q."""
    import comfy.ldm.modules.attention as attention

    out = attention.optimized_attention(query, key, value, extra["n_heads"])
    return out + 0.3 * torch.tanh(query)


@pytest.mark.parametrize("order", ["before", "after"])
def test_another_packs_replacement_adds_up(models, order) -> None:
    x = SIGMA * tiny.latent_noise(5)
    chosen = DenseSettings(cross_strength=0.9, self_strength=0.0, end_fraction=1.0, power=0.0)
    start = models[0].clone()
    if order == "before":
        start.set_model_attn2_replace(adapter, "input", 1)
    model, positive = dense(start, settings=chosen)
    if order == "after":
        model.set_model_attn2_replace(adapter, "input", 1)
    got = predictions(model, [positive, tiny.conditioning(4)], x)
    reference = literal_model(models[0], "attn2", pair.LAYOUT, chosen, slice(None))
    inner = reference.model_options["transformer_options"]["patches_replace"]["attn2"]
    printed = inner[("input", 1, 0)]
    reference.set_model_attn2_replace(
        lambda q, k, v, e: printed(q, k, v, e) + 0.3 * torch.tanh(q), "input", 1, 0
    )
    (wanted,) = predictions(reference, [tiny.conditioning(3)], x)
    assert (got[0] - wanted).abs().max() < 1e-3 * wanted.std()
    adapted = models[0].clone()
    adapted.set_model_attn2_replace(adapter, "input", 1)
    plain = predictions(adapted, [tiny.conditioning(3), tiny.conditioning(4)], x)
    assert same(got[1], plain[1])


def test_a_pack_that_merges_positions_is_refused(models) -> None:
    model, positive = dense(models[0])

    def merge(n, context, value, extra):
        return n[:, ::2], context, value

    model.set_model_attn1_patch(merge)
    with pytest.raises(RealCompoError, match="token merging") as caught:
        predictions(model, [positive], SIGMA * tiny.latent_noise(5))
    assert caught.value.node == "Dense Attention (DenseDiffusion)"


def test_a_pack_that_cuts_tiles_is_refused(models) -> None:
    model, positive = dense(models[0])
    model.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"][..., :8, :], args["timestep"], **args["c"])
    )
    if new_host():
        with pytest.raises(RealCompoError, match="tiles"):
            predictions(model, [positive], SIGMA * tiny.latent_noise(5))


def test_company(models, noise) -> None:
    """ControlNet, GLIGEN and a weight patch beside it: finite, and not without effect."""
    import comfy.model_management

    control = tiny.with_control(tiny.conditioning(3), tiny.tiny_controlnet(6), 7)
    gligen = tiny.tiny_gligen(models[0], 7)
    boxes = tiny.with_gligen(tiny.conditioning(3), gligen, [(tiny.pooled_phrase(8), 8, 8, 0, 0)])
    lora = models[0].clone()
    lora.add_patches({tiny.VALUES: (0.5 * tiny.difference(lora),)})
    for start, text in ((models[0], control), (models[0], boxes), (lora, tiny.conditioning(3))):
        model, positive = dense(start, text)
        bent = pair.run_alone(model, noise, positive=positive, steps=3)
        assert torch.isfinite(bent).all()
        plain = pair.run_alone(start, noise, positive=text, steps=3)
        assert (bent - plain).abs().max() > 1e-2 * plain.std()
        assert torch.equal(bent, pair.run_alone(model, noise, positive=positive, steps=3))
    # the weight patch stays in the weights until the host unloads them
    comfy.model_management.unload_all_models()


def test_weight_hooks_on_the_entry(models, noise) -> None:
    if not new_host():
        pytest.skip("hooks came with the hosts of December 2024")
    delta = tiny.difference(models[0])
    hooked = tiny.with_weight_hook(tiny.conditioning(3), delta)
    x = SIGMA * tiny.latent_noise(5)
    model, positive = dense(models[0], hooked)
    (bent,) = predictions(model, [positive], x)
    patched = models[0].clone()
    patched.add_patches({tiny.VALUES: (0.5 * delta,)})
    import comfy.model_management

    comfy.model_management.load_models_gpu([patched])
    model, positive = dense(patched)
    (expected,) = predictions(model, [positive], x)
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(bent, expected, rtol=1e-4, atol=1e-3)
    model, positive = dense(models[0])
    (unhooked,) = predictions(model, [positive], x)
    assert (bent - unhooked).abs().max() > 1e-3 * bent.std()


def test_sdxl_and_v_prediction(noise) -> None:
    texts = tiny.conditioning(3, pooled=1280), tiny.conditioning(4, pooled=1280)
    sdxl = tiny.tiny_sdxl(1)
    model, positive = dense(sdxl, texts[0])
    bent = pair.run_alone(model, noise, positive=positive, negative=texts[1], steps=2)
    plain = pair.run_alone(sdxl, noise, positive=texts[0], negative=texts[1], steps=2)
    assert (bent - plain).abs().max() > 1e-2 * plain.std()
    v_model = tiny.tiny_unet(4, model_type="v")
    model, positive = dense(v_model)
    bent = pair.run_alone(model, noise, positive=positive, steps=2)
    assert (bent - pair.run_alone(v_model, noise, steps=2)).abs().max() > 1e-3 * bent.std()


def test_sd2_of_true_topology() -> None:
    """Width 1024 of text, attention in float32, v-prediction."""
    sd2, noise = tiny.family_unet(1, "SD20", "v"), tiny.latent_noise(5, height=16, width=24)
    texts = tiny.conditioning(3, dim=1024), tiny.conditioning(4, dim=1024)
    model, positive = dense(sd2, texts[0])
    bent = pair.run_alone(model, noise, positive=positive, negative=texts[1], steps=2)
    plain = pair.run_alone(sd2, noise, positive=texts[0], negative=texts[1], steps=2)
    assert torch.isfinite(bent).all()
    assert (bent - plain).abs().max() > 1e-3 * plain.std()


def test_twice_through_the_node_is_once(models, noise) -> None:
    model, positive = dense(models[0])
    again, latest = dense(model, positive)
    once = pair.run_alone(model, noise, positive=positive, steps=3)
    assert torch.equal(pair.run_alone(again, noise, positive=latest, steps=3), once)
    # the last settings count
    off = dense(model, positive, DenseSettings(cross_strength=0.0, self_strength=0.0))
    plain = pair.run_alone(models[0], noise, steps=3)
    assert same(pair.run_alone(off[0], noise, positive=off[1], steps=3), plain)


def test_a_transformer_is_refused() -> None:
    with pytest.raises(RealCompoError, match="no cross-attention blocks"):
        dense(tiny.tiny_flux(1))


# -- inside the pair --------------------------------------------------------------------------

BALANCE = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)


@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_either_branch_of_the_pair(models, noise, branch) -> None:
    which = 0 if branch == "realism" else 1
    model, positive = dense(models[which])
    chosen = list(models)
    chosen[which] = model
    texts = {"positive": tiny.conditioning(3), "spatial_positive": tiny.conditioning(3)}
    texts["positive" if branch == "realism" else "spatial_positive"] = positive
    alone = plain_settings(initial_mix=1.0 - which, region_prior=0.0, end=1.0, every=1)
    assert torch.equal(
        pair.run(pair.guider(*chosen, alone, **texts), noise),
        pair.run_alone(model, noise, positive=positive),
    )
    guider = pair.guider(*chosen, BALANCE, **texts)
    first = pair.run(guider, noise)
    assert guider.trace.skipped_gradients == 0
    assert torch.equal(first, pair.run(guider, noise))
    plain = pair.run(pair.guider(*models, BALANCE), noise)
    assert (first - plain).abs().max() > 1e-2 * plain.std()
    # one checkpoint in both places, bent in one of them
    shared = [models[which]] * 2
    shared[which] = model
    assert torch.equal(
        pair.run(pair.guider(*shared, alone, **texts), noise),
        pair.run_alone(model, noise, positive=positive),
    )


def probed(model: Any, positive: Any, x: Tensor, factor: int = 1) -> Any:
    import comfy.sampler_helpers
    import comfy.samplers
    from realcompo.balancer.comfy.host.compat import clone_model_options

    conds = {"positive": positive, "negative": tiny.conditioning(4)}
    conds = {k: comfy.sampler_helpers.convert_cond(v) for k, v in conds.items()}
    options = clone_model_options(model.model_options)
    with torch.inference_mode():
        if new_host():
            comfy.sampler_helpers.prepare_model_patcher(model, conds, options)
            model.pre_run()
        conds = comfy.samplers.process_conds(model.model, x, conds, x.device)
        result = pair.probed(model.model, conds["positive"][0], x, SIGMA, factor, options)
        if new_host():
            model.cleanup()
    return result


def test_the_probe_reads_the_map_that_is_used(models) -> None:
    """Shares of a bent model rise: its words look into their regions."""
    x = SIGMA * tiny.latent_noise(5)
    model, positive = dense(models[0])
    bent, plain = probed(model, positive, x), probed(models[0], tiny.conditioning(3), x)
    assert bool((bent.shares > plain.shares + 0.05).all())
    assert float(bent.remaining) < float(plain.remaining)


def test_the_probes_gradient_goes_through_the_modulation(models) -> None:
    x = SIGMA * tiny.latent_noise(5)
    model, positive = dense(models[0])
    look = probed(model, positive, x)
    assert bool(look.finite)
    direction = look.gradient / look.gradient.norm()
    up, down = (probed(model, positive, x + s * direction) for s in (2e-2, -2e-2))
    slope = (up.loss - down.loss) / 4e-2
    assert float(slope) == pytest.approx(float(look.gradient.norm()), rel=2e-2)
    adapted = model.clone()
    adapted.set_model_attn2_replace(adapter, "input", 1)
    look = probed(adapted, positive, x)
    assert bool(look.finite)


def test_attention_maps_show_what_the_modulated_model_uses(models) -> None:
    """Early on more of the words' attention is inside; behind the end the maps are the model's."""
    from realcompo.balancer.comfy.attention_report import read_attention

    def shares(model: Any, positive: Any, level: float) -> Tensor:
        with torch.inference_mode():
            reading = read_attention(
                model, positive, {"samples": torch.zeros(1, 4, 16, 16)}, pair.LAYOUT, pair.TOKENS,
                7, [level], "all", "layers",
            )  # fmt: skip
        return torch.stack([column.shares[0] for column in reading.columns[0]])

    model, positive = dense(models[0], settings=replace(STRONG, end_fraction=0.5))
    early = shares(model, positive, 0.05), shares(models[0], tiny.conditioning(3), 0.05)
    assert float((early[0] - early[1]).min()) > 0.05
    late = shares(model, positive, 0.95), shares(models[0], tiny.conditioning(3), 0.95)
    torch.testing.assert_close(*late, rtol=1e-4, atol=1e-5)
