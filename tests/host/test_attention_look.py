"""Reading a model's attention: right maps, nothing left behind, others' patches in force."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout
from realcompo.balancer.realcompo.settings import preset

from . import pair, tiny
from .attention_reference import recording, region_map

HEADS = 2
LAYOUT = Layout(pair.LAYOUT.regions, prompt="a prompt")


def read(model: Any, positive: Any = None, latent: Any = None, **changes: Any) -> Any:
    from realcompo.balancer.comfy.attention_report import read_attention

    values = {
        "tokens": pair.TOKENS, "seed": 3, "levels": (0.2, 0.7), "map_level": "auto",
        "grouping": "layers",
    }  # fmt: skip
    values.update(changes)
    positive = tiny.conditioning(3) if positive is None else positive
    latent = tiny.latent_noise(5, batch=2) if latent is None else latent
    with torch.inference_mode():
        return read_attention(model, positive, {"samples": latent}, LAYOUT, **values)


def inside(height: int, width: int) -> torch.Tensor:
    grid = torch.zeros(2, height, width)
    for plane, (x0, y0, x1, y1) in zip(grid, pair.BOXES, strict=True):
        plane[int(height * y0) : int(height * y1), int(width * x0) : int(width * x1)] = 1.0
    return grid


def test_maps_and_shares_are_those_of_the_layers_own_projections() -> None:
    model = tiny.tiny_unet(1)
    network = model.model.diffusion_model
    with recording(network) as seen:
        reading = read(model, latent=tiny.latent_noise(5, batch=2, height=16, width=24))
    assert [len(columns) for columns in reading.columns] == [3, 3]
    names = [column.name for column in reading.columns[0]]
    assert names == ["input 1.0", "output 2.0", "output 3.0"]
    for level, columns in enumerate(reading.columns):
        for column in columns:
            block, _, layer = column.name.rpartition(".")
            section, _, number = block.partition(" ")
            place = "middle_block.1" if section == "middle" else f"{section}_blocks.{number}.1"
            query, key = seen[f"{place}.transformer_blocks.{layer}.attn2"][level]
            height, width = column.maps.shape[-2:]
            for region, tokens in enumerate(pair.TOKENS):
                expected = region_map(query, key, HEADS, tokens, (height, width))
                torch.testing.assert_close(
                    column.maps[:, region].double(), expected, atol=1e-7, rtol=1e-4
                )
                mask = inside(height, width)[region].double()
                share = (expected * mask).sum(dim=(-2, -1)) / expected.sum(dim=(-2, -1))
                torch.testing.assert_close(
                    column.shares[:, region].double(), share, atol=1e-6, rtol=1e-4
                )


def test_the_traces_maps_are_those_of_the_layers_own_projections() -> None:
    """One balanced step: its second pass through each model is the probe."""
    models = tiny.tiny_unet(1), tiny.tiny_unet(2)
    guider = pair.guider(*models, preset("paper", spatial_only=0.0), cfg=1.0)
    with recording(models[0].model.diffusion_model) as seen:
        pair.run(guider, tiny.latent_noise(5), steps=1)
    (record,) = guider.trace.steps
    assert record.maps_realism is not None
    height, width = record.maps_realism.shape[-2:]
    total = torch.zeros(1, 2, height, width, dtype=torch.float64)
    layers = 0
    for passes in seen.values():
        query, key = passes[-1]
        if query.shape[1] != height * width or len(passes) < 2:
            continue
        layers += 1
        for region, tokens in enumerate(pair.TOKENS):
            total[:, region] += region_map(query, key, HEADS, tokens, (height, width))
    assert layers > 1
    torch.testing.assert_close(record.maps_realism.double(), total / layers, atol=1e-6, rtol=2e-3)


def test_reading_changes_nothing() -> None:
    """The model's options, weights and results are the same after a look; a look repeats."""
    model = tiny.tiny_unet(1)
    noise = tiny.latent_noise(5)
    before = pair.run_alone(model, noise, steps=2)
    options = copy.deepcopy(model.model_options)
    first = read(model)
    assert model.model_options == options
    assert not model.patches and not model.object_patches
    assert torch.equal(pair.run_alone(model, noise, steps=2), before)
    second = read(model)
    for one, other in zip(first.columns, second.columns, strict=True):
        assert all(torch.equal(a.maps, b.maps) for a, b in zip(one, other, strict=True))


