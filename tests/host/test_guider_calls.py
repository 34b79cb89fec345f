"""What a step costs: forwards, partial forwards, backwards, and the early stop's share of FLOPs."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.realcompo.settings import plain_settings, preset
from realcompo.bench.true_models import fused_attention

from . import pair, tiny
from .counting import counting

pytestmark = pytest.mark.older_hosts

STEPS = 6


def test_minimum_of_passes(models) -> None:
    """Two full forwards a step alone; four full, two partial and two backwards a balanced step."""
    settings = preset("paper", spatial_only=0.5)
    guider = pair.guider(*models, settings)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(guider, tiny.latent_noise(5), steps=STEPS)
    realism, spatial = counts.models["realism"], counts.models["spatial"]
    alone, balanced = 3, 3
    assert spatial.full_samples == 2 * alone + 2 * balanced
    assert realism.full_samples == 2 * balanced
    assert spatial.partial_samples == realism.partial_samples == balanced
    assert realism.stray_layers == spatial.stray_layers == 0
    assert counts.backward == 2 * balanced
    assert guider.trace.cost() | {"seconds": 0} == {
        "forwards": 2 * alone + 4 * balanced, "partial_forwards": 2 * balanced,
        "backwards": 2 * balanced, "shared_halves": 0, "seconds": 0,
    }  # fmt: skip


def test_fixed_and_unbalanced_steps_cost_no_probe(models) -> None:
    noise = tiny.latent_noise(5)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(pair.guider(*models, plain_settings(mode="fixed")), noise, steps=STEPS)
    assert counts.total("full_samples") == 4 * STEPS
    assert counts.total("partial") == counts.backward == 0
    half = preset("equilibrium", start=0.0, end=1.0, every=3, realism_only=0.3)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(pair.guider(*models, half), noise, steps=STEPS)
    assert counts.total("partial_samples") == counts.backward == 2 * 2


def test_a_mix_of_one_model_never_runs_the_other(models) -> None:
    settings = plain_settings(mode="fixed", initial_mix=1.0, region_prior=0.0)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(pair.guider(*models, settings), tiny.latent_noise(5), steps=STEPS)
    assert counts.models["spatial"].full == 0
    assert counts.models["realism"].full_samples == 2 * STEPS


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde"])
def test_samplers_that_look_twice_pay_for_one_probe_a_step(models, sampler) -> None:
    settings = preset("paper", spatial_only=0.0)
    with counting(realism=models[0], spatial=models[1]) as counts:
        pair.run(pair.guider(*models, settings), tiny.latent_noise(5), STEPS, sampler)
    assert counts.models["realism"].full_samples > 2 * STEPS
    assert counts.total("partial_samples") == 2 * STEPS


def test_one_graph_at_a_time(models, monkeypatch) -> None:
    """The first model's graph is gone before the second model's is made."""
    from realcompo.balancer.comfy.realcompo import probe

    alive: list[int] = []
    open_graphs = 0
    reading = probe.RegionMaps

    class Counted(reading):
        def __init__(self, weights) -> None:
            nonlocal open_graphs
            super().__init__(weights)
            open_graphs += 1
            alive.append(open_graphs)

        def __del__(self) -> None:
            nonlocal open_graphs
            open_graphs -= 1

    monkeypatch.setattr(probe, "RegionMaps", Counted)
    pair.run(pair.guider(*models, preset("paper", spatial_only=0.0)), tiny.latent_noise(5), 2)
    assert alive == [1] * 4


def test_partial_pass_is_at_most_half_of_sd15() -> None:
    """FLOPs of the probe's forward on the true SD1.5 shape at 64x64 latents, meta device."""
    from realcompo.balancer.attention.maps import RegionMaps, token_weights
    from realcompo.balancer.comfy.attention.families import family_of, find_sites
    from realcompo.balancer.comfy.attention.family import StopProbe, choose_level
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny.meta_sd15().diffusion_model
    sites = find_sites(model)
    factor = choose_level(sites, "auto")
    assert factor == 4
    keys = [site.key[:2] for site in sites if site.factor == factor]
    assert keys == [("input", 7), ("input", 8), ("output", 3), ("output", 4), ("output", 5)]
    latent = torch.empty(1, 4, 64, 64, device="meta")
    time, text = torch.empty(1, device="meta"), torch.empty(1, 77, 768, device="meta")
    with torch.no_grad(), fused_attention():
        with FlopCounterMode(display=False) as full:
            model(latent, time, context=text, transformer_options={})
        maps = RegionMaps(token_weights([[2]], 77).to("meta"))
        options = family_of(model).reading_options({}, sites, factor, maps)
        with FlopCounterMode(display=False) as part, pytest.raises(StopProbe):
            model(latent, time, context=text, transformer_options=options)
    assert maps.mean().shape == (1, 1, 16, 16)
    assert maps.sites == 5
    share = part.get_total_flops() / full.get_total_flops()
    print(f"partial {part.get_total_flops() / 1e9:.1f} of {full.get_total_flops() / 1e9:.1f} GFLOP")
    assert share <= 0.50
