"""Looks that keep little: the same gradient from far fewer saved activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset
from realcompo.bench.true_models import fused_attention
from torch import Tensor

from . import pair, tiny
from .test_shared_work import _down, _freeu, steered

PAPER = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)
STEPS = 2


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_unet(1, levels=3)


@pytest.fixture(scope="module")
def other():
    return tiny.tiny_unet(2, levels=3)


@pytest.fixture(scope="module")
def control():
    return tiny.tiny_controlnet(6, levels=3)


def run(monkeypatch: Any, checkpointed: bool, first: Any, second: Any, **options: Any) -> Any:
    from realcompo.balancer.comfy.realcompo import differentiable_pass

    settings = options.pop("settings", PAPER)
    with monkeypatch.context() as patch:
        patch.setattr(differentiable_pass, "must_be_checkpointed", lambda *args: checkpointed)
        guider = pair.guider(first, second, settings, **options)
        latents = pair.run(guider, tiny.latent_noise(5), STEPS)
    return guider, latents


def same(monkeypatch: Any, first: Any, second: Any, **options: Any) -> None:
    plain, expected = run(monkeypatch, False, first, second, **options)
    guider, latents = run(monkeypatch, True, first, second, **options)
    assert (latents - expected).abs().max() < 1e-5 * expected.abs().max()
    moved = 0.0
    for a, b in zip(guider.trace.steps, plain.trace.steps, strict=True):
        torch.testing.assert_close(a.mix, b.mix, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.shares_realism, b.shares_realism)
        torch.testing.assert_close(a.shares_spatial, b.shares_spatial)
        moved = max(moved, float(a.mix.std()))
    assert moved > 1e-3
    for patcher in (first, second):
        network = patcher.model.diffusion_model
        assert not any("forward" in layer.__dict__ for layer in network.modules())


def test_two_models(monkeypatch, model, other) -> None:
    same(monkeypatch, model, other)


def test_a_controlnet_writes_to_what_blocks_remember(monkeypatch, model, other, control) -> None:
    same(monkeypatch, model, other, **steered(control))


def test_gligen(monkeypatch, model, other) -> None:
    boxes = [(tiny.pooled_phrase(2), 8, 8, 0, 0)]
    grounded = tiny.with_gligen(tiny.conditioning(3), tiny.tiny_gligen(other, 8), boxes)
    same(monkeypatch, model, other, spatial_positive=grounded)


@pytest.mark.parametrize("pack", [_freeu, _down])
def test_other_packs_writing_in_place(monkeypatch, model, other, pack) -> None:
    same(monkeypatch, pack(model), pack(other))


def test_one_checkpoint_for_both(monkeypatch, model, control) -> None:
    same(monkeypatch, model, model, **steered(control))


def test_lagged(monkeypatch, model, other) -> None:
    same(monkeypatch, model, other, settings=preset("paper", spatial_only=0.0, mode="lagged"))


def test_sdxl_blocks(monkeypatch) -> None:
    """Ten transformers a block; the map of each is counted once, though all but one run twice."""
    models = tiny.family_unet(1, "SDXL"), tiny.family_unet(2, "SDXL")
    positive, negative = (tiny.conditioning(n, dim=2048, pooled=1280) for n in (3, 4))
    same(monkeypatch, *models, positive=positive, negative=negative)


def kept_bytes(look: Any, weights: set[int]) -> int:
    """Distinct storages that autograd keeps for a backward, weights left out."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        look()
    return sum(kept.values())


def look_at(network: Any, saves: bool, side: int) -> int:
    from realcompo.balancer.attention.maps import RegionMaps, token_weights
    from realcompo.balancer.comfy.attention.families import family_of, find_sites
    from realcompo.balancer.comfy.attention.family import StopProbe, last_site
    from realcompo.balancer.comfy.autograd import checkpointing
    from realcompo.balancer.comfy.autograd.inference_weights import without_inference_tensors

    sites = find_sites(network)
    last = last_site(sites, 4)
    kept = 0
    # outside of inference mode tensors live as long as the graph needs them
    with torch.enable_grad(), without_inference_tensors([network]):
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        x = tiny.latent_noise(3, height=side, width=side).requires_grad_(True)
        maps = RegionMaps(token_weights([[2]], 77))
        options = family_of(network).reading_options({}, sites, 4, maps)

        def forward() -> None:
            saving = checkpointing.checkpointed(network, last if saves else None, False)
            with saving, pytest.raises(StopProbe):
                network(x, torch.ones(1), context=CONTEXT, transformer_options=options)

        kept = kept_bytes(forward, weights)
        (gradient,) = torch.autograd.grad(maps.mean()[..., :2].sum(), x)
        assert gradient.abs().max() > 0
    return kept


CONTEXT = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(2))


def test_what_is_kept() -> None:
    """SD1.5's topology; and the estimate that decides is what autograd really keeps."""
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.autograd import activation_memory

    with fused_attention():
        network = tiny.family_unet(1, "SD15", channels=64).model.diffusion_model
        plain, checkpointed = look_at(network, False, 32), look_at(network, True, 32)
    what = activation_memory.Pass((1, 4, 32, 32), torch.float32, 4)
    guess = activation_memory.kept_bytes(network, find_sites(network), what)
    print(*(f"{size / 2**20:.1f} MiB" for size in (plain, checkpointed, guess)))
    assert checkpointed < 0.35 * plain
    assert guess == pytest.approx(plain, rel=0.15)


@pytest.mark.parametrize(("free", "expected"), [(1 << 40, False), (1 << 10, True)])
def test_the_hosts_free_memory_decides(monkeypatch, model, free, expected) -> None:
    import comfy.model_management as management
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.autograd import activation_memory, checkpointing

    monkeypatch.setattr(management, "get_free_memory", lambda device: free)
    sites = find_sites(model.model.diffusion_model)
    network = model.model.diffusion_model
    what = activation_memory.Pass((1, 4, 16, 16), torch.float32, 4)
    device = torch.device("cpu")
    assert checkpointing.must_be_checkpointed(network, sites, what, device) is expected


def test_pages_of_models_that_had_their_turn_count_as_free(monkeypatch) -> None:
    from types import SimpleNamespace

    import comfy.model_management as management
    from realcompo.balancer.comfy.autograd.checkpointing import free_for_activations

    card, other = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(management, "get_free_memory", lambda device: 1000)

    def entry(dynamic: bool, used: bool, device: torch.device) -> Any:
        model = SimpleNamespace(is_dynamic=lambda: dynamic, loaded_size=lambda: 50)
        return SimpleNamespace(model=model, currently_used=used, device=device)

    loaded = [
        entry(True, False, card), entry(True, True, card), entry(False, False, card),
        entry(True, False, other), SimpleNamespace(model=None, currently_used=False, device=card),
    ]  # fmt: skip
    monkeypatch.setattr(management, "current_loaded_models", loaded)
    assert free_for_activations(card) == 1050.0