def test_patches_of_others_are_called_and_the_prediction_is_the_models_own() -> None:
    import comfy.samplers

    model = tiny.tiny_unet(1)
    called: list[int] = []

    def other(query: Any, key: Any, value: Any, extra: Any) -> Any:
        called.append(query.shape[1])
        return query * 0.5

    patched = model.clone()
    patched.set_model_attn2_replace(other, "middle", 0)
    outputs: list[torch.Tensor] = []
    kept = comfy.samplers.calc_cond_batch

    def keep(*args: Any, **kwargs: Any) -> Any:
        out = kept(*args, **kwargs)
        outputs.append(out[0].clone())
        # the same question without our readers
        plain = {**args[4], "transformer_options": {**args[4]["transformer_options"]}}
        plain["transformer_options"]["patches_replace"] = {"attn2": {("middle", 0): other}}
        outputs.append(kept(*args[:4], plain)[0].clone())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.samplers, "calc_cond_batch", keep)
        read(patched, levels=(0.5,))
    assert len(called) == 2 and len(outputs) == 2
    assert torch.equal(outputs[0], outputs[1])


def test_sdxl_batches_of_any_shape_and_every_grouping() -> None:
    model = tiny.tiny_sdxl(1)
    positive = tiny.conditioning(3, pooled=1280)
    latent = tiny.latent_noise(5, batch=3, height=24, width=16)
    layers = read(model, positive, latent, map_level="all").columns[0]
    blocks = read(model, positive, latent, map_level="all", grouping="blocks").columns[0]
    (mean,) = read(model, positive, latent, map_level="all", grouping="mean").columns[0]
    assert len(layers) == 2 * len(blocks) and len(blocks) == 4
    assert {tuple(column.maps.shape) for column in layers} == {(3, 2, 12, 8)}
    everything = torch.stack([column.maps for column in layers]).mean(dim=0)
    torch.testing.assert_close(mean.maps, everything)
    torch.testing.assert_close(blocks[0].maps, (layers[0].maps + layers[1].maps) / 2)


def test_sites_of_different_sizes_are_laid_over_each_other() -> None:
    model = tiny.tiny_unet(1, levels=3)
    (mean,) = read(model, map_level="all", grouping="mean").columns[0]
    assert mean.maps.shape == (2, 2, 16, 16)
    coarse = read(model, map_level="4").columns[0]
    assert {tuple(column.maps.shape) for column in coarse} == {(2, 2, 4, 4)}


def test_an_area_is_read_in_its_place() -> None:
    model = tiny.tiny_unet(1)
    positive = tiny.conditioning(3)
    positive[0][1]["area"] = (8, 16, 8, 0)
    (mean,) = read(model, positive, map_level="1", grouping="mean").columns[0]
    assert mean.maps.shape[-2:] == (16, 16)
    assert float(mean.maps[..., :8, :].abs().max()) == 0.0
    assert float(mean.maps[..., 8:, :].min()) > 0.0


def test_noise_levels_are_the_schedules() -> None:
    model = tiny.tiny_unet(1)
    sampling = model.get_model_object("model_sampling")
    reading = read(model, levels=(0.0, 0.5, 1.0))
    assert reading.sigmas == pytest.approx(
        (
            float(sampling.sigma_max),
            float(sampling.percent_to_sigma(0.5)),
            float(sampling.sigma_min),
        )
    )


def test_a_stop_ends_the_look_and_the_next_one_works() -> None:
    import comfy.model_management as management

    model = tiny.tiny_unet(1)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        read(model)
    assert read(model).columns


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.utils

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: told.append((value, total))
    )
    # newer hosts leave out what follows too soon, and these looks are fast
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)
    read(tiny.tiny_unet(1), levels=(0.1, 0.5, 0.9))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(RealCompoError, match="no cross-attention maps to read"):
        read(tiny.tiny_flux(1), tiny.conditioning(3, dim=48, pooled=32))
    model = tiny.tiny_unet(1)
    with pytest.raises(RealCompoError, match="'map_level'"):
        read(model, map_level="8")
    with pytest.raises(RealCompoError, match="with 4 channels"):
        read(model, latent=torch.zeros(1, 16, 1, 16, 16))
    late = tiny.conditioning(3)
    late[0][1].update(start_percent=0.5, end_percent=1.0)
    with pytest.raises(RealCompoError, match="no conditioning is in force at noise level"):
        read(model, late, levels=(0.1,))
